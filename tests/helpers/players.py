"""Processes that a test starts, holds still, looks at and kills; and what each had in flight."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

_WAL_WRITE_LOCK = 120
"""The byte of the shared index that a writer locks for as long as its transaction is open.

Source: the WAL format's description at sqlite.org, "walformat.html", section 2.3.
"""

_GRACE_S = 20.0


class Player:
    """One process that can be killed and started again."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self._command, self._log = command, log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )

    def hold(self) -> bool:
        """Have it stand still; return False when it has ended."""
        assert self._process is not None
        os.kill(self.pid, signal.SIGSTOP)
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            self._process.returncode = os.waitstatus_to_exitcode(status)
        return os.WIFSTOPPED(status)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill it, if it ever began; return when it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def end(self) -> None:
        """Ask it to end, and wait until it has."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def tail(self) -> str:
        """Return the end of what it said."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-5:])


def writer_of(database: Path) -> int | None:
    """Return the process that has a transaction open in a database, if one has."""
    try:
        inode = database.with_name(f"{database.name}-shm").stat().st_ino
    except FileNotFoundError:
        return None
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if "->" in words or words[1] != "POSIX" or words[3] != "WRITE":
            continue
        first = int(words[6])
        last = first if words[7] == "EOF" else int(words[7])
        if int(words[5].split(":")[2]) == inode and first <= _WAL_WRITE_LOCK <= last:
            return int(words[4])
    return None


def number(database: Path, query: str) -> int:
    """Return the number that a query gives; -1 when the database cannot be asked now."""
    uri = f"file:{quote(str(database))}?mode=ro"
    with (
        contextlib.suppress(sqlite3.Error),
        closing(sqlite3.connect(uri, uri=True, timeout=0.2)) as db,
    ):
        return int(db.execute(query).fetchone()[0] or 0)
    return -1


def until(holds: Callable[[], object], what: str, at_most_s: float = 60.0) -> None:
    """Wait until ``holds()``."""
    deadline = time.monotonic() + at_most_s
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come about within {at_most_s} s")
        time.sleep(0.03)
