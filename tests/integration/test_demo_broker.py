"""The demo's broker, with mosquitto and without."""

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.demo import broker
from appliance.errors import NotFoundError, PeerUnreachableError
from appliance.sync import mqtt
from appliance.sync.mqtt import BrokerAddress, Message, Session
from tests.helpers.brokers import free_ports, nats_server

pytestmark = pytest.mark.integration


@pytest.fixture
def no_mosquitto(monkeypatch: pytest.MonkeyPatch) -> None:
    nats_server()
    which = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda name, **more: None if name == "mosquitto" else which(name, **more)
    )


async def talk(address: BrokerAddress) -> Message:
    async with mqtt.connect(address, Session("box-1", ("ea1/#",))) as node:
        node.publish("ea1/box-1/up/state", b"here")
        async with asyncio.timeout(10):
            return await node.messages.get()


async def talk_when_it_is_up(address: BrokerAddress) -> Message:
    async with asyncio.timeout(30):
        while True:
            try:
                return await talk(address)
            except PeerUnreachableError:
                await asyncio.sleep(0.05)


@pytest.mark.usefixtures("no_mosquitto")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_where_mosquitto_is_not_installed_it_is_nats_server(tmp_path: Path, host: str) -> None:
    (port,) = free_ports(1)
    command = broker.command(tmp_path, host, port)
    assert Path(command[0]).name == "nats-server"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        found = asyncio.run(talk_when_it_is_up(BrokerAddress(host, port)))
    finally:
        process.kill()
        process.wait()
    assert found == Message("ea1/box-1/up/state", b"here")


def test_without_either_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(NotFoundError) as found:
        broker.command(tmp_path, "127.0.0.1", 1)
    assert "scripts/system-packages mosquitto" in str(found.value.hint)
