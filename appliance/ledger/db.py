"""The ledger: ``record()`` carries out an effect and notes what the hub must hear, together."""

import secrets
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from appliance.kit.commit import Effect, GroupCommit
from appliance.ledger import streams
from appliance.ledger.migrations import migrations
from appliance.ledger.streams import Fact, Stream

T = TypeVar("T")
_MOST_NOTES = 500
Text = tuple[Stream, str]


@dataclass(slots=True)
class _Notes:
    """Facts that go with no effect, handed in one after the other, and who waits for them."""

    texts: list[tuple[list[Text], "Future[None]"]] = field(default_factory=list)

    def append(self, db: sqlite3.Connection) -> None:
        wanted = [texts for texts, done in self.texts if done.set_running_or_notify_cancel()]
        _append(db, [text for texts in wanted for text in texts])

    def over(self, committed: "Future[None]") -> None:
        error = committed.exception()
        for _, done in self.texts:
            if done.cancelled():
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)


class Ledger:
    """``node.db``. Make one in each controller, and close it.

    ``epoch`` was drawn at random when the file was made: a ledger that is lost, or restored from a
    backup, never continues the numbers of another.
    """

    def __init__(self, path: Path) -> None:
        """Open or make the file.

        Raises:
            NoSpaceError: the disk is full.
            StateUnusableError: the file cannot be opened or is damaged.
        """
        self._handing_in = threading.Lock()
        self._notes: _Notes | None = None
        self._commit = GroupCommit(path, migrations)
        self.epoch: str = self._commit.submit(_epoch).result()

    def on_commit(self, call: Callable[[], None]) -> None:
        """Have ``call`` called after each commit, on the writer's thread."""
        self._commit.on_commit = call

    def record(self, effect: Effect[T], *facts: Fact) -> "Future[T]":
        """Carry out ``effect`` and note ``facts`` in one transaction.

        Args:
            effect: Called once on the writer's thread, inside the transaction. It must be quick
                and must not commit.
            facts: What the hub must hear of, numbered in the order given.

        Returns:
            A future with what ``effect`` returned, done after the commit survives a power cut.
            It holds NoSpaceError when the disk is full, and what ``effect`` raised.
        """

        def both(db: sqlite3.Connection) -> T:
            result = effect(db)
            _append(db, [(fact.stream, streams.to_text(fact)) for fact in facts])
            return result

        with self._handing_in:
            self._notes = None  # what is noted from now on comes after this effect
            return self._commit.submit(both)

    def note(self, *facts: Fact) -> "Future[None]":
        """Note facts that go with no effect in the ledger.

        It is several times faster than ``record``: what is noted while a commit is under way shares
        not only the next commit, but its statements.
        """
        done: Future[None] = Future()
        try:
            texts = [(fact.stream, streams.to_text(fact)) for fact in facts]
        except (TypeError, ValueError) as error:
            done.set_exception(error)
            return done
        with self._handing_in:
            notes = self._notes
            if notes is not None and len(notes.texts) < _MOST_NOTES:
                notes.texts.append((texts, done))
                return done
            notes = self._notes = _Notes([(texts, done)])
            self._commit.submit(self._closing(notes)).add_done_callback(notes.over)
        return done

    def _closing(self, notes: _Notes) -> Effect[None]:
        def effect(db: sqlite3.Connection) -> None:
            with self._handing_in:
                if self._notes is notes:
                    self._notes = None
            notes.append(db)

        return effect

    def read(self, query: Effect[T]) -> T:
        """Run a query on a read-only connection of this thread; sees all that is committed."""
        return self._commit.read(query)

    def close(self) -> None:
        """Commit what was handed in, then stop; idempotent."""
        self._commit.close()


def _append(db: sqlite3.Connection, texts: list[Text]) -> None:
    for stream, found in groupby(sorted(texts, key=_stream_of), key=_stream_of):
        streams.append_texts(db, stream, [text for _, text in found])


def _stream_of(text: Text) -> Stream:
    return text[0]


def _epoch(db: sqlite3.Connection) -> str:
    db.execute(
        "INSERT INTO meta VALUES ('epoch', ?) ON CONFLICT DO NOTHING", (secrets.token_hex(8),)
    )
    return str(db.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()[0])
