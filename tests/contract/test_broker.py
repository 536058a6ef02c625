"""What every broker promises us, held against the fake, mosquitto and nats-server."""

import asyncio
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import PeerUnreachableError
from appliance.sync import mqtt
from appliance.sync.mqtt import BrokerAddress, Connection, Message, Session
from tests.fakes.broker import FakeBroker
from tests.helpers import brokers

Connect = Callable[[Session], Any]
DOWN, UP = "ea1/box-1/dn/desired", "ea1/box-1/up/state"


class World:
    """A broker, and how one connects to it."""

    def __init__(self, connect: Connect, kill: Callable[[], None], *, knows_5: bool) -> None:
        self.connect = connect
        self.kill = kill
        self.knows_5 = knows_5


def a_fake(_folder: Path) -> World:
    broker = FakeBroker()

    def kill() -> None:
        broker.is_up = False
        broker.break_connections()

    return World(functools.partial(broker.connect, BrokerAddress("fake", 1)), kill, knows_5=True)


def a_mosquitto(folder: Path) -> World:
    broker = brokers.mosquitto(folder)
    return World(functools.partial(mqtt.connect, broker.address), broker.kill, knows_5=True)


def a_nats_server(folder: Path) -> World:
    broker = brokers.nats(folder)
    return World(functools.partial(mqtt.connect, broker.address), broker.kill, knows_5=False)


@pytest.fixture(
    params=[
        a_fake,
        pytest.param(a_mosquitto, marks=pytest.mark.integration),
        pytest.param(a_nats_server, marks=pytest.mark.integration),
    ]
)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    made = request.param(tmp_path)
    yield made
    made.kill()


def session(name: str, *topics: str, will: Message | None = None) -> Session:
    return Session(name, topics or ("ea1/nothing",), will)


async def heard(connection: Connection) -> Message:
    async with asyncio.timeout(10):
        return await connection.messages.get()


async def all_heard(connection: Connection, last: bytes) -> list[Message]:
    found = [await heard(connection)]
    while found[-1].payload != last:
        found.append(await heard(connection))
    return found


def test_what_is_published_comes_to_who_listens_and_to_nobody_else(world: World) -> None:
    async def story() -> None:
        async with (
            world.connect(session("hub", "ea1/+/up/#")) as hub,
            world.connect(session("box-1", "ea1/box-1/dn/#")) as node,
        ):
            node.publish("ea1/box-1/up/s/usage", b"1")
            node.publish("ea1/box-1/other", b"2")
            node.publish("ea1/box-1/up/cmd/7", b"3")
            assert await all_heard(hub, b"3") == [
                Message("ea1/box-1/up/s/usage", b"1"),
                Message("ea1/box-1/up/cmd/7", b"3"),
            ]
            hub.publish("ea1/box-2/dn/desired", b"not yours")
            hub.publish(DOWN, b"yours")
            assert await heard(node) == Message(DOWN, b"yours")

    asyncio.run(story())


def test_what_is_large_comes_whole_and_in_order(world: World) -> None:
    async def story() -> None:
        sent = [bytes([n]) * (64 << 10) for n in range(40)]
        async with world.connect(session("hub", UP)) as hub:
            for payload in sent:
                hub.publish(UP, payload)
            assert [m.payload for m in await all_heard(hub, sent[-1])] == sent

    asyncio.run(story())


def test_the_newest_of_what_is_retained_waits_for_who_comes_later(world: World) -> None:
    async def story() -> None:
        async with world.connect(session("hub", DOWN)) as hub:
            hub.publish(DOWN, b"old", retain=True)
            hub.publish(DOWN, b"new", retain=True)
            hub.publish(DOWN, b"passing")
            await all_heard(hub, b"passing")
        async with world.connect(session("box-1", DOWN)) as node:
            assert await heard(node) == Message(DOWN, b"new", retained=True)

    asyncio.run(story())


def test_a_session_that_was_away_gets_what_was_sent_meanwhile(world: World) -> None:
    async def story() -> None:
        async with world.connect(session("box-1", DOWN)):
            pass
        async with world.connect(session("hub", DOWN)) as hub:
            hub.publish(DOWN, b"while away")
            await heard(hub)
        async with world.connect(session("box-1", DOWN)) as node:
            assert (await heard(node)).payload == b"while away"

    asyncio.run(story())


def test_a_message_expires_where_the_broker_knows_that(world: World) -> None:
    async def story() -> None:
        async with world.connect(session("box-1", DOWN)):
            pass
        async with world.connect(session("hub", DOWN)) as hub:
            hub.send(Message(DOWN, b"soon stale", expires_s=1))
            hub.send(Message(DOWN, b"lasting", expires_s=600))
            await all_heard(hub, b"lasting")
        await asyncio.sleep(2.2)  # brokers count in whole seconds
        async with world.connect(session("box-1", DOWN)) as node:
            found = [m.payload for m in await all_heard(node, b"lasting")]
            assert found == ([b"lasting"] if world.knows_5 else [b"soon stale", b"lasting"])

    asyncio.run(story())


def test_who_connects_under_the_same_name_takes_the_place_of_the_other(world: World) -> None:
    async def story() -> None:
        async with (
            world.connect(session("box-1", DOWN)) as old,
            world.connect(session("box-1", DOWN)) as new,
        ):
            async with asyncio.timeout(10):
                await old.closed.wait()
            new.publish(DOWN, b"to the new one")
            assert (await heard(new)).payload == b"to the new one"
            assert old.messages.empty()

    asyncio.run(story())


def test_a_broker_that_dies_closes_the_connection_and_is_then_unreachable(world: World) -> None:
    async def story() -> None:
        async with world.connect(session("box-1", DOWN)) as node:
            world.kill()
            async with asyncio.timeout(10):
                await node.closed.wait()
            node.publish(UP, b"into the void, and no error")
        with pytest.raises(PeerUnreachableError):
            async with world.connect(session("box-1", DOWN)):
                pass

    asyncio.run(story())
