"""Processes of this machine, named so that a reused pid is never mistaken for the old one."""

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_STAT_STATE, _STAT_START = 0, 19  # fields 3 and 22 of proc(5), counted behind the command


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process: its pid and its start in clock ticks since boot."""

    pid: int
    start: int

    def is_alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        fields = _stat(self.pid)
        return fields is not None and int(fields[_STAT_START]) == self.start and fields[0] != "Z"

    def resident_bytes(self) -> int | None:
        """Return its resident memory, or None when it cannot be read."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, IndexError, ValueError):
            return None
        return pages * os.sysconf("SC_PAGE_SIZE")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to exactly this process; gone is not an error."""
        with contextlib.suppress(ProcessLookupError), self._handle() as handle:
            signal.pidfd_send_signal(handle, number)

    def wait(self, at_most_s: float) -> bool:
        """Block until it ended, ``at_most_s`` seconds at most; return whether it did."""
        try:
            with self._handle() as handle:
                return bool(select.select([handle], [], [], at_most_s)[0])
        except ProcessLookupError:
            return True

    @contextlib.contextmanager
    def _handle(self) -> Iterator[int]:
        handle = os.pidfd_open(self.pid)
        try:
            if not self.is_alive():
                raise ProcessLookupError(self.pid)
            yield handle
        finally:
            os.close(handle)


def identify(pid: int) -> ProcessId | None:
    """Return the process that has this pid now, if any."""
    fields = _stat(pid)
    return None if fields is None else ProcessId(pid, int(fields[_STAT_START]))


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()
