"""One writer thread with group commit, and readers that never wait for it.

Effects that arrive while a commit is under way share the next one, so that an fsync is paid once
for all of them. Who waited for the last commit is likely to come again at once: if they were many,
the next one waits some milliseconds for as many; who is alone never waits. Each has a savepoint of
its own: one that raises takes back its own changes, not its neighbours'.
"""

import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from sqlite_utils import Migrations

from appliance.errors import ApplianceError, StateUnusableError
from appliance.kit import db as kit_db
from appliance.kit import files

log = logging.getLogger(__name__)
T = TypeVar("T")
Effect = Callable[[sqlite3.Connection], T]
_MOST_IN_ONE_COMMIT = 500
_WINDOW_S = 0.01
"""How long a commit waits for those who shared the last ones, and how long they are waited for.

Measured with one, 8 and 32 threads that each wait for every commit: see docs/reference/sync.md.
"""

_CROWD = 4
"""So many make it worth waiting: two or three that met by chance may have gone their own ways."""


@dataclass(frozen=True, slots=True)
class _Job(Generic[T]):
    effect: Callable[[sqlite3.Connection], T]
    done: "Future[T]"


@dataclass(slots=True)
class _Crowd:
    """How many share a commit at present."""

    last: int = 0
    before: int = 0
    at: float = 0.0

    def expected(self, now: float) -> int:
        """Return for how many to wait: for nobody after a pause, nor for a few."""
        expected = max(self.last, self.before)
        return expected if expected >= _CROWD and now - self.at < _WINDOW_S else 0

    def committed(self, count: int, now: float) -> None:
        """Note how many shared the newest commit."""
        self.before, self.last, self.at = self.last, count, now


class GroupCommit:
    """A SQLite file with one writer. ``on_commit`` is called on the writer's thread."""

    def __init__(self, path: Path, migrations: Migrations) -> None:
        """Open or make the file and bring it to this release's schema.

        Raises:
            NoSpaceError: the disk is full.
            StateUnusableError: the file cannot be opened or is damaged.
        """
        self.on_commit: Callable[[], None] = lambda: None
        self._path = path
        self._db = kit_db.open_database(path, migrations).conn
        with files.translated(f"making {path}"):
            files.fsync_folder(path.parent)
        self._readers = threading.local()
        self._open_readers: list[sqlite3.Connection] = []
        self._closed = False
        self._handing_in = threading.Lock()
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name=path.stem, daemon=True)
        self._writer.start()

    def submit(self, effect: Effect[T]) -> "Future[T]":
        """Carry out ``effect`` in the next transaction.

        Args:
            effect: Called once on the writer's thread. It must be quick and must not commit.

        Returns:
            A future with what ``effect`` returned, done after the commit survives a power cut.
            It holds NoSpaceError when the disk is full, StateUnusableError after ``close``, and
            what ``effect`` raised.
        """
        done: Future[T] = Future()
        with self._handing_in:
            if self._closed:
                done.set_exception(StateUnusableError(f"{self._path} is closed"))
            else:
                self._jobs.put(_Job(effect, done))
        return done

    def read(self, query: Effect[T]) -> T:
        """Run a query on a read-only connection of this thread; sees all that is committed."""
        reader: sqlite3.Connection | None = getattr(self._readers, "db", None)
        if reader is None:
            reader = self._readers.db = kit_db.open_reader(self._path)
            self._open_readers.append(reader)
        return query(reader)

    def close(self) -> None:
        """Commit what was handed in, then stop; idempotent."""
        with self._handing_in:  # nothing may come behind the end, where nobody would answer it
            if self._closed:
                return
            self._closed = True
            self._jobs.put(None)
        self._writer.join()
        for reader in self._open_readers:
            reader.close()
        self._db.close()

    def _write(self) -> None:
        ending = False
        crowd = _Crowd()
        while not ending:
            jobs = []
            for job in self._gather(crowd):
                if job is None:
                    ending = True
                    break
                if job.done.set_running_or_notify_cancel():  # else: nobody wants it any more
                    jobs.append(job)
            if jobs:
                self._commit(jobs)
            crowd.committed(len(jobs), time.monotonic())

    def _gather(self, crowd: _Crowd) -> Iterator[_Job[Any] | None]:
        yield self._jobs.get()
        now = time.monotonic()
        expected, until = crowd.expected(now), now + _WINDOW_S
        with contextlib.suppress(queue.Empty):
            for number in range(2, _MOST_IN_ONE_COMMIT + 1):
                if number <= expected and (left := until - time.monotonic()) > 0:
                    yield self._jobs.get(timeout=left)
                else:
                    yield self._jobs.get_nowait()

    def _commit(self, jobs: list[_Job[Any]]) -> None:
        results: list[tuple[_Job[Any], Any, Exception | None]] = []
        try:
            with kit_db.translated(self._path):
                self._db.execute("BEGIN IMMEDIATE")
                results = [(job, *self._run(job)) for job in jobs]
                self._db.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - handed to everyone who waits, none is lost
            if self._db.in_transaction:
                self._db.rollback()
            for job in jobs:
                job.done.set_exception(error)
            return
        for job, result, failure in results:
            if failure is None:
                job.done.set_result(result)
            else:
                job.done.set_exception(failure)
        try:
            self.on_commit()
        except Exception:
            log.exception("who waits for commits could not be told of one")

    def _run(self, job: _Job[Any]) -> tuple[Any, Exception | None]:
        self._db.execute("SAVEPOINT job")
        try:
            result = job.effect(self._db)
        except Exception as error:
            if _is_of_the_file(error):
                raise  # not of this effect: nobody's changes can be kept
            if not isinstance(error, ApplianceError):
                log.exception("an effect failed and was taken back")
            self._db.execute("ROLLBACK TO job")
            self._db.execute("RELEASE job")
            return None, error
        self._db.execute("RELEASE job")
        return result, None


def _is_of_the_file(error: Exception) -> bool:
    """Whether the disk or the file failed, and not a statement that makes no sense."""
    if not isinstance(error, sqlite3.OperationalError):
        return False
    return kit_db.error_name(error) not in ("", "SQLITE_ERROR")
