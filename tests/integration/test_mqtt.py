"""The MQTT road against a real mosquitto: what no contract of brokers says."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.errors import PeerUnreachableError
from appliance.sync import mqtt
from appliance.sync.mqtt import Message, Session
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


def test_a_broker_that_takes_too_little_says_so(tmp_path: Path) -> None:
    broker = brokers.mosquitto(tmp_path, "allow_anonymous true\nmax_packet_size 5000\n")

    async def story() -> None:
        with pytest.raises(PeerUnreachableError, match="takes 5000 bytes at most"):
            async with mqtt.connect(broker.address, session("box-1")):
                pass

    asyncio.run(story())
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
