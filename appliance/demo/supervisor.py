"""Children that are started, watched, started again, and in the end all gone.

This process is a subreaper: what a child leaves behind when it is killed (an engine, say) becomes a
child of ours, so nothing escapes. Only SIGKILL of the supervisor itself leaves something.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from appliance.errors import PeerUnreachableError
from appliance.kit.proc import identify

_PR_SET_CHILD_SUBREAPER = 36
_LOOK_S = 0.05
_RESTART_S = 0.3
_GRACE_S = 8.0


@dataclass(slots=True)
class _Child:
    name: str
    command: Sequence[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    wanted: bool = True
    restarts: int = 0
    start_after: float = field(default=0.0)


class Supervisor:
    """Use it as a block; when the block ends, so does everything that was started in it."""

    def __init__(self, logs: Path, *, alone: bool = True) -> None:
        """``alone``: all children of this process are supervised here, so none may outlive it."""
        self._logs = logs
        self._alone = alone
        self._children: dict[str, _Child] = {}
        self._lock = threading.RLock()
        self._ending = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def __enter__(self) -> Self:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._watcher.join()
        for child in reversed(list(self._children.values())):
            self._end(child)
        if self._alone:
            self._end_orphans()

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a child and keep it running."""
        child = _Child(name, command, self._logs / f"{name}.log")
        with self._lock:
            self._children[name] = child
            self._spawn(child)

    def stop(self, name: str) -> None:
        """End a child and leave it down."""
        with self._lock:
            child = self._children[name]
            child.wanted = False
        self._end(child)

    def resume(self, name: str) -> None:
        """Start a child again that was stopped."""
        with self._lock:
            child = self._children[name]
            child.wanted = True
            self._spawn(child)

    def kill(self, name: str) -> None:
        """Kill a child with SIGKILL; it is started again."""
        with self._lock:
            process = self._children[name].process
        if process is not None:
            process.kill()

    def pid(self, name: str) -> int:
        """Return a child's pid.

        Raises:
            PeerUnreachableError: it is not running at this moment.
        """
        with self._lock:
            process = self._children[name].process
            if process is None or process.poll() is not None:
                raise PeerUnreachableError(f"{name} is not running")
            return process.pid

    def restarts(self, name: str) -> int:
        """Return how often a child was started again."""
        return self._children[name].restarts

    def log(self, name: str) -> Path:
        """Return where a child's output goes."""
        return self._children[name].log

    def _spawn(self, child: _Child) -> None:
        with child.log.open("ab") as log:
            child.process = subprocess.Popen(
                child.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C is for the supervisor, which ends them in order
            )

    def _watch(self) -> None:
        while not self._ending.wait(_LOOK_S):
            with self._lock:
                for child in self._children.values():
                    self._look(child)

    def _look(self, child: _Child) -> None:
        if child.process is not None and child.process.poll() is not None:
            child.process = None
            child.start_after = time.monotonic() + _RESTART_S
        if child.process is None and child.wanted and time.monotonic() >= child.start_after:
            child.restarts += 1
            self._spawn(child)

    def _end(self, child: _Child) -> None:
        process = child.process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        child.process = None

    def _end_orphans(self) -> None:
        deadline = time.monotonic() + _GRACE_S
        while (left := list(_children_of_mine())) and time.monotonic() < deadline:
            for pid in left:
                found = identify(pid)
                if found is not None:
                    found.signal(signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            time.sleep(_LOOK_S)


def _children_of_mine() -> Iterator[int]:
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            yield from (int(pid) for pid in (task / "children").read_text().split())
