"""The stick road at a node: what MQTT would carry, as files; importing is replaying.

The same sealed bytes go up and the same handlers take what came down, so it does not matter which
road was first, in which order sticks come, or how often.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from appliance.bundle.format import courier
from appliance.bundle.format.courier import Letter, StickFullError
from appliance.bundle.take.receipts import ReceiptBook
from appliance.errors import ApplianceError, NotFoundError, ReplayError
from appliance.kit.clock import Clock
from appliance.kit.files import free_bytes
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Stream
from appliance.node import homeward
from appliance.node.fleet import FleetInbox
from appliance.node.identity import NodeIdentity
from appliance.sync.link import Receive
from appliance.sync.mqtt import Message
from appliance.sync.topics import parse_upward
from appliance.trust.envelope import Addressee
from appliance.trust.store import TrustStore

_SMALL_PACK = 64 << 10
"""Bytes; smaller files of batches are not made for the sake of a small stick."""

_ANSWERS = 256 << 10
"""Bytes that stay free for what the hub has to say: without them a full stick frees no outbox."""


class Voice(Protocol):
    """What a node says to its hub besides the log, and who takes what the hub says."""

    async def down(self) -> Mapping[str, Receive]:
        """Return who takes what comes down, by the kind of its topic."""

    async def up(self) -> Sequence[Message]:
        """Return what a new connection would be told: the report, outcomes, requests."""


@dataclass(slots=True)
class Exported:
    """What lies on the stick now. ``streams``: how many records of each; ``letters``: what else.

    ``why_not`` says why only receipts could be written.
    """

    node: str
    upto: int
    head: str
    streams: dict[str, int] = field(default_factory=dict)
    letters: list[str] = field(default_factory=list)
    written: int = 0
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of one file: ``taken``, ``old`` or ``refused``, and then the error if any."""

    file: str
    result: str
    error: dict[str, Any] | None = None

    def to_wire(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


class Alone:
    """The voice of a node whose controller does not run: it listens, and has no more to say."""

    def __init__(
        self, identity: NodeIdentity, ledger: Ledger, trust: TrustStore, clock: Clock,
        takers: Mapping[str, Callable[[bytes], object]],
    ) -> None:  # fmt: skip
        """``takers`` take what needs no director, by kind; each is called on a thread."""
        self._identity = identity
        self._ledger = ledger
        self._trust = trust
        self._clock = clock
        self._takers = takers

    async def down(self) -> Mapping[str, Receive]:
        """Return who takes what comes, but for commands: they want a controller."""
        down: dict[str, Receive] = {k: partial(_call, take) for k, take in self._takers.items()}
        director = self._trust.director()
        if director is None:
            return down
        me = self._identity.at(director.org, self._ledger.epoch)
        inbox = FleetInbox(me, self._trust, self._ledger, self._clock, lambda: None)
        return {**down, "desired": inbox.desired, "ack": inbox.ack}

    async def up(self) -> Sequence[Message]:
        """Return nothing: what runs is known to a controller alone."""
        return ()


async def _call(take: Callable[[bytes], object], data: bytes) -> None:
    await asyncio.to_thread(take, data)


class Carrier:
    """One node's end of the stick road."""

    def __init__(
        self, identity: NodeIdentity, ledger: Ledger, trust: TrustStore, receipts: ReceiptBook,
        clock: Clock, voice: Voice,
    ) -> None:  # fmt: skip
        self.identity = identity
        self._ledger = ledger
        self._trust = trust
        self._receipts = receipts
        self._clock = clock
        self._voice = voice

    async def export(self, medium: Path) -> Exported:
        """Write all that the hub has not acknowledged to a medium.

        What is there and equal stays; batches that were acknowledged since make room. A stick that
        is full keeps whole files of the oldest, so the next visit goes on from there.

        Raises:
            StickFullError: the oldest files that fit are on it, and it says what is left.
            NotFoundError, StateUnusableError: as ``courier.write``.
        """
        filling = _Filling(medium)
        made = await asyncio.to_thread(self._export_receipts, filling)
        if (me := self._me()) is None:
            made.why_not = "no bundle has named the organisation's director yet: receipts alone"
        else:
            letters = {}
            for message in await self._voice.up():
                found = parse_upward(message.topic)
                if found is not None and found.node == me.node and message.payload:
                    letters[courier.up_name(found.kind, found.name)] = message.payload
            await asyncio.to_thread(self._write, filling, me, letters, made)
        filling.check()
        made.written = filling.written
        return made

    def _export_receipts(self, filling: "_Filling") -> Exported:
        try:
            found = self._receipts.export(filling.medium, reserve=filling.reserve)
        except StickFullError as full:
            filling.note(full)
            return Exported(self.identity.node, 0, "")  # the caller says that it is full
        filling.written += found.written
        return Exported(found.node, found.upto, found.head)

    def _write(
        self, filling: "_Filling", me: Addressee, letters: Mapping[str, bytes], made: Exported
    ) -> None:
        medium = filling.medium
        filling.add(courier.up_folder(medium, me.node), letters)
        made.letters = sorted(letters)
        size = filling.pack_bytes()
        for stream in Stream:
            homeward.seal(self._ledger, stream, me, self.identity.key, self._clock.utc())
            folder, kept = courier.batches_folder(medium, me.node, stream), []
            is_whole = True
            for name, pack in homeward.packs(self._ledger, stream, size):
                kept.append(name)
                if len(kept) == 1:  # what was acknowledged makes room before anything is written
                    courier.sweep(medium, folder, me.db_epoch, kept, before=pack.first)
                is_whole = filling.add(folder, {name: pack.data}, fits=is_whole) and is_whole
                made.streams[stream] = made.streams.get(stream, 0) + pack.records
            if is_whole:
                courier.sweep(medium, folder, me.db_epoch, kept)

    def seal(self) -> None:
        """Sign all that waits, so that it can be carried; before a hub was named, nothing."""
        if (me := self._me()) is None:
            return
        for stream in Stream:
            homeward.seal(self._ledger, stream, me, self.identity.key, self._clock.utc())

    def _me(self) -> Addressee | None:
        director = self._trust.director()
        return None if director is None else self.identity.at(director.org, self._ledger.epoch)

    async def take(self, medium: Path) -> list[Taken]:
        """Take in what a medium carries for this node; what is refused keeps nothing else out.

        Raises:
            NotFoundError: it carries nothing for this node, or there is no such medium.
        """
        node = self.identity.node
        letters = await asyncio.to_thread(lambda: list(courier.downward(medium, node)))
        if not letters:
            raise NotFoundError(
                f"{medium} carries nothing for {node}",
                hint=f"appliance sync export {medium}, then at the hub: "
                f"appliance hub sync import {medium}",
            )
        down = await self._voice.down()
        return [await _take(letter, down.get(letter.kind)) for letter in letters]


class _Filling:
    """A stick while files are written to it, and what did not fit."""

    def __init__(self, medium: Path) -> None:
        courier.check_medium(medium)
        self.medium = medium
        self.reserve = min(_ANSWERS, free_bytes(medium) // 4)
        self.written = self._left = self._size = 0

    def pack_bytes(self) -> int:
        """Return how large a file of batches may be: a small stick takes small ones."""
        free, size = free_bytes(self.medium), courier.PACK_BYTES
        while size > _SMALL_PACK and size > free // 8:
            size //= 2  # few sizes, so that what is there stays as it is
        return size

    def add(self, folder: Path, files: Mapping[str, bytes], *, fits: bool = True) -> bool:
        """Write files for as long as they fit, or only count them; return whether all are there."""
        if not fits:
            self._left += len(files)
            self._size += sum(map(len, files.values()))
            return False
        try:
            self.written += courier.write(self.medium, folder, files, reserve=self.reserve)
        except StickFullError as full:
            self.note(full)
            return False
        return True

    def note(self, full: StickFullError) -> None:
        self.written += full.written
        self._left += full.left
        self._size += full.size

    def check(self) -> None:
        """Say what did not fit.

        Raises:
            StickFullError: something did not.
        """
        if self._left:
            full = StickFullError(self.medium, self.written, self._left, self._size)
            full.hint = (
                "carry it to the hub and back, then export again; or use another stick, "
                "or make room on it"
            )
            raise full


async def _take(letter: Letter, receive: Receive | None) -> Taken:
    file = letter.path.name
    try:
        if letter.error is not None:
            raise letter.error
        if receive is None:
            raise NotFoundError(
                f"{file}: nobody here takes it yet",
                hint="import a bundle that names the director; commands need a running controller",
            )
        is_new = await receive(letter.parts[0]) is not False
    except ReplayError as error:
        return Taken(file, "old", error.to_wire())
    except ApplianceError as error:
        return Taken(file, "refused", error.to_wire())
    return Taken(file, "taken" if is_new else "old")
