"""What comes on the streams, many batches at a time: opened on threads, committed together.

OpenSSL, zstd and SQLite let go of Python's lock, so a few threads keep a machine busy. While one
group is committed the next is opened; groups are committed in the order in which they came.
"""

import asyncio
import hashlib
import logging
import os
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from appliance.core.ids import NodeId
from appliance.errors import (
    ApplianceError,
    MalformedError,
    NotFoundError,
    RefusedError,
    RevokedError,
)
from appliance.hub import heads, receipts, store
from appliance.hub.identity import HubIdentity
from appliance.hub.ingest import Parcel, ingest_all, parcel
from appliance.hub.store import Sender
from appliance.kit.clock import Clock, rfc3339
from appliance.kit.commit import Effect, GroupCommit
from appliance.ledger.streams import Stream
from appliance.sync.batch import Batch, open_batch
from appliance.sync.mqtt import Message
from appliance.sync.topics import NodeTopics
from appliance.trust import floor
from appliance.trust.envelope import Addressee, Slot, seal

log = logging.getLogger(__name__)
T = TypeVar("T")
U = TypeVar("U")

_ACK_LIFETIME = floor.SPAN
"""It names a batch by its hash, so an old one harms nobody; a stick, or a clock, may be late."""
_MOST_THREADS = 4
_AT_A_TIME = 25
"""Batches that a thread opens, or acknowledgements that it signs, before it asks for more."""
_MOST_TEXT = 16 << 20
"""Unpacked bytes that one transaction takes; a batch may unpack to 8 MiB."""
_MOST_REFUSALS = 5
"""So many refusals of one node in one group are noted; the rest only counted in the log."""
_MOST_REMEMBERED = 20_000
"""Envelopes that were taken in lately: nodes repeat them until they hear of it."""
_READ = frozenset({Stream.AUDIT, Stream.RECEIPTS})
"""Streams whose records the hub reads itself."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """An envelope on a node's stream, whichever road it came."""

    node: NodeId
    stream: str
    envelope: bytes
    road: str
    """The topic or the file, for who reads the refusals."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A batch whose signature is the node's; ``batch`` only if the hub reads its records.

    Without a ``parcel`` it is, byte for byte, one that was committed a while ago.
    """

    arrived: Arrived
    name: bytes
    parcel: Parcel | None
    batch: Batch | None


@dataclass(frozen=True, slots=True)
class Refused:
    """A batch that was not taken, and why."""

    arrived: Arrived
    error: RefusedError


@dataclass(slots=True)
class Taken:
    """What became of a group.

    ``heard`` are nodes to acknowledge, for a repetition too: its acknowledgement was lost.
    ``asking`` brought receipts, in which they may ask for the time.
    """

    heard: set[str] = field(default_factory=set)
    asking: set[str] = field(default_factory=set)
    names: list[bytes] = field(default_factory=list)
    """Of the envelopes that are committed now."""
    refused: list[Refused] = field(default_factory=list)
    known: list[Arrived] = field(default_factory=list)
    """What was committed before."""
    early: list[Arrived] = field(default_factory=list)
    """What waits for a batch before it, and has to come again."""


class Intake:
    """The way of batches into ``hub.db``, and of acknowledgements out of it."""

    def __init__(self, identity: HubIdentity, db: GroupCommit, clock: Clock) -> None:
        self._identity = identity
        self._db = db
        self._clock = clock
        self._lately: dict[bytes, None] = {}
        threads = min(_MOST_THREADS, max(2, os.cpu_count() or 1))
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="hub intake")

    async def take(self, arrived: Sequence[Arrived]) -> Taken:
        """Open and commit; what came twice is known, what came too early will come again.

        Raises:
            NoSpaceError, StateUnusableError: nothing of it was committed, nothing is acknowledged.
        """
        return await self.commit(await self.open(arrived))

    async def open(self, arrived: Sequence[Arrived]) -> list[Opened | Refused]:
        """Verify, unpack and read strictly, on threads; the order stays.

        Batches of nodes that nobody admitted are left out, and leave no trace but in the log.
        """
        parts = await asyncio.gather(*(self._call(self._open, part) for part in _parts(arrived)))
        return [found for part in parts for found in part]

    async def commit(self, found: Sequence[Opened | Refused]) -> Taken:
        """Commit what was opened, one transaction for all that is small enough together.

        Raises:
            NoSpaceError, StateUnusableError: what was not committed is not acknowledged.
        """
        taken = Taken()
        for group in _groups(found):
            try:
                done = [await self._write(partial(self._effect, group=group))]
            except (ApplianceError, asyncio.CancelledError):
                raise
            except Exception:  # one batch must not keep out those that came with it
                log.exception("a group of %d batches is taken in one by one", len(group))
                done = await self._one_by_one(group)
            for each in done:
                taken.heard |= each.heard
                taken.asking |= each.asking
                taken.refused += each.refused
                taken.known += each.known
                taken.early += each.early
                self._remember(each.names)
        return taken

    async def acknowledgements(self, names: Sequence[str]) -> list[Message]:
        """Return, signed, how far the streams of each node were committed; never further."""
        parts = (self._call(self._acknowledge, part) for part in _parts(names))
        return [message for part in await asyncio.gather(*parts) for message in part]

    def _open(self, arrived: Sequence[Arrived]) -> list[Opened | Refused]:
        keys = self._db.read(lambda db: store.senders(db, {a.node for a in arrived}))
        found: list[Opened | Refused] = []
        for each in arrived:
            try:
                found.append(self._opened(each, keys.get(each.node)))
            except RefusedError as error:
                log.warning("refused on %s (%s): %s", each.road, error.code, error)
                found.append(Refused(each, error))
            except ApplianceError as error:
                log.warning("%s: %s", each.road, error)
            except Exception:  # one node's message must not end the service of all the others
                log.exception("could not take in what came on %s", each.road)
        return found

    def _opened(self, arrived: Arrived, sender: Sender | None) -> Opened:
        """Return an arrived batch as one that may be committed.

        Raises:
            NotFoundError: nobody admitted the node.
            RevokedError: the node was revoked.
            MalformedError, SignatureError, ScopeError: which defence stopped it.
        """
        node, stream = arrived.node, arrived.stream
        if sender is None:
            raise NotFoundError(f"no node {node!r} was admitted", hint="appliance hub admit")
        if sender.revoked_at is not None:
            raise RevokedError(f"{node} was revoked at {sender.revoked_at}")
        name = _name(arrived, sender)
        if name in self._lately:
            return Opened(arrived, name, None, None)
        who = Addressee(self._identity.org, node, sender.key, "")
        batch = open_batch(arrived.envelope, {sender.key}, who, stream)
        is_read = batch.stream in _READ
        return Opened(arrived, name, parcel(node, batch), batch if is_read else None)

    def _remember(self, names: Iterable[bytes]) -> None:
        self._lately.update(dict.fromkeys(names))
        for name in list(self._lately)[: max(0, len(self._lately) - _MOST_REMEMBERED)]:
            del self._lately[name]

    async def _one_by_one(self, group: Sequence[Opened | Refused]) -> list[Taken]:
        done: list[Taken] = []
        for each in group:
            try:
                done.append(await self._write(partial(self._effect, group=[each])))
            except (ApplianceError, asyncio.CancelledError):
                raise
            except Exception:
                log.exception("could not take in what came on %s", each.arrived.road)
                error = MalformedError("its records cannot be kept as they are")
                refused = partial(self._effect, group=[Refused(each.arrived, error)])
                done.append(await self._write(refused))
        return done

    def _effect(self, db: sqlite3.Connection, group: Sequence[Opened | Refused]) -> Taken:
        at, taken = rfc3339(self._clock.utc()), Taken()
        taken.refused += [each for each in group if isinstance(each, Refused)]
        opened = [each for each in group if isinstance(each, Opened)]
        parcels = [(each, each.parcel) for each in opened if each.parcel is not None]
        done = ingest_all(db, [found for _, found in parcels], at)
        for place in done.new:
            self._read(db, parcels[place][0], at, taken)
        for place, error in done.refused.items():
            arrived = parcels[place][0].arrived
            taken.refused.append(Refused(arrived, error))
            heads.suspect(db, arrived.node, error.what)
        taken.names += [parcels[place][0].name for place in (*done.new, *done.known)]
        good = (found for place, (found, _) in enumerate(parcels) if place not in done.refused)
        again = (each for each in opened if each.parcel is None)
        taken.known += [parcels[place][0].arrived for place in done.known]
        told = {*done.new, *done.known, *done.refused}
        taken.early += [e.arrived for n, (e, _) in enumerate(parcels) if n not in told]
        taken.known += [each.arrived for each in opened if each.parcel is None]
        taken.heard |= {each.arrived.node for each in (*good, *again)}
        _note(db, taken.refused, at)
        return taken

    def _read(self, db: sqlite3.Connection, found: Opened, at: str, taken: Taken) -> None:
        batch, node = found.batch, found.arrived.node
        if batch is None:
            return
        if batch.stream == Stream.AUDIT:
            heads.extend(db, (node, batch.epoch), batch.first, batch.records, at)
        else:
            receipts.take_batch(db, store.node(db, node), self._identity.org, batch, at)
            taken.asking.add(node)

    def _acknowledge(self, names: Sequence[str]) -> list[Message]:
        now, messages = self._clock.utc(), []
        key = self._identity.sync
        for found in self._db.read(lambda db: store.committed(db, names)):
            to = Addressee(self._identity.org, found.node, found.key, found.db_epoch)
            body = {"streams": found.streams}
            envelope = seal(Slot.ACK, to, body, key, issued=now, lifetime=_ACK_LIFETIME)
            messages.append(Message(NodeTopics(NodeId(found.node)).ack, envelope, retained=True))
        return messages

    def _call(self, call: Callable[[Sequence[T]], U], part: Sequence[T]) -> Awaitable[U]:
        return asyncio.get_running_loop().run_in_executor(self._threads, call, part)

    async def _write(self, effect: Effect[T]) -> T:
        return await asyncio.wrap_future(self._db.submit(effect))


def _name(arrived: Arrived, sender: Sender) -> bytes:
    """Return what stands for these bytes from this node, by this key, on this stream. Pure."""
    where = f"{arrived.node}/{sender.key}/{arrived.stream}/".encode()
    return hashlib.sha256(where + arrived.envelope).digest()


def _groups(found: Sequence[Opened | Refused]) -> Iterator[list[Opened | Refused]]:
    group: list[Opened | Refused] = []
    size = 0
    for each in found:
        parcel = each.parcel if isinstance(each, Opened) else None
        length = 0 if parcel is None else len(parcel.text)
        if group and size + length > _MOST_TEXT:
            yield group
            group, size = [], 0
        group.append(each)
        size += length
    if group:
        yield group


def _note(db: sqlite3.Connection, refused: Sequence[Refused], at: str) -> None:
    counted: Counter[str] = Counter()
    for each in refused:
        node, error = each.arrived.node, each.error
        counted[node] += 1
        if counted[node] <= _MOST_REFUSALS:
            store.refuse(db, (at, node, each.arrived.road, error.code, error.what))


def _parts(values: Sequence[T]) -> Iterator[Sequence[T]]:
    return (values[n : n + _AT_A_TIME] for n in range(0, len(values), _AT_A_TIME))
