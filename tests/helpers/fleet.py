"""Thousands of nodes in one process: paho without threads, all sockets on one selector.

Each node has a key of its own and says what a node says: presence with a will, signed reports,
batches that were sealed by the real code and are sent again until the hub's acknowledgement frees
them. It connects again with the real node's jitter. What comes down is read; one acknowledgement
in ``verified`` is verified too, so that the hub and not the fleet is what is measured.
"""

import collections
import datetime
import heapq
import itertools
import resource
import selectors
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from appliance.core import wire
from appliance.core.ids import NodeId
from appliance.kit.backoff import full_jitter
from appliance.kit.clock import rfc3339
from appliance.ledger.streams import Position, Record, SealedBatch, Stream
from appliance.settings import NodeSettings, SyncSettings
from appliance.sync.batch import maker
from appliance.sync.mqtt import BrokerAddress
from appliance.sync.topics import NodeTopics
from appliance.trust import dsse
from appliance.trust.envelope import Addressee, Slot, accept, seal
from appliance.trust.keys import SigningKey
from tests.helpers.signing import new_key

ORG = "acme"
WINDOW = 8
_SESSION_S = 7 * 24 * 3600
_KEEPALIVE_S = 30
_LOOK_S = 0.2
_DAY = datetime.timedelta(days=1)


@dataclass(slots=True)
class SimNode:
    """One node: what it has to say, and what it heard."""

    name: str
    epoch: str = "e0"
    key: SigningKey = field(default_factory=new_key)
    outbox: collections.deque[SealedBatch] = field(default_factory=collections.deque)
    """Batches that were not acknowledged, oldest first."""
    written: int = 0
    """Records that were ever sealed."""
    generation: int | None = None
    """The newest desired generation that it heard since it is connected."""
    acked_batches: int = 0
    is_up: bool = False
    last: str = ""
    reports: int = 0
    sent: dict[int, tuple[float, float]] = field(default_factory=dict)
    """When each batch in the window was sent, and when it is sent again; by first number."""

    @property
    def me(self) -> Addressee:
        return Addressee(ORG, self.name, self.key.public, self.epoch)

    def write(self, bodies: Iterable[Any], at: str, stream: Stream = Stream.USAGE) -> None:
        """Seal one more batch of the stream."""
        first = self.written + 1
        records = [
            Record(seq, {"at": at, "kind": "request", "body": body})
            for seq, body in enumerate(bodies, first)
        ]
        batch = maker(stream, self.me, self.key, at)(Position(sealed_hash=self.last), records)
        assert batch.count == len(records)
        self.outbox.append(batch)
        self.last, self.written = batch.hash, batch.upto

    def acknowledge(self, upto: int) -> int:
        """Free what was committed; return how many batches that was."""
        freed = 0
        while self.outbox and self.outbox[0].upto <= upto:
            self.sent.pop(self.outbox.popleft().first, None)
            freed += 1
        self.acked_batches += freed
        return freed


class Fleet:
    """All the nodes, on one thread: call ``run`` until what is wanted holds."""

    def __init__(
        self, address: BrokerAddress, nodes: list[SimNode], sync_key: str, verified: int = 20
    ) -> None:
        """Make a fleet that is not connected.

        Args:
            address: The broker.
            nodes: They need not be admitted yet.
            sync_key: The hub's public key for acknowledgements.
            verified: Of so many acknowledgements one is verified; 1 means all.
        """
        self.nodes = nodes
        self.acked = 0
        """Batches that were acknowledged."""
        self.wrong = 0
        """Acknowledgements that did not verify."""
        self.may_send = True
        self.window = WINDOW
        """How many batches of a node may be under way."""
        self._address = address
        self._sync_key = sync_key
        self._verified = verified
        self._heard = itertools.count()
        self._settings = SyncSettings()
        self._selector = selectors.DefaultSelector()
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._clients: dict[str, Client] = {}
        self._waits: dict[str, Iterator[float]] = {n.name: self._jitter() for n in nodes}
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = min(hard, max(soft, len(nodes) + 1000))
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

    def start(self) -> None:
        """Have every node connect, spread over a second."""
        for place, node in enumerate(self.nodes):
            self._at(place / len(self.nodes), partial(self._connect, node))

    def run(self, until: Callable[[], bool], at_most_s: float) -> float:
        """Let the fleet live until something holds; return the seconds that took.

        Raises:
            AssertionError: it did not come about in time.
        """
        began = time.monotonic()
        while not until():
            now = time.monotonic()
            if now - began > at_most_s:
                raise AssertionError(f"the fleet is not there within {at_most_s} s")
            while self._due and self._due[0][0] <= now:
                heapq.heappop(self._due)[2]()
            wait = min(_LOOK_S, self._due[0][0] - now) if self._due else _LOOK_S
            for key, mask in self._selector.select(max(0.0, wait)):
                client: Client = key.data
                if mask & selectors.EVENT_READ:
                    client.loop_read()
                if mask & selectors.EVENT_WRITE and client.socket() is not None:
                    client.loop_write()
        return time.monotonic() - began

    def send(self, nodes: Iterable[SimNode] | None = None) -> None:
        """Have nodes send what is in their window."""
        for node in self.nodes if nodes is None else nodes:
            self._pump(node)

    def close(self) -> None:
        """Drop all connections."""
        self._due.clear()
        for client in list(self._clients.values()):
            client.on_disconnect = client.on_socket_close = None
            client.on_socket_unregister_write = None
            if (found := client.socket()) is not None:
                found.close()
        self._selector.close()

    @property
    def connected(self) -> int:
        return sum(node.is_up for node in self.nodes)

    @property
    def is_drained(self) -> bool:
        return not any(node.outbox for node in self.nodes)

    def has_come_to(self, batches: int) -> bool:
        """Whether so many batches were acknowledged, or all."""
        return self.acked >= batches or self.is_drained

    def _jitter(self) -> Iterator[float]:
        return full_jitter(self._settings.first_retry_s, self._settings.most_retry_s)

    def _at(self, in_s: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time.monotonic() + in_s, next(self._order), call))

    def _connect(self, node: SimNode) -> None:
        topics = NodeTopics(NodeId(node.name))
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=node.name,
            userdata=node,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
        )
        client.will_set(topics.state, _presence(node, online=False), qos=1, retain=True)
        client.on_socket_open = self._opened
        client.on_socket_close = self._closed
        client.on_socket_register_write = self._wants_to_write
        client.on_socket_unregister_write = self._has_written
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = _SESSION_S
        try:
            client.connect(
                self._address.host,
                self._address.port,
                keepalive=_KEEPALIVE_S,
                clean_start=False,
                properties=properties,
            )
        except OSError:
            self._at(next(self._waits[node.name]), lambda: self._connect(node))
            return
        self._clients[node.name] = client
        self._at(_KEEPALIVE_S / 3, lambda: self._keep(client))

    def _keep(self, client: Client) -> None:
        if client.socket() is not None:
            client.loop_misc()
            self._at(_KEEPALIVE_S / 3, lambda: self._keep(client))

    def _opened(self, client: Client, _: SimNode, found: Any) -> None:
        self._selector.register(found, selectors.EVENT_READ, client)

    def _closed(self, _c: Client, _n: SimNode, found: Any) -> None:
        self._selector.unregister(found)

    def _wants_to_write(self, client: Client, _: SimNode, found: Any) -> None:
        self._selector.modify(found, selectors.EVENT_READ | selectors.EVENT_WRITE, client)

    def _has_written(self, client: Client, _: SimNode, found: Any) -> None:
        self._selector.modify(found, selectors.EVENT_READ, client)

    def _on_connect(self, client: Client, node: SimNode, _f: Any, reason: Any, _p: Any) -> None:
        if reason.is_failure:
            return
        node.is_up, node.generation = True, None
        node.sent.clear()
        self._waits[node.name] = self._jitter()
        topics = NodeTopics(NodeId(node.name))
        names = (topics.desired, topics.ack, topics.time, topics.certificate, topics.commands)
        client.subscribe([(topic, SubscribeOptions(qos=1)) for topic in names])
        client.publish(topics.state, _presence(node, online=True), qos=1, retain=True)
        self._report(client, node)
        self._pump(node)

    def _report(self, client: Client, node: SimNode) -> None:
        if client is not self._clients.get(node.name) or not node.is_up:
            return
        node.reports += 1
        body = {
            "report": node.reports,
            "at": rfc3339(_now()),
            "applied": {"generation": node.generation},
            "deployments": [],
        }
        data = seal(Slot.REPORTED, node.me, body, node.key, issued=_now(), lifetime=_DAY)
        client.publish(NodeTopics(NodeId(node.name)).reported, data, qos=1, retain=True)
        self._at(NodeSettings().heartbeat_s, lambda: self._report(client, node))

    def _on_disconnect(self, client: Client, node: SimNode, *_: Any) -> None:
        if self._clients.get(node.name) is not client:
            return
        node.is_up = False
        del self._clients[node.name]
        self._at(next(self._waits[node.name]), lambda: self._connect(node))

    def _on_message(self, _: Client, node: SimNode, message: MQTTMessage) -> None:
        if message.topic.endswith("/dn/ack"):
            self._take_ack(node, bytes(message.payload))
            self._pump(node)
        elif message.topic.endswith("/dn/desired"):
            found = dsse.unverified(bytes(message.payload), what="the desired state")
            node.generation = max(node.generation or 0, int(found["gen"]))

    def _take_ack(self, node: SimNode, data: bytes) -> None:
        if next(self._heard) % self._verified == 0:
            try:
                accept(data, Slot.ACK, {self._sync_key}, node.me.fields())
            except Exception:  # noqa: BLE001 - counted, and asked for by who runs the fleet
                self.wrong += 1
        streams = dsse.unverified(data, what="an acknowledgement")["streams"]
        told = streams.get(Stream.USAGE)
        if told is not None and told["epoch"] == node.epoch:
            self.acked += node.acknowledge(int(told["upto"]))

    def _pump(self, node: SimNode) -> None:
        """Send what is new in the window; what nobody acknowledged is sent again later."""
        client = self._clients.get(node.name)
        if client is None or not node.is_up or not self.may_send:
            return
        topic = NodeTopics(NodeId(node.name)).stream(Stream.USAGE)
        now = time.monotonic()
        for batch in itertools.islice(node.outbox, self.window):
            known = node.sent.get(batch.first)
            if known is not None and now < known[0] + known[1]:
                continue
            again = self._settings.resend_s if known is None else min(known[1] * 2, 60.0)
            node.sent[batch.first] = (now, again)
            client.publish(topic, batch.envelope, qos=1)
            self._at(again, partial(self._pump, node))


def _presence(node: SimNode, *, online: bool) -> bytes:
    return wire.dumps({"online": online, "session": node.epoch, "at": rfc3339(_now())})


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def usage(number: int) -> dict[str, Any]:
    """Return the body of a usage record as the gateway writes it."""
    return {
        "id": f"usage-{number:020d}-{number % 4000}",
        "request_id": f"{hash(str(number)) & 0xFFFFFFFFFFFFFFFF:016x}",
        "deployment": "notes",
        "model": "qwen2.5-0.5b-instruct",
        "key": "shift-a",
        "outcome": "ok",
        "status": 200,
        "prompt_tokens": 100 + number % 900,
        "completion_tokens": number % 400,
        "duration_ms": 300 + number % 2000,
    }
