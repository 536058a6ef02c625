"""Nodes and a hub of the real ledger, batches and ingest, on a clock and a disk that a test holds.

What makes records writes down what it made in a journal, for ``witness/compare.py``. A node that is
killed goes on with its ledger as the disk had it in the middle of a transaction.
"""

import contextlib
import csv
import datetime
import fcntl
import hashlib
import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future  # noqa: TC003 - read by people and by pydoc
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, TypeVar, cast

from appliance.core.usage import UsageRecord
from appliance.errors import RefusedError, StateUnusableError
from appliance.hub import store
from appliance.hub.migrations import migrations
from appliance.kit.clock import rfc3339
from appliance.kit.commit import Effect, GroupCommit
from appliance.ledger import streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, SealedBatch, Stream
from appliance.node import spool
from appliance.node.fleet import FleetInbox
from appliance.sync import batch
from appliance.trust.documents import Director
from appliance.trust.envelope import Addressee, Slot, seal
from tests.helpers.signing import new_key
from tests.helpers.waiting import StillClock

T = TypeVar("T")

ORG = "acme"
WINDOW = 8
_DAY = datetime.timedelta(days=1)
_TORN = 3000


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a trace: seconds after its beginning, and tokens."""

    at: float
    prompt: int
    completion: int


def traces_folder() -> Path | None:
    """Return where the traces are: ``TRACES``, or beside the project; None when nowhere."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("TRACES", beside))
    return folder if list(folder.glob("AzureLLMInferenceTrace_*.csv")) else None


def read_traces(folder: Path) -> list[Request]:
    """Return both traces as one hour of requests, by time."""
    found = []
    for path in sorted(folder.glob("AzureLLMInferenceTrace_*.csv")):
        with path.open(newline="") as file:
            rows = [(_moment(r["TIMESTAMP"]), r) for r in csv.DictReader(file)]
        first = rows[0][0]
        found += [
            Request((at - first) % 3600, int(r["ContextTokens"]), int(r["GeneratedTokens"]))
            for at, r in rows
        ]
    return sorted(found, key=lambda request: request.at)


def _moment(text: str) -> float:
    whole, _, fraction = text.partition(".")
    at = datetime.datetime.fromisoformat(whole).replace(tzinfo=datetime.UTC)
    return at.timestamp() + float(f"0.{fraction or 0}")


def digest(content: dict[str, Any]) -> str:
    """Return the SHA-256 that a journal names a record by; the comparer counts it for itself."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Journal:
    """What who makes records says that it made, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    def numbered(self, node: str, stream: str, seq: int, sha256: str) -> None:
        self.line({"node": node, "stream": stream, "seq": seq, "sha256": sha256})

    def sure(self, node: str, source: str, name: str, sha256: str) -> None:
        line = {"node": node, "stream": "usage", "source": source, "id": name}
        self.line({**line, "sha256": [sha256], "phase": "sure"})

    def line(self, content: dict[str, Any]) -> None:
        self._file.write(json.dumps(content) + "\n")  # one call: threads share it

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Spool:
    """A gateway's spool as the controller finds it: one file that is locked, older ones finished.

    A request whose end is never written counts as cut once nobody holds its file.
    """

    def __init__(self, folder: Path, node: str, journal: Journal) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self._node, self._journal = node, journal
        self._descriptor: int | None = None
        self._open: list[dict[str, Any]] = []
        self._source = ""
        self._files = 0
        self._made = 0

    @property
    def open_requests(self) -> int:
        return len(self._open)

    def serve(self, requests: Iterable[Request], began: datetime.datetime) -> None:
        """Write down the requests of one tick; the last one stays open until the next."""
        if self._descriptor is None:
            self._begin_file()
        assert self._descriptor is not None
        ended, self._open = self._open, []
        lines = [self._end(record) for record in ended]
        for request in requests:
            record = self._record(request, began)
            lines.append(spool_line("begin", record))
            if self._open:
                lines.append(self._end(self._open.pop()))
            self._open.append(record)
        os.write(self._descriptor, b"".join(lines))

    def close(self) -> None:
        """Let go of the file, as a gateway that ends or is killed; what is open in it is cut."""
        for record in self._open:
            self._journal.sure(self._node, self._source, record["id"], _sha256(record))
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._open, self._descriptor = [], None

    def _begin_file(self) -> None:
        self._files += 1
        self._source = f"usage-{self._files:020d}-1.jsonl"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._descriptor = os.open(self.folder / self._source, flags, 0o640)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def _record(self, request: Request, began: datetime.datetime) -> dict[str, Any]:
        self._made += 1
        name = f"{self._node}-{self._made}"
        tokens = {"prompt_tokens": request.prompt, "completion_tokens": request.completion}
        return {**USUAL_REQUEST, **tokens, "id": name, "request_id": name, "at": rfc3339(began)}

    def _end(self, record: dict[str, Any]) -> bytes:
        ended = {**record, "status": 200, "outcome": "ok", "duration_ms": 1.5}
        self._journal.sure(self._node, self._source, record["id"], _sha256(ended))
        return spool_line("end", ended)


USUAL_REQUEST = UsageRecord(
    "", "", "", "/v1/chat/completions", "small", "key-1", stream=True
).to_wire()


def spool_line(phase: str, record: dict[str, Any]) -> bytes:
    """Return a line of a spool, as a gateway writes it."""
    return json.dumps({"v": 1, "phase": phase, "record": record}).encode() + b"\n"


def _sha256(record: dict[str, Any]) -> str:
    return digest({"at": record["at"], "kind": "request", "body": record})


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
        self.deaths = 0
        self._folder, self._journal = folder, journal
        self._sync = hub.sync.public
        self._path = folder / "0" / "node.db"
        self._path.parent.mkdir()
        self._open()

    def _open(self) -> None:
        self.ledger = MortalLedger(self._path)
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
        while len(found) < WINDOW:
            sealed = self.ledger.record(self.sealing(stream)).result()
            if sealed is None:
                break
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
        return [
            (str(stream), one.envelope)
            for stream in Stream
            for one in self.ledger.read(lambda db, s=stream: streams.unacknowledged(db, s, 10_000))  # type: ignore[misc]
        ]

    def in_flight(self) -> dict[str, int]:
        """Return what the hub has not acknowledged."""
        count = lambda table: self.ledger.read(  # noqa: E731
            lambda db: int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608
        )
        return {"batches": count("batches"), "records": count("outbox")}

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


def facts_of(tick: int, rng: random.Random, at: str) -> Iterator[Fact]:
    """Yield what a node notes in a tick apart from requests."""
    number = rng.getrandbits(48)
    if rng.random() < 0.2:
        yield Fact(Stream.AUDIT, "key-create", at, {"by": "a test", "id": number})
    if rng.random() < 0.02:
        body = {"seq": number, "part": 1, "of": 1, "text": "x" * rng.randrange(3000)}
        yield Fact(Stream.RECEIPTS, "receipt", at, body)
    if rng.random() < 0.2:
        yield Fact(Stream.EVENTS, "deployment", at, {"tick": tick, "number": number})
