"""What we say gets through to a broker that has much to say to us, and is no more than it takes."""

import asyncio
from pathlib import Path

import pytest

from appliance.sync import mqtt
from appliance.sync.mqtt import Session
from tests.helpers.brokers import mosquitto

pytestmark = pytest.mark.integration
_BUSY = "allow_anonymous true\nmax_queued_messages 20000\nmax_inflight_messages "


@pytest.mark.parametrize(("takes", "allowed"), [(5, 5), (5000, mqtt._MOST_GOING)])
def test_no_more_is_under_way_than_the_broker_takes(
    tmp_path: Path, takes: int, allowed: int
) -> None:
    async def story() -> None:
        broker = mosquitto(tmp_path, f"{_BUSY}{takes}\n")
        try:
            async with mqtt.connect(broker.address, Session("one", ("a/#",))) as one:
                assert one._client.max_inflight_messages == allowed
                for number in range(300):
                    one.publish("a/b", b"%d" % number)
                async with asyncio.timeout(20):
                    came = [(await one.messages.get()).payload for _ in range(300)]
                assert came == [b"%d" % number for number in range(300)]
        finally:
            broker.kill()

    asyncio.run(story())


def test_a_backlog_comes_whole_although_little_of_it_may_be_under_way(tmp_path: Path) -> None:
    async def story() -> None:
        broker = mosquitto(tmp_path, f"{_BUSY}5000\n")
        try:
            async with mqtt.connect(broker.address, Session("sleeper", ("a/#",))):
                pass
            async with mqtt.connect(broker.address, Session("talker", ("b",))) as talker:
                for number in range(3000):
                    talker.publish("a/b", b"%d" % number)
                talker.publish("b", b"the end")
                async with asyncio.timeout(20):
                    await talker.messages.get()
            async with mqtt.connect(broker.address, Session("sleeper", ("a/#", "own"))) as back:
                back.publish("own", b"word")
                async with asyncio.timeout(20):
                    came = [(await back.messages.get()).topic for _ in range(3001)]
                assert came.count("a/b") == 3000
        finally:
            broker.kill()

    asyncio.run(story())
