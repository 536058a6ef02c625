"""The node's end of the log: drain the outbox, receive, survive reconnects.

A batch is sealed once, durably, and sent as the same bytes until the hub's own acknowledgement
frees it. No more is sealed than may be on its way: what waits behind that can still lose detail.
Streams take turns, so that what happens now does not wait for a year of metrics. What comes down is
handed to whoever owns it; a retained message is only a hint.
"""

import asyncio
import logging
import math
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from appliance.core import wire
from appliance.core.ids import NodeId
from appliance.errors import ApplianceError, EarlierLedgerError, RefusedError
from appliance.kit.backoff import full_jitter
from appliance.kit.clock import Clock, rfc3339
from appliance.kit.loop import Wake
from appliance.kit.sparing import Sparing
from appliance.ledger import streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Stream
from appliance.settings import SyncSettings
from appliance.sync import batch, mqtt
from appliance.sync.broker import TlsSource, without_certificate
from appliance.sync.mqtt import BrokerAddress, Connection, Message, Session
from appliance.sync.topics import NodeTopics, parse_downward
from appliance.trust.envelope import Addressee
from appliance.trust.keys import Signer

log = logging.getLogger(__name__)
_WINDOW = 32
"""Batches of one stream that are on their way at the same time: 2 MiB at most."""

_TURN = 4
"""Batches that a stream may seal before it is the next one's turn; they share a transaction."""

_GATHER_S = 0.05
"""How long news may wait for more of it, so that a busy moment makes few batches."""

_MOST_RESEND_S = 60.0

Receive = Callable[[bytes], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What the link does with what comes down, and what it says of this node.

    ``down`` takes what came, by the kind of its topic (``topics.Downward``). ``report`` signs a
    report as of now; ``report_version`` changes when it has news in it. ``greet`` returns what else
    is to be said whenever a connection is new; ``Link.say`` says it at any time. ``tls`` is asked
    for this node's certificate before each connection.
    """

    down: Mapping[str, Receive]
    report: Callable[[], Awaitable[bytes]]
    report_version: Callable[[], int]
    greet: Callable[[], Iterable[Message]] = tuple
    tls: TlsSource = without_certificate


@dataclass(slots=True)
class LinkState:
    """How the link is, for status; ``why`` says what is wrong when it is down."""

    connected: bool = False
    since: str = ""
    why: str = "not tried yet"


@dataclass(slots=True)
class _Sent:
    at: float
    again_after: float


@dataclass(slots=True)
class _Window:
    """When each batch was last handed to this connection, and which was sent again to ask.

    Of those that nobody acknowledges only the oldest is sent again and again: the others would not
    be taken in before it. Once it is answered, what was sent before it was sent last may be lost.
    """

    sent: dict[tuple[Stream, int], _Sent] = field(default_factory=dict)
    probes: dict[Stream, tuple[int, float]] = field(default_factory=dict)

    def answered(self, stream: Stream, alive: Collection[int]) -> float:
        """Return before when what was sent is to be sent anew: when the newest probe was sent."""
        first, at = self.probes.get(stream, (0, -math.inf))
        if first in alive:
            return -math.inf
        self.probes.pop(stream, None)
        return at


class Link:
    """One node's link to its hub, for as long as it runs."""

    def __init__(
        self, ledger: Ledger, endpoints: Endpoints, clock: Clock, settings: SyncSettings,
        *, heartbeat_s: float,
    ) -> None:  # fmt: skip
        """Make a link that is down.

        Raises:
            UsageError: ``settings.broker`` is not a broker's address.
        """
        self.state = LinkState()
        self.wake = Wake()
        self._broker = BrokerAddress.parse(settings.broker, proxy=settings.proxy, tls=endpoints.tls)
        self._connection: Connection | None = None
        self._ledger = ledger
        self._endpoints = endpoints
        self._clock = clock
        self._settings = settings
        self._heartbeat_s = heartbeat_s
        self._complaints = Sparing()
        self._look_every_s = min(settings.resend_s / 2, heartbeat_s)

    async def run(self, me: Addressee, key: Signer) -> None:
        """Keep the link up for ever; a broken one is tried again with full jitter."""
        delays = full_jitter(self._settings.first_retry_s, self._settings.most_retry_s)
        while True:
            try:
                await self._connected(me, key)
            except ApplianceError as error:  # also a full disk: this link waits, the node goes on
                self._note(connected=False, why=error.what)
            else:
                delays = full_jitter(self._settings.first_retry_s, self._settings.most_retry_s)
            await self._clock.sleep(next(delays))

    def say(self, topic: str, payload: bytes) -> None:
        """Publish something now if the link is up; what must be heard is in ``greet`` too."""
        if self._connection is not None:
            self._connection.publish(topic, payload)

    async def _connected(self, me: Addressee, key: Signer) -> None:
        topics = NodeTopics(NodeId(me.node))
        session = Session(
            client_id=me.node,
            subscriptions=(
                topics.desired,
                topics.ack,
                topics.time,
                topics.certificate,
                topics.commands,
            ),
            will=Message(topics.state, self._presence(online=False)),
        )
        async with mqtt.connect(self._broker, session) as connection:
            self._note(connected=True)
            connection.publish(topics.state, self._presence(online=True), retain=True)
            for message in self._endpoints.greet():
                connection.send(message)
            self._connection = connection
            tasks = [
                asyncio.create_task(self._receive(connection, topics), name="link receives"),
                asyncio.create_task(self._pump(connection, topics, me, key), name="link sends"),
                asyncio.create_task(connection.closed.wait(), name="link closed"),
            ]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                self._connection = None
                connection.publish(topics.state, self._presence(online=False), retain=True)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        self._note(connected=False, why=f"the connection was lost: {connection.why or 'by us'}")

    async def _receive(self, connection: Connection, topics: NodeTopics) -> None:
        while True:
            message = await connection.messages.get()
            found = parse_downward(message.topic, topics.node)
            handle = None if found is None else self._endpoints.down.get(found.kind)
            if handle is None or not message.payload:
                continue
            try:
                await handle(message.payload)
            except EarlierLedgerError as error:
                log.info("not for this ledger: %s", error)
            except RefusedError as error:
                if self._complaints.why(error.what, self._clock.monotonic()) is not None:
                    log.warning("refused from the hub (%s): %s", error.code, error)
            except ApplianceError as error:
                log.warning("could not act on what the hub sent: %s", error)
            except Exception:  # a broker repeats what it retains: it must not end us each time
                log.exception("could not take in what came on %s", message.topic)
            self.wake.set()

    async def _pump(
        self, connection: Connection, topics: NodeTopics, me: Addressee, key: Signer
    ) -> None:
        window = _Window()
        told: tuple[int, float] | None = None
        while True:
            backlog = False
            for stream in Stream:
                backlog |= await self._seal(stream, me, key)
                for envelope in self._due(stream, window):
                    connection.publish(topics.stream(stream), envelope)
            version, now = self._endpoints.report_version(), self._clock.monotonic()
            if told is None or told[0] != version or now - told[1] >= self._heartbeat_s:
                connection.publish(topics.reported, await self._endpoints.report(), retain=True)
                told = (version, now)
            if not backlog:
                await self.wake.wait(self._clock, self._look_every_s)
                await self._clock.sleep(_GATHER_S)

    async def _seal(self, stream: Stream, me: Addressee, key: Signer) -> bool:
        """Seal what waits, one turn's worth; return whether more could be sealed at once."""
        waits, room = self._ledger.read(
            lambda db: (
                streams.is_waiting(db, stream),
                _WINDOW - len(streams.unacknowledged_firsts(db, stream, _WINDOW)),
            )
        )
        if not waits or room <= 0:
            return False
        make = batch.maker(stream, me, key, rfc3339(self._clock.utc()))
        turn = min(room, _TURN)

        def seal(db: sqlite3.Connection) -> bool:
            for _ in range(turn):
                if streams.seal(db, stream, make, most=batch.MOST_RECORDS) is None:
                    return False
            return streams.is_waiting(db, stream)

        left = await asyncio.wrap_future(self._ledger.record(seal))
        return left and room > turn

    def _due(self, stream: Stream, window: _Window) -> Iterator[bytes]:
        """Yield the batches to send now: new ones, and those nobody acknowledged for a while."""
        now = self._clock.monotonic()
        oldest = self._ledger.read(lambda db: streams.unacknowledged_firsts(db, stream, _WINDOW))
        for gone in [k for k in window.sent if k[0] is stream and k[1] not in oldest]:
            del window.sent[gone]
        lost_before = window.answered(stream, oldest)
        for first in oldest:
            known = window.sent.get((stream, first))
            if known is None or known.at < lost_before:
                window.sent[stream, first] = _Sent(now, self._settings.resend_s)
            elif first == oldest[0] and now - known.at >= known.again_after:
                known.at = now
                known.again_after = min(known.again_after * 2, _MOST_RESEND_S)
                window.probes[stream] = (first, now)
            else:
                continue
            envelope = self._ledger.read(partial(streams.envelope, stream=stream, first=first))
            if envelope is not None:
                yield envelope

    def _presence(self, *, online: bool) -> bytes:
        at = rfc3339(self._clock.utc())
        return wire.dumps({"online": online, "session": self._ledger.epoch, "at": at})

    def _note(self, *, connected: bool, why: str = "") -> None:
        if connected != self.state.connected or why != self.state.why:
            log.info("link to the hub: %s", "up" if connected else f"down, {why}")
        if connected != self.state.connected or not self.state.since:
            self.state.since = rfc3339(self._clock.utc())
        self.state.connected = connected
        self.state.why = why
