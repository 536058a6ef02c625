"""A gateway's spool as a real one leaves it, from a trace, with a journal of what must arrive."""

import contextlib
import datetime
import fcntl
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from appliance.errors import ApplianceError
from appliance.kit.clock import rfc3339
from tests.helpers.spools import USUAL_REQUEST, Journal, Request, digest, spool_line

_SYNC_S = 0.05
_CALL_S = 0.3
_ROTATE_S = 2.0
_ABANDONED = 50
"""One request in so many never ends: it counts as cut once its file is let go."""

_OPEN = 3


class Feeder(threading.Thread):
    """Writes requests of a trace to a spool until it is told to finish."""

    def __init__(
        self, folder: Path, node: str, trace: list[Request], journal: Journal, per_sync: int
    ) -> None:
        super().__init__(name="feeder", daemon=True)
        self.made = 0
        self.failure: BaseException | None = None
        self._folder, self._node, self._journal, self._per_sync = folder, node, journal, per_sync
        self._trace = itertools.cycle(trace)
        self._still = threading.Lock()
        self._finishing = threading.Event()
        self._file = -1
        self._source = ""
        self._since = 0.0
        self._open: deque[dict[str, Any]] = deque()
        self._abandoned: list[dict[str, Any]] = []
        self._unsure: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []

    def run(self) -> None:
        try:
            while not self._finishing.is_set():
                with self._still:
                    self._step()
                time.sleep(_SYNC_S)
            with self._still:
                self._let_go()
        except BaseException as error:
            self.failure = error
            raise

    def finish(self) -> None:
        """End all that is open, and let go of the file."""
        self._finishing.set()
        self.join()
        assert self.failure is None, self.failure

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Have it write nothing while the block runs."""
        with self._still:
            yield

    def give_up(self) -> None:
        """Lose the file and all that was not yet on the disk, while it is held still."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
        self._open.clear()
        self._abandoned.clear()
        self._unsure.clear()

    def _step(self) -> None:
        """Bring to the disk what was written a step ago, as a gateway does, then write more."""
        if self._file >= 0:
            self._sync()
        if self._file >= 0 and time.monotonic() - self._since > _ROTATE_S:
            self._let_go()
        if self._file < 0:
            self._begin_file()
        for _ in range(self._per_sync):
            self._begin(next(self._trace))
            while len(self._open) > _OPEN:
                self._end(self._open.popleft())

    def _begin_file(self) -> None:
        self._source = f"usage-{time.time_ns():020d}-{os.getpid()}.jsonl"
        hidden = self._folder / f".{self._source}"
        self._file = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        hidden.rename(self._folder / self._source)
        os.fsync(self._file)
        self._since = time.monotonic()

    def _begin(self, request: Request) -> None:
        self.made += 1
        name = f"{self._node}-{self.made}"
        tokens = {"prompt_tokens": request.prompt, "completion_tokens": request.completion}
        at = rfc3339(datetime.datetime.now(datetime.UTC))
        record = {**USUAL_REQUEST, **tokens, "id": name, "request_id": name, "at": at}
        self._tell(record, "try", [_ended(record), record])
        os.write(self._file, spool_line("begin", record))
        self._unsure.append((record, [_ended(record), record]))
        if self.made % _ABANDONED:
            self._open.append(record)
        else:
            self._abandoned.append(record)

    def _end(self, record: dict[str, Any]) -> None:
        os.write(self._file, spool_line("end", _ended(record)))
        self._unsure.append((record, [_ended(record)]))

    def _sync(self) -> None:
        """What was written until now must arrive, whatever comes: the disk has it."""
        os.fdatasync(self._file)
        for record, may_be in self._unsure:
            self._tell(record, "sure", may_be)
        self._unsure.clear()
        self._journal.flush()

    def _let_go(self) -> None:
        while self._open:
            self._end(self._open.popleft())
        self._unsure += [(record, [record]) for record in self._abandoned]
        self._abandoned.clear()
        self._sync()
        os.close(self._file)
        self._file = -1

    def _tell(self, record: dict[str, Any], phase: str, may_be: list[dict[str, Any]]) -> None:
        hashes = [digest({"at": r["at"], "kind": "request", "body": r}) for r in may_be]
        line = {"node": self._node, "stream": "usage", "source": self._source, "id": record["id"]}
        self._journal.line({**line, "phase": phase, "sha256": hashes})


def _ended(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "status": 200, "outcome": "ok", "duration_ms": 1.5}


class Callers(threading.Thread):
    """Asks the node for one API key after the other: each that it gave is in the audit stream."""

    def __init__(
        self, call: Callable[[dict[str, str]], object], node: str, journal: Journal
    ) -> None:
        super().__init__(name="callers", daemon=True)
        self.made = 0
        self._call, self._node, self._journal = call, node, journal
        self._finishing = threading.Event()

    def run(self) -> None:
        for number in itertools.count():
            if self._finishing.wait(_CALL_S):
                return
            name = f"key-{number}"
            self._tell(name, "try")
            with contextlib.suppress(ApplianceError):  # it was killed, or is not back yet
                self._call({"id": name, "tenant": name})
                self._tell(name, "sure")
                self.made += 1

    def finish(self) -> None:
        self._finishing.set()
        self.join()

    def _tell(self, name: str, phase: str) -> None:
        line = {"node": self._node, "stream": "audit", "source": "", "id": name}
        self._journal.line({**line, "phase": phase, "sha256": []})
