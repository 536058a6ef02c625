"""Usage facts on disk before anybody counts them.

A request's begin and end go into the same file, which this process holds locked for as long as one
of its requests is open; so whoever reads a file that nobody holds knows that what is open was cut.
On a full disk facts wait in memory, a bounded number of them, and serving goes on.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import time
from collections import deque
from pathlib import Path

from appliance.core.usage import UsageRecord, begin_line, end_line
from appliance.kit.files import translated

log = logging.getLogger(__name__)
_ROTATE_BYTES = 1 << 20
_MOST_WAITING = 10_000
_SYNC_S = 0.05
_RETRY_S = 1.0


class _File:
    def __init__(self, folder: Path) -> None:
        name = f"usage-{time.time_ns():020d}-{os.getpid()}.jsonl"
        hidden = folder / f".{name}"
        with translated(f"making a usage spool in {folder}"):
            self._descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
                hidden.rename(folder / name)  # seen only once it is locked
            except BaseException:
                os.close(self._descriptor)
                hidden.unlink(missing_ok=True)
                raise
        self.open = 0
        self.size = 0

    def write(self, line: bytes) -> None:
        """Append a whole line or nothing."""
        written = os.write(self._descriptor, line)
        if written != len(line):
            os.ftruncate(self._descriptor, self.size)
            raise OSError("the disk took only a part of a line")
        self.size += len(line)

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


class UsageSpool:
    """Where the gateway leaves its facts for the controller."""

    def __init__(self, folder: Path) -> None:
        """Open the first file.

        Raises:
            StateUnusableError, NoSpaceError: the folder cannot be written.
        """
        self._folder = folder
        self._file = _File(folder)
        self._waiting: deque[tuple[_File, bytes]] = deque()
        self._syncing: asyncio.TimerHandle | None = None
        self._old: set[_File] = set()

    def begin(self, record: UsageRecord) -> "OpenUsage":
        """Note that a request was accepted."""
        if self._file.size > _ROTATE_BYTES:
            with contextlib.suppress(Exception):  # a full disk: the old file has to do
                fresh = _File(self._folder)
                self._old.add(self._file)
                self._file = fresh
                self._let_go()
        file = self._file
        file.open += 1
        self._put(file, begin_line(record))
        return OpenUsage(self, file)

    def close(self) -> None:
        """Let go of all files; requests that are open count as cut."""
        self._flush()
        if self._syncing is not None:
            self._syncing.cancel()
        files = [self._file, *self._old]
        _sync_quietly(files)
        for file in files:
            file.close()

    def end(self, file: _File, record: UsageRecord) -> None:
        """Note that a request is over."""
        self._put(file, end_line(record))
        file.open -= 1
        self._let_go()

    def _let_go(self) -> None:
        """Close the old files to which nothing more will be written."""
        if self._old:
            waited_for = {file for file, _ in self._waiting}
            for file in [f for f in self._old if f.open == 0 and f not in waited_for]:
                self._old.discard(file)
                _sync_quietly([file])
                file.close()

    def _put(self, file: _File, line: bytes) -> None:
        self._waiting.append((file, line))
        self._flush()
        if self._syncing is None:
            loop = asyncio.get_running_loop()
            self._syncing = loop.call_later(_SYNC_S, self._sync)

    def _flush(self) -> None:
        try:
            while self._waiting:
                file, line = self._waiting[0]
                file.write(line)
                self._waiting.popleft()
        except OSError as error:
            if len(self._waiting) == 1:
                log.error("usage facts wait in memory: %s", error)
            while len(self._waiting) > _MOST_WAITING:
                self._waiting.popleft()
                log.error("a usage fact is lost: the disk is full and so is the waiting list")

    def _sync(self) -> None:
        """Make facts survive a power cut, on a thread, for many requests at once."""
        self._syncing = None
        if self._waiting:
            self._flush()
            loop = asyncio.get_running_loop()
            self._syncing = loop.call_later(_RETRY_S, self._sync)
        files = [self._file, *self._old]
        with contextlib.suppress(RuntimeError):  # the loop is about to end
            asyncio.get_running_loop().run_in_executor(None, _sync_quietly, files)


class OpenUsage:
    """One request that is under way."""

    def __init__(self, spool: UsageSpool, file: _File) -> None:
        self._spool = spool
        self._file = file

    def end(self, record: UsageRecord) -> None:
        """Note how it ended; call it exactly once."""
        self._spool.end(self._file, record)


def _sync_quietly(files: list[_File]) -> None:
    try:
        for file in files:
            file.sync()
    except OSError as error:
        log.error("usage facts may not survive a power cut: %s", error)
