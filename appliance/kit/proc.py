"""Processes of this machine, named so that a reused pid is never mistaken for the old one."""

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Fields 3, 20 and 22 of proc(5), counted behind the command.
_STAT_STATE, _STAT_THREADS, _STAT_START = 0, 17, 19


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process: its pid and its start in clock ticks since boot."""

    pid: int
    start: int

    def is_alive(self) -> bool:
        """Whether this very process still runs.

        A zombie does not, unless other threads of it do: whoever ends only its first thread must
        not escape every signal by that.
        """
        fields = _stat(self.pid)
        if fields is None or int(fields[_STAT_START]) != self.start:
            return False
        return fields[_STAT_STATE] != "Z" or int(fields[_STAT_THREADS]) > 1

    def resident_bytes(self) -> int | None:
        """Return its resident memory, or None when it cannot be read or the process is gone."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, IndexError, ValueError):
            return None
        return pages * os.sysconf("SC_PAGE_SIZE") if self.is_alive() else None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to exactly this process; gone is not an error."""
        with contextlib.suppress(ProcessLookupError), self._handle() as handle:
            signal.pidfd_send_signal(handle, number)

    def wait(self, at_most_s: float) -> bool:
        """Block until it ended, ``at_most_s`` seconds at most; return whether it did."""
        try:
            with self._handle() as handle:
                ended = select.poll()  # not select(), which knows no descriptor above 1,023
                ended.register(handle, select.POLLIN)
                return bool(ended.poll(at_most_s * 1000))
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
        data = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The command is the process's own choice: it may hold brackets, and bytes that are no text.
    return data[data.rindex(b")") + 2 :].decode("ascii").split()
