"""The ledger: ``record()`` carries out an effect and notes what the hub must hear, together."""

import secrets
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future  # noqa: TC003 - read by people and by pydoc
from pathlib import Path
from typing import TypeVar

from appliance.kit.commit import Effect, GroupCommit
from appliance.ledger import streams
from appliance.ledger.migrations import migrations
from appliance.ledger.streams import Fact

T = TypeVar("T")


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
            for fact in facts:
                streams.append(db, fact)
            return result

        return self._commit.submit(both)

    def note(self, *facts: Fact) -> "Future[None]":
        """Note facts that go with no effect in the ledger."""
        return self.record(lambda _: None, *facts)

    def read(self, query: Effect[T]) -> T:
        """Run a query on a read-only connection of this thread; sees all that is committed."""
        return self._commit.read(query)

    def close(self) -> None:
        """Commit what was handed in, then stop; idempotent."""
        self._commit.close()


def _epoch(db: sqlite3.Connection) -> str:
    db.execute(
        "INSERT INTO meta VALUES ('epoch', ?) ON CONFLICT DO NOTHING", (secrets.token_hex(8),)
    )
    return str(db.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()[0])
