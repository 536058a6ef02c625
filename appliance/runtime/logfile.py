"""Engines' logs: written by the engine itself, capped and rotated from outside."""

import os
import shutil
from pathlib import Path

CAP_BYTES = 1 << 20
_TAIL_BYTES = 8 << 10


def cap(log: Path, cap_bytes: int = CAP_BYTES) -> None:
    """Move a log that grew beyond its cap to ``.1``, replacing the older one.

    The engine has the file open for appending, so it is emptied, not replaced.
    """
    try:
        if log.stat().st_size <= cap_bytes:
            return
        shutil.copyfile(log, log.with_name(log.name + ".1"))
        os.truncate(log, 0)
    except FileNotFoundError:
        return


def tail(log: Path, lines: int) -> list[str]:
    """Return the last lines of a log, safe to print; none when there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return [_printable(line) for line in text.splitlines()[-lines:]]


def _printable(line: str) -> str:
    """Leave out what steers a terminal or turns the direction of the text around it."""
    return "".join(letter if letter.isprintable() else "?" for letter in line)
