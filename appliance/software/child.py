"""One child process that ends with its parent, and the signals that the parent waits for.

The parent keeps its signals blocked and takes them one by one, so none can interrupt it between a
durable step and the next.
"""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

_PR_SET_PDEATHSIG = 1
_WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_libc = ctypes.CDLL(None)


class Signals:
    """What this process was told. Make one before any thread."""

    def __init__(self) -> None:
        self.told_to_end = False
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)

    def wait(self, at_most_s: float) -> bool:
        """Sleep until a child ended or a signal came; return whether we were told to end."""
        if not self.told_to_end:
            found = signal.sigtimedwait(_WATCHED, at_most_s)
            self.told_to_end = found is not None and found.si_signo != signal.SIGCHLD
        return self.told_to_end


class Child:
    """A process that is told to end when its parent dies, however that comes about."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], folder: str | None
    ) -> None:
        """Start it, in a folder; None: where we are.

        Raises:
            OSError: there is no such program.
        """
        parent = os.getpid()

        def tie() -> None:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != parent:  # it died before we could ask to be told
                os._exit(1)

        self.began = time.monotonic()
        self._process = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C is for the parent, which ends it in order
            preexec_fn=tie,  # noqa: PLW1509 - this process has one thread
        )

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll()

    def end(self, grace_s: float) -> None:
        """Have it end, by force when it takes too long; harmless when it has."""
        self._process.terminate()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
