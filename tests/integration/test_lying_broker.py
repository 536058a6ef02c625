"""A broker that lies: it invents, repeats, swaps, cuts, keeps and drops. Nodes and hub are real.

Whoever holds the broker can say whatever it likes on any topic, and can keep anything from
arriving. It cannot sign. So a node refuses with TRUST's code, audits that sparingly, and serves on;
and in the end the hub has each record once.
"""

import asyncio
import signal
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.hub.identity import HubIdentity
from appliance.ledger.streams import Stream
from appliance.sync import mqtt
from appliance.sync.mqtt import BrokerAddress, Connection, Message, Session
from appliance.trust.envelope import Slot, seal
from tests.conftest import need_tool
from tests.helpers.hubs import DAY, Hub
from tests.helpers.linked import Fleet, LinkedNode
from tests.helpers.models import deployment, wire_deployment
from tests.helpers.signing import new_key
from tests.helpers.waiting import until

pytestmark = pytest.mark.integration

NUMBERS = list(range(1, 31))


class Broker:
    """A mosquitto that lets everybody do everything, but for what ``deny`` names."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self._program = need_tool("mosquitto")
        self._folder = folder
        self._rules = folder / "acl"
        self.deny()
        (folder / "mosquitto.conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nacl_file {self._rules}\n"
            "user root\n"
        )
        self.start()

    @property
    def address(self) -> BrokerAddress:
        return BrokerAddress("127.0.0.1", self.port)

    def deny(self, *topics: str) -> None:
        """Drop what is said on these topics from now on, and acknowledge it to who says it."""
        lines = [*(f"topic deny {topic}" for topic in topics), "topic readwrite #"]
        self._rules.write_text("\n".join(lines) + "\n")
        self._rules.chmod(0o600)

    def believe(self) -> None:
        """Have the rules read again."""
        self.process.send_signal(signal.SIGHUP)

    def start(self) -> None:
        self.process = subprocess.Popen(
            [self._program, "-c", str(self._folder / "mosquitto.conf")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return

    def kill(self) -> None:
        """End it; without persistence, all that it was told and had acknowledged is gone."""
        self.process.kill()
        self.process.wait()


class Liar:
    """Who holds the broker: it has heard everything, and may say anything."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.heard: list[Message] = []

    async def listen(self) -> None:
        while True:
            self.heard.append(await self._connection.messages.get())

    def say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._connection.publish(topic, payload, retain=retain)

    def on(self, topic: str) -> list[bytes]:
        return [m.payload for m in self.heard if m.topic == topic and m.payload]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path)
    yield made
    made.kill()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    yield made
    made.close()


@asynccontextmanager
async def lying(fleet: Fleet, broker: Broker) -> AsyncIterator[Liar]:
    """Run a fleet by a broker that somebody else holds; every node serves before and after."""
    async with mqtt.connect(broker.address, Session("the-liar", ("ea1/#",))) as connection:
        liar = Liar(connection)
        listening = asyncio.create_task(liar.listen())
        try:
            for node in fleet.nodes:
                await node.serve()
            async with fleet.running(broker.address):
                await fleet.introduced()
                yield liar
                for node in fleet.nodes:
                    await node.still_serves()
                    await until(
                        lambda n=node: n.uplink.status()["connected"],  # type: ignore[misc]
                        "the link",
                    )
        finally:
            listening.cancel()


def tell(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(story())


async def settled(fleet: Fleet) -> None:
    """Wait until the hub has everything, sending again whatever was lost on the way."""

    def done(node: LinkedNode) -> bool:
        if node.all_acknowledged():
            return True
        node.resend()
        return False

    for node in fleet.nodes:
        await until(lambda n=node: done(n), f"all of {node.name} at the hub")  # type: ignore[misc]


def word(fleet: Fleet, node: LinkedNode, generation: int = 1, **how: Any) -> bytes:
    """Return the director's word, or one that seems to be: ``how`` has another key or addressee."""
    body = {"directorEpoch": 1, "gen": generation, "documents": [wire_deployment("evil")]}
    to = how.get("to", node.signs.me)
    key = how.get("key", fleet.hub.identity.director)
    return seal(Slot.DESIRED, to, body, key, issued=fleet.hub.clock.utc(), lifetime=DAY)


def me(node: LinkedNode) -> Any:
    """Return by what names the hub calls a node by now."""
    return type(node.signs.me)("acme", node.name, node.signs.key.public, node.ledger.epoch)


def test_what_it_invents_is_refused_and_an_honest_word_still_comes_through(
    fleet: Fleet, broker: Broker
) -> None:
    node = fleet.add("box-1")
    inventions = {
        word(fleet, node, to=me(node), key=new_key()): "signature",
        word(fleet, node, to=me(node), key=fleet.hub.identity.sync): "",  # said once an hour
        word(fleet, node, to=me(node))[:-40]: "malformed",
        word(fleet, node, to=me(node)) + b" " * (64 << 10): "malformed",
        b"\x00\xff garbage": "malformed",
        b"[]": "malformed",
        b"{}": "malformed",
    }

    async def story() -> None:
        async with lying(fleet, broker) as liar:
            for data in inventions:
                liar.say(node.topics.desired, data, retain=True)
            expected = [("fleet-refused", code) for code in inventions.values() if code]
            await until(lambda: len(fleet.refused(node)) >= len(expected), "the refusals")
            assert fleet.refused(node) == expected
            assert node.generation() == 0
            await fleet.ask(node, deployment("honest"))
            await until(lambda: node.generation() == 1, "the honest word")
            await settled(fleet)

    tell(story)


def test_whoever_floods_a_node_fills_neither_its_audit_nor_its_log_nor_its_ears(
    fleet: Fleet, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    node = fleet.add("box-1")

    async def story() -> None:
        async with lying(fleet, broker) as liar:
            for number in range(1500):
                liar.say(node.topics.desired, b'{"payloadType": "%d"}' % number)
                liar.say(node.topics.ack, b"lie %d" % number)
                liar.say(node.topics.time, b"lie %d" % number)
            await fleet.ask(node, deployment("honest"))
            await until(lambda: node.generation() == 1, "the honest word behind the flood")
            kinds = [kind for kind, _ in fleet.refused(node)]
            assert 0 < kinds.count("fleet-refused") + kinds.count("ack-refused") <= 20
            assert 0 < kinds.count("time-refused") <= 20
            said = [r for r in caplog.records if "refused from the hub" in r.message]
            assert 0 < len(said) <= 20
            await settled(fleet)

    tell(story)


def test_what_is_for_one_node_is_given_to_another(fleet: Fleet, broker: Broker) -> None:
    node, victim = fleet.add("box-1"), fleet.add("box-2")

    async def story() -> None:
        async with lying(fleet, broker) as liar:
            node.note(Stream.USAGE, *NUMBERS)
            await fleet.ask(node, deployment("for-box-1"))
            await until(lambda: node.generation() == 1, "the word")
            await settled(fleet)
            assert victim.generation() == 0
            broker_says_nothing_of = victim.left()
            word_for_1, ack_for_1 = liar.on(node.topics.desired)[-1], liar.on(node.topics.ack)[-1]
            liar.say(victim.topics.desired, word_for_1, retain=True)
            liar.say(victim.topics.ack, ack_for_1, retain=True)
            await until(lambda: len(fleet.refused(victim)) >= 2, "both refusals")
            assert fleet.refused(victim) == [("fleet-refused", "scope"), ("ack-refused", "scope")]
            assert victim.generation() == 0
            assert broker_says_nothing_of.keys() == victim.left().keys()
            await settled(fleet)

    tell(story)


def test_an_old_word_that_is_retained_is_refused_and_replaced(fleet: Fleet, broker: Broker) -> None:
    node = fleet.add("box-1")

    async def story() -> None:
        async with lying(fleet, broker) as liar:
            for generation, name in enumerate(("first", "second"), start=1):
                await fleet.ask(node, deployment(name))
                await until(lambda g=generation: node.generation() == g)  # type: ignore[misc]
            old = liar.on(node.topics.desired)[0]
            liar.say(node.topics.desired, old, retain=True)
            await until(lambda: fleet.refused(node) == [("fleet-refused", "replay")])
            assert node.generation() == 2
        broker.kill()  # whatever it says after a restart is again only a hint
        broker.start()
        async with lying(fleet, broker) as liar:
            liar.say(node.topics.desired, old, retain=True)
            await fleet.ask(node, deployment("third"))
            await until(lambda: node.generation() == 3)
            await settled(fleet)

    tell(story)


def test_a_broker_that_acknowledges_and_drops_all_records_loses_none(
    fleet: Fleet, broker: Broker
) -> None:
    node = fleet.add("box-1")

    async def story() -> None:
        broker.deny("ea1/+/up/s/+")
        broker.believe()
        async with lying(fleet, broker):
            node.note(Stream.USAGE, *NUMBERS)
            for _ in range(5):
                node.resend()
                await asyncio.sleep(0.1)
            assert fleet.records(node) == []
            assert node.left()["usage"] == len(NUMBERS)
            broker.deny()
            broker.believe()
            await settled(fleet)
            assert fleet.records(node) == NUMBERS

    tell(story)


def test_a_broker_that_drops_acknowledgements_doubles_nothing(fleet: Fleet, broker: Broker) -> None:
    node = fleet.add("box-1")

    async def story() -> None:
        broker.deny("ea1/+/dn/ack")
        broker.believe()
        async with lying(fleet, broker):
            node.note(Stream.USAGE, *NUMBERS)
            await until(lambda: fleet.records(node) == NUMBERS, "the records")
            for _ in range(5):
                node.resend()
                await asyncio.sleep(0.1)
            assert node.left()["usage"] == len(NUMBERS)
            assert fleet.records(node) == NUMBERS
            broker.deny()
            broker.believe()
            await settled(fleet)
            assert fleet.records(node) == NUMBERS

    tell(story)


def command(fleet: Fleet, node: LinkedNode, counter: int) -> bytes:
    """Return a command of the director."""
    args = {"deployment": "notes"}
    body = {"directorEpoch": 1, "counter": counter, "verb": "restart-engine", "args": args}
    now, key = fleet.hub.clock.utc(), fleet.hub.identity.director
    return seal(Slot.COMMAND, me(node), body, key, issued=now, lifetime=DAY)


def test_a_command_that_is_repeated_kept_and_moved_is_carried_out_once(
    fleet: Fleet, broker: Broker
) -> None:
    node, victim = fleet.add("box-1"), fleet.add("box-2")

    async def story() -> None:
        async with lying(fleet, broker) as liar:
            first, second = command(fleet, node, 1), command(fleet, node, 2)
            for _ in range(5):
                liar.say(node.topics.command("1"), first, retain=True)
                liar.say(victim.topics.command("1"), first, retain=True)
            liar.say(node.topics.command("2"), second)
            await until(lambda: node.done == ["1", "2"], "both commands")
            liar.say(node.topics.command("1"), first)
            liar.say(node.topics.command("3"), first[:-30])
            await until(lambda: ("command-refused", "malformed") in fleet.refused(node))
            await until(lambda: liar.on(node.topics.outcome("2")), "the outcome")
            await until(lambda: fleet.refused(victim) == [("command-refused", "scope")])
        async with lying(fleet, broker):  # it still has the first one, and says it again
            await settled(fleet)
        assert (node.done, victim.done) == (["1", "2"], [])

    tell(story)


def test_batches_that_are_repeated_turned_round_and_moved_count_once(
    fleet: Fleet, broker: Broker
) -> None:
    node, victim = fleet.add("box-1"), fleet.add("box-2")

    async def story() -> None:
        async with lying(fleet, broker) as liar:
            for part in range(0, len(NUMBERS), 10):
                node.note(Stream.USAGE, *NUMBERS[part : part + 10])
                await settled(fleet)
            seen = [m for m in liar.heard if m.topic.startswith("ea1/box-1/up/") and m.payload]
            assert len(liar.on(node.topics.stream("usage"))) >= 3
            for message in [*seen, *reversed(seen)]:
                liar.say(message.topic, message.payload)
                liar.say(message.topic.replace("box-1", "box-2"), message.payload)
                liar.say(node.topics.stream("audit"), message.payload)
            node.note(Stream.USAGE, 99)
            victim.note(Stream.USAGE, 7)
            await settled(fleet)
            assert fleet.records(node) == [*NUMBERS, 99]
            assert fleet.records(victim) == [7]
            assert "signature" in fleet.hub.refusals("box-2")
            assert "scope" in fleet.hub.refusals("box-1")
            assert fleet.hub.row("box-2").key == victim.signs.key.public

    tell(story)


def test_a_broker_that_forgets_everything_it_acknowledged_loses_nothing(
    fleet: Fleet, broker: Broker
) -> None:
    node = fleet.add("box-1")

    async def story() -> None:
        async with lying(fleet, broker):
            for number in NUMBERS:
                node.note(Stream.USAGE, number)
                if number % 10 == 0:
                    broker.kill()
                    await asyncio.to_thread(broker.start)
            await settled(fleet)
            assert fleet.records(node) == NUMBERS

    tell(story)


def test_a_hub_that_replaces_a_robbed_one_is_followed(
    fleet: Fleet, broker: Broker, tmp_path: Path
) -> None:
    node = fleet.add("box-1")
    robbed = fleet.hub

    async def robbery() -> None:
        async with lying(fleet, broker) as liar:
            data = word(fleet, node, 2**53 - 1, to=me(node))
            liar.say(node.topics.desired, data, retain=True)
            await until(lambda: node.generation() == 2**53 - 1, "the thief's word")
            await settled(fleet)

    async def healing() -> None:
        async with lying(fleet, broker):
            asked = await fleet.ask(node, deployment("honest"))
            assert asked < 10
            await until(lambda: node.generation() == asked, "the new hub's word")
            await settled(fleet)

    tell(robbery)
    robbed.db.close()
    (tmp_path / "new-hub").mkdir()
    fleet.hub = Hub(tmp_path / "new-hub", HubIdentity("acme", 2, new_key(), new_key(), "token"))
    fleet.hub.admit(node.signs)
    node.name_director(fleet.hub, epoch=2)
    tell(healing)


# --- below MQTT -----------------------------------------------------------------------------------


@contextmanager
def something_that_says(data: bytes) -> Iterator[BrokerAddress]:
    """Listen in place of a broker, and answer everybody who connects with the same bytes."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.1)
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            try:
                peer, _ = server.accept()
            except TimeoutError:
                continue
            with peer:
                peer.settimeout(1)
                try:
                    peer.recv(4096)
                    peer.sendall(data)
                except OSError:
                    continue

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield BrokerAddress("127.0.0.1", int(server.getsockname()[1]))
    finally:
        ended.set()
        thread.join()
        server.close()


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x20\x03\x00\x00\x00\x30\xff\xff\xff\xff\xff\xff",  # a length that has no end
        b"\x20\x03\x00\x87\x00",  # not authorized
        b"\x00" * 65536,
        b"",
    ],
    ids=["another protocol", "endless length", "a refusal", "zeros", "nothing"],
)
def test_what_is_no_broker_is_said_so_and_tried_again(fleet: Fleet, data: bytes) -> None:
    node = fleet.add("box-1")

    async def story() -> None:
        await node.serve()
        with something_that_says(data) as address:
            async with fleet.running(address):
                await until(lambda: node.uplink.status()["why"] != "not tried yet", "a reason")
                await node.still_serves()
                assert node.uplink.status()["connected"] is False

    tell(story)
