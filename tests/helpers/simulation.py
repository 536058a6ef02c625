"""Nodes and a hub of the real ledger, batches and ingest, on a clock and a disk that a test holds.

What makes records writes down what it made in a journal, for ``witness/compare.py``. A node that is
killed goes on with its ledger as the disk had it in the middle of a transaction.
"""

import contextlib
import datetime
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future  # noqa: TC003 - read by people and by pydoc
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, TypeVar, cast

from appliance.errors import RefusedError, StateUnusableError
from appliance.hub import store
from appliance.hub.migrations import migrations
from appliance.kit.clock import rfc3339
from appliance.kit.commit import Effect, GroupCommit
from appliance.ledger import budgets, streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, SealedBatch, Stream
from appliance.node import spool
from appliance.node.fleet import FleetInbox
from appliance.node.metrics import enforce
from appliance.sync import batch
from appliance.trust.documents import Director
from appliance.trust.envelope import Addressee, Slot, seal
from tests.helpers.signing import new_key
from tests.helpers.spools import Journal, Spool, digest
from tests.helpers.waiting import StillClock

T = TypeVar("T")

ORG = "acme"
WINDOW = 8
LIMITS = {Stream.REPORTED: 4 << 10, Stream.EVENTS: 8 << 10, Stream.METRICS: 16 << 10}
"""Budgets in bytes that some hours without a link use up."""

_DAY = datetime.timedelta(days=1)
_TORN = 3000
_TIGHT = 800


class MortalLedger(Ledger):
    """A ledger whose owner can be killed in its next transaction; ``image`` then has the disk.

    ``committed``: the kill comes after the commit, and before anybody hears of it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.image: Path | None = None
        self.committed = False
        self.tail = b""
        self.struck = False
        self._path = path

    def record(self, effect: Effect[T], *facts: Fact) -> "Future[T]":
        if self.image is None or self.struck:
            return super().record(effect, *facts)
        self.struck = True
        if self.committed:
            super().record(effect, *facts).result()
            return super().record(lambda _: self._die())

        def dying(db: sqlite3.Connection) -> T:
            effect(db)
            for fact in facts:
                streams.append(db, fact)
            return self._die()

        return super().record(dying)

    def _die(self) -> NoReturn:
        assert self.image is not None
        for path in self._path.parent.glob("node.db*"):
            if not path.name.endswith("-shm"):
                shutil.copyfile(path, self.image / path.name)
        if self.tail and (self.image / "node.db-wal").exists():
            with (self.image / "node.db-wal").open("ab") as file:
                file.write(self.tail)
        raise StateUnusableError("killed")


class SimNode:
    """One node: its spool, its ledger, and its end of the log."""

    def __init__(self, folder: Path, name: str, hub: "SimHub", journal: Journal) -> None:
        self.name = name
        self.key = new_key()
        self.clock = StillClock()
        self.spool = Spool(folder / "spool", name, journal)
        self.gave_way: Counter[tuple[str, str]] = Counter()
        self.deaths = 0
        self._folder, self._journal = folder, journal
        self._sync = hub.sync.public
        self._path = folder / "0" / "node.db"
        self._path.parent.mkdir()
        self._open()

    def _open(self) -> None:
        self.ledger = MortalLedger(self._path)
        self.ledger.record(partial(budgets.begin, limits=LIMITS)).result()
        self.me = Addressee(ORG, self.name, self.key.public, self.ledger.epoch)
        director = Director(ORG, 1, frozenset({"0a" * 32}), frozenset({self._sync}))
        trust = cast("Any", SimpleNamespace(director=lambda: director))
        self.inbox = FleetInbox(self.me, trust, self.ledger, self.clock, lambda: None)
        self._sent: dict[tuple[Stream, int], int] = {}

    @property
    def database(self) -> Path:
        return self._path

    def write(self, facts: Sequence[Fact]) -> None:
        """Note facts, and then write down under which numbers."""
        effect = lambda db: [streams.append(db, fact) for fact in facts]  # noqa: E731
        numbers = self.ledger.record(effect).result()
        for fact, seq in zip(facts, numbers, strict=True):
            content = {"at": fact.at, "kind": fact.kind, "body": fact.body}
            self._journal.numbered(self.name, fact.stream, seq, digest(content))

    def take_in(self) -> None:
        """Take in what the gateway spooled."""
        spool.take_in(self.spool.folder, self.ledger, self.clock)

    def squeeze(self) -> None:
        """Have every stream that may drop be over its budget, until the next start."""
        tight = dict.fromkeys(LIMITS, _TIGHT)
        self.ledger.record(partial(budgets.begin, limits=tight)).result()

    def keep_within_budgets(self) -> None:
        """Have what is over its budget give way."""
        for stream, kept in enforce(self.ledger).items():
            self.gave_way[stream, "coarsened"] += kept.coarsened
            self.gave_way[stream, "dropped"] += kept.dropped

    def due(self, tick: int, resend: int) -> list[tuple[str, bytes]]:
        """Seal what fits into the window, and return what is to be sent now."""
        found = []
        for stream in Stream:
            for one in self.window(stream):
                if tick - self._sent.get((stream, one.first), -resend) >= resend:
                    self._sent[stream, one.first] = tick
                    found.append((str(stream), one.envelope))
        return found

    def window(self, stream: Stream) -> list[SealedBatch]:
        """Return the batches on their way, after sealing more if there is room."""
        found = self.ledger.read(lambda db: streams.unacknowledged(db, stream, WINDOW))
        while len(found) < WINDOW and self.ledger.read(lambda db: streams.is_waiting(db, stream)):
            sealed = self.ledger.record(self.sealing(stream)).result()
            assert sealed is not None
            found.append(sealed)
        return found

    def sealing(self, stream: Stream) -> Callable[[sqlite3.Connection], SealedBatch | None]:
        make = batch.maker(stream, self.me, self.key, rfc3339(self.clock.utc()))
        return lambda db: streams.seal(db, stream, make, most=batch.MOST_RECORDS)

    async def hear(self, ack: bytes) -> str:
        """Take an acknowledgement; return the code if it was refused."""
        try:
            await self.inbox.ack(ack)
        except RefusedError as error:
            return error.code
        return ""

    def carried(self) -> list[tuple[str, bytes]]:
        """Return every batch that nobody acknowledged: what a stick takes along."""
        found = []
        for stream in Stream:
            batches = self.ledger.read(partial(streams.unacknowledged, stream=stream, most=10_000))
            found += [(str(stream), one.envelope) for one in batches]
        return found

    def in_flight(self) -> dict[str, int]:
        """Return what the hub has not acknowledged."""
        query = "SELECT (SELECT count(*) FROM batches), (SELECT count(*) FROM outbox)"
        batches, records = self.ledger.read(lambda db: tuple(db.execute(query).fetchone()))
        return {"batches": batches, "records": records}

    def die(self, doing: Callable[[], object], rng: random.Random) -> bool:
        """Be killed in the next transaction, and come back with what the disk had then.

        The log's end may be torn too, as by a page that was half written.

        Returns:
            Whether a transaction was under way; if not, it died between two.
        """
        self.deaths += 1
        image = self._folder / str(self.deaths)
        image.mkdir()
        self.ledger.committed = rng.random() < 0.3
        self.ledger.tail = rng.randbytes(rng.randrange(_TORN)) if rng.random() < 0.5 else b""
        self.ledger.image = image
        with contextlib.suppress(StateUnusableError):
            doing()
        struck = self.ledger.struck
        if not struck:
            with contextlib.suppress(StateUnusableError):
                self.ledger.record(lambda _: None).result()
        self.ledger.close()
        shutil.rmtree(self._path.parent)
        self._path = image / "node.db"
        self._open()
        return struck

    def close(self) -> None:
        self.spool.close()
        self.ledger.close()


@dataclass(frozen=True, slots=True)
class Sent:
    """A batch on its way: on whose topic of which stream."""

    node: str
    stream: str
    envelope: bytes


class SimHub:
    """The hub's database and what takes batches into it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.sync = new_key()
        self.database = folder / "hub.db"
        self.clock = StillClock()
        self._nodes: dict[str, SimNode] = {}
        self.db = GroupCommit(self.database, migrations)

    def admit(self, node: SimNode) -> None:
        self._nodes[node.name] = node
        effect = partial(store.admit, node=node.name, key=node.key.public, at="long ago")
        self.db.submit(effect).result()

    def take(self, batches: Iterable[Sent]) -> list[str]:
        """Commit what came; return the codes of what was refused."""
        refused, pending = [], []
        for sent in batches:
            try:
                effect = self.taking(sent)
            except RefusedError as error:
                refused.append(error.code)
                continue
            pending.append(self.db.submit(effect))
        for one in pending:
            failure = one.exception()
            if isinstance(failure, RefusedError):
                refused.append(failure.code)
            elif failure is not None:
                raise failure
        return refused

    def taking(self, sent: Sent) -> Callable[[sqlite3.Connection], bool]:
        """Return what commits one batch.

        Raises:
            RefusedError: it is not the node's, or damaged.
        """
        node = self._nodes[sent.node]
        sender = Addressee(ORG, sent.node, node.key.public, "")
        found = batch.open_batch(sent.envelope, {node.key.public}, sender, sent.stream)
        return partial(store.ingest, name=sent.node, batch=found, at=rfc3339(self.clock.utc()))

    def die(self, batches: Sequence[Sent]) -> None:
        """Be killed when the batches were written and not yet committed, and come back."""

        def dying(db: sqlite3.Connection) -> None:
            for sent in batches:
                with contextlib.suppress(RefusedError):
                    self.taking(sent)(db)
            raise StateUnusableError("killed")

        assert isinstance(self.db.submit(dying).exception(), StateUnusableError)
        self.restart()

    def restart(self) -> None:
        """Be killed between two transactions."""
        self.db.close()
        self.db = GroupCommit(self.database, migrations)

    def ack(self, node: SimNode) -> bytes:
        """Return how far the hub has committed a node's streams."""
        found = self.db.read(lambda db: store.positions(db, node.name))
        told = {
            p.stream: {"epoch": p.epoch, "upto": p.upto, "hash": p.hash}
            for p in found
            if p.epoch == node.ledger.epoch
        }
        now = self.clock.utc()
        return seal(Slot.ACK, node.me, {"streams": told}, self.sync, issued=now, lifetime=_DAY)

    def close(self) -> None:
        self.db.close()


def facts_of(began: datetime.datetime, seconds: int, rng: random.Random) -> Iterator[Fact]:
    """Yield what a node notes in a tick apart from requests; it measures itself each second."""
    at, number = rfc3339(began), rng.getrandbits(48)
    if rng.random() < 0.2:
        yield Fact(Stream.AUDIT, "key-create", at, {"by": "a test", "id": number})
    if rng.random() < 0.02:
        body = {"seq": number, "part": 1, "of": 1, "text": "x" * rng.randrange(3000)}
        yield Fact(Stream.RECEIPTS, "receipt", at, body)
    if rng.random() < 0.1:
        yield Fact(Stream.REPORTED, "state", at, {"deployments": [], "number": number})
    for _ in range(rng.randrange(3)):
        yield Fact(Stream.EVENTS, "deployment", at, {"name": "small", "number": number})
    for second in range(seconds):
        moment = rfc3339(began + datetime.timedelta(seconds=second))
        body = {"cpu": rng.randrange(1000) / 10, "memory_bytes": rng.randrange(1 << 34)}
        yield Fact(Stream.METRICS, "host", moment, body)
