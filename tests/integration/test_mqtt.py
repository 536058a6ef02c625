"""The MQTT road against a real mosquitto: what no contract of brokers says."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from appliance.errors import PeerUnreachableError
from appliance.sync import mqtt
from appliance.sync.mqtt import BrokerAddress, Message, Session
from tests.helpers import brokers

pytestmark = pytest.mark.integration


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[brokers.Process]:
    made = brokers.mosquitto(tmp_path)
    yield made
    made.kill()


def session(name: str, *topics: str, will: Message | None = None) -> Session:
    return Session(name, topics or ("nothing",), will)


async def next_message(connection: mqtt.Connection) -> Message:
    async with asyncio.timeout(10):
        return await connection.messages.get()


def test_without_a_broker_it_is_unreachable_in_words(tmp_path: Path) -> None:
    async def story() -> None:
        broker = brokers.mosquitto(tmp_path)
        broker.kill()
        with pytest.raises(PeerUnreachableError, match="does not answer"):
            async with mqtt.connect(broker.address, session("one")):
                pass

    asyncio.run(story())


def test_the_will_of_a_process_that_dies_is_published(broker: brokers.Process) -> None:
    async def story() -> None:
        async with mqtt.connect(broker.address, session("watcher", "state")) as watcher:
            dying = [sys.executable, "-c", _DYING, str(broker.port)]
            await asyncio.to_thread(subprocess.run, dying, check=False, timeout=30)
            assert (await next_message(watcher)).payload == b"gone"

    asyncio.run(story())


def test_a_flood_is_dropped_and_does_not_fill_the_memory(
    broker: brokers.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "_MOST_WAITING_BYTES", 1000)

    async def story() -> None:
        async with mqtt.connect(broker.address, session("box-1", "flood", "end")) as node:
            async with mqtt.connect(broker.address, session("liar", "end")) as liar:
                for _ in range(20):
                    liar.publish("flood", bytes(300))
                liar.publish("end", bytes(1000))
                await next_message(liar)
            async with asyncio.timeout(10):
                while node.dropped < 18:
                    await asyncio.sleep(0.01)
            assert node.messages.qsize() == 3
            for _ in range(3):
                await next_message(node)
            node.publish("end", b"room again")
            assert (await next_message(node)).payload == b"room again"

    asyncio.run(story())


@pytest.mark.parametrize(("name", "confirms"), [("_MOST_SILENCE_S", 0), ("_MOST_AGE_S", 0.5)])
def test_a_broker_that_confirms_nothing_or_too_little_is_left(
    monkeypatch: pytest.MonkeyPatch, name: str, confirms: float
) -> None:
    """It would fill our memory: what is not confirmed is kept by the client."""
    monkeypatch.setattr(mqtt, name, 0.2)

    async def story() -> None:
        async with (
            stingy_broker(confirms) as address,
            mqtt.connect(address, session("box-1")) as node,
        ):
            for _ in range(4):
                node.publish("a", b"1")
            await asyncio.sleep(0.1)
            assert not node.closed.is_set()
            await asyncio.sleep(0.2)
            node.publish("a", b"3")
            async with asyncio.timeout(10):
                await node.closed.wait()

    asyncio.run(story())


@pytest.mark.parametrize("scheme", ["ws", "mqtts"])
def test_who_only_drips_is_given_up(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setattr(mqtt, "_CONNECT_S", 0.3)
    ended = asyncio.Event()

    async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = b"\x16\x03\x03\x40\x00" if scheme == "mqtts" else b"HTTP/1.1 101 OK\r\nA: "
        while not writer.is_closing():
            writer.write(hello)
            hello = b"a"
            await asyncio.sleep(0.02)
        ended.set()

    async def story() -> None:
        server = await asyncio.start_server(drip, "127.0.0.1", 0)
        async with server:
            at = BrokerAddress("127.0.0.1", server.sockets[0].getsockname()[1], scheme)
            with pytest.raises(PeerUnreachableError, match="does not answer"):
                async with mqtt.connect(at, session("box-1")):
                    pass
            await ended.wait()

    asyncio.run(story())


def test_who_confirms_is_not_left_after_a_quiet_time(
    broker: brokers.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "_MOST_SILENCE_S", 0.2)
    monkeypatch.setattr(mqtt, "_MOST_AGE_S", 0.2)

    async def story() -> None:
        async with mqtt.connect(broker.address, session("box-1", "a")) as node:
            for _ in range(20):
                node.publish("a", bytes(1000))
                await next_message(node)
            await asyncio.sleep(0.3)
            node.publish("a", b"after a while")
            assert (await next_message(node)).payload == b"after a while"

    asyncio.run(story())


@contextlib.asynccontextmanager
async def stingy_broker(confirms: float) -> AsyncIterator[BrokerAddress]:
    """One that lets everybody in and confirms but this share of what is published."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came = confirmed = 0
        while head := await reader.read(1):
            packet = await reader.readexactly((await reader.readexactly(1))[0])
            if head[0] >> 4 == _CONNECT:
                writer.write(b"\x20\x03\x00\x00\x00")
            elif head[0] >> 4 == _SUBSCRIBE:
                writer.write(b"\x90\x04" + packet[:2] + b"\x00\x01")
            elif head[0] >> 4 == _PUBLISH:
                came += 1
                if confirmed + 1 <= came * confirms:
                    confirmed += 1
                    writer.write(b"\x40\x02" + packet[3:5])
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield BrokerAddress("127.0.0.1", server.sockets[0].getsockname()[1])


_CONNECT, _PUBLISH, _SUBSCRIBE = 1, 3, 8


def test_a_broker_that_takes_too_little_says_so(tmp_path: Path) -> None:
    broker = brokers.mosquitto(tmp_path, "allow_anonymous true\nmax_packet_size 5000\n")

    async def story() -> None:
        with pytest.raises(PeerUnreachableError, match="takes 5000 bytes at most"):
            async with mqtt.connect(broker.address, session("box-1")):
                pass

    try:
        asyncio.run(story())
    finally:
        broker.kill()


_DYING = """
import asyncio, os, sys
from appliance.sync import mqtt

async def story():
    session = mqtt.Session("node", ("nothing",), mqtt.Message("state", b"gone"))
    async with mqtt.connect(mqtt.BrokerAddress("127.0.0.1", int(sys.argv[1])), session):
        os._exit(9)

asyncio.run(story())
"""
