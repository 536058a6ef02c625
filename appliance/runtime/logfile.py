"""Engines' logs: written by the engine itself, capped and rotated from outside."""

import contextlib
import os
from pathlib import Path

CAP_BYTES = 1 << 20
_MOST_KEPT_BYTES = 1 << 20
_TAIL_BYTES = 8 << 10


def cap(log: Path, cap_bytes: int = CAP_BYTES) -> None:
    """Empty a log that grew beyond its cap; its last part replaces ``.1``.

    The engine has the file open for appending, so it is emptied, not replaced. The last part is
    written when there is room again, so that a full disk gets some back. What does not work is
    left for the next time: no engine ends for its log.
    """
    with contextlib.suppress(OSError):
        size = log.stat().st_size
        if size <= cap_bytes:
            return
        with log.open("rb") as file:
            file.seek(max(0, size - _MOST_KEPT_BYTES))
            last = file.read(_MOST_KEPT_BYTES)
        os.truncate(log, 0)
        log.with_name(log.name + ".1").write_bytes(last)


def tail(log: Path, lines: int) -> list[str]:
    """Return the last lines of a log, safe to print; none when it cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            text = file.read(_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return []
    return last_lines(text, lines)


def last_lines(text: str, lines: int) -> list[str]:
    """Return the last lines of what an engine wrote, safe to print."""
    return [_printable(line) for line in text.splitlines()[-lines:]]


def _printable(line: str) -> str:
    """Leave out what steers a terminal or turns the direction of the text around it."""
    return "".join(letter if letter.isprintable() else "?" for letter in line)
