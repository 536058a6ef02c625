"""The MQTT road against a real mosquitto."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.errors import PeerUnreachableError
from appliance.sync import mqtt
from appliance.sync.mqtt import BrokerAddress, Message, Session
from tests.conftest import need_tool

pytestmark = pytest.mark.integration


class Broker:
    """A mosquitto on a port of its own, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self._program = need_tool("mosquitto")
        self._settings = folder / "mosquitto.conf"
        self._settings.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n")
        self.start()

    @property
    def address(self) -> BrokerAddress:
        return BrokerAddress("127.0.0.1", self.port)

    def start(self) -> None:
        self.process = subprocess.Popen(
            [self._program, "-c", str(self._settings)],
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
        self.process.kill()
        self.process.wait()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path)
    yield made
    made.kill()


def session(name: str, *topics: str, will: Message | None = None) -> Session:
    return Session(name, topics or ("nothing",), will)


async def next_message(connection: mqtt.Connection) -> Message:
    async with asyncio.timeout(10):
        return await connection.messages.get()


def test_messages_arrive_and_retained_ones_are_known_as_such(broker: Broker) -> None:
    async def story() -> None:
        async with mqtt.connect(broker.address, session("one", "a/#")) as one:
            one.publish("a/live", b"1")
            assert await next_message(one) == Message("a/live", b"1", retained=False)
            one.publish("a/kept", b"2", retain=True)
            await next_message(one)
        async with mqtt.connect(broker.address, session("two", "a/#")) as two:
            assert await next_message(two) == Message("a/kept", b"2", retained=True)

    asyncio.run(story())


def test_a_session_that_was_away_gets_what_was_sent_meanwhile(broker: Broker) -> None:
    async def story() -> None:
        async with mqtt.connect(broker.address, session("sleeper", "b/#")):
            pass
        async with mqtt.connect(broker.address, session("other")) as other:
            other.publish("b/x", b"while away")
            await asyncio.sleep(0.2)
        async with mqtt.connect(broker.address, session("sleeper", "b/#")) as back:
            assert (await next_message(back)).payload == b"while away"

    asyncio.run(story())


def test_without_a_broker_it_is_unreachable_in_words(tmp_path: Path) -> None:
    async def story() -> None:
        broker = Broker(tmp_path)
        broker.kill()
        with pytest.raises(PeerUnreachableError, match="does not answer"):
            async with mqtt.connect(broker.address, session("one")):
                pass

    asyncio.run(story())


def test_a_broker_that_is_killed_closes_the_connection(broker: Broker) -> None:
    async def story() -> None:
        async with mqtt.connect(broker.address, session("one")) as one:
            broker.kill()
            async with asyncio.timeout(10):
                await one.closed.wait()
            one.publish("into/the/void", b"lost, and no error")

    asyncio.run(story())


def test_the_will_of_a_process_that_dies_is_published(broker: Broker) -> None:
    async def story() -> None:
        async with mqtt.connect(broker.address, session("watcher", "state")) as watcher:
            dying = [sys.executable, "-c", _DYING, str(broker.port)]
            await asyncio.to_thread(subprocess.run, dying, check=False, timeout=30)
            assert (await next_message(watcher)).payload == b"gone"

    asyncio.run(story())


_DYING = """
import asyncio, os, sys
from appliance.sync import mqtt

async def story():
    session = mqtt.Session("node", ("nothing",), mqtt.Message("state", b"gone"))
    async with mqtt.connect(mqtt.BrokerAddress("127.0.0.1", int(sys.argv[1])), session):
        os._exit(9)

asyncio.run(story())
"""
