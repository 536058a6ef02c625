"""Draining a backlog over a real mosquitto, beside paho alone on the same broker.

The node is the real one: sealing, signing, the link, acknowledgements that are verified and commit
durably. The hub is a stand-in that only reads how far a batch goes and acknowledges what came
within 20 ms, so that it is the node that is measured. What is compared is records: paho alone sends
each as a message of its own. The printed line compares bytes as well, batch for batch.
"""

import asyncio
import base64
import datetime
import hashlib
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from appliance.core.ids import NodeId
from appliance.demo import broker
from appliance.kit.clock import SystemClock, rfc3339
from appliance.ledger import streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream
from appliance.node.fleet import FleetInbox
from appliance.settings import SyncSettings
from appliance.sync import batch, mqtt
from appliance.sync.link import Endpoints, Link
from appliance.sync.mqtt import BrokerAddress, Session
from appliance.sync.topics import EVERY_NODE, NodeTopics, parse_upward
from appliance.trust.documents import Director
from appliance.trust.envelope import Addressee, Slot, seal
from appliance.trust.keys import SigningKey
from benchmarks.measure import Row, at_least

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_RECORDS = 60_000
_RAW_BYTES = 300
"""What one record takes as a message of its own."""
_IN_FLIGHT = 100
_GATHER_S = 0.02
_LIFE = datetime.timedelta(days=1)
_HOST = "127.0.0.1"
_TOPICS = NodeTopics(NodeId("bench"))


def run() -> list[Row]:
    """Measure; takes some half a minute."""
    with _world() as world:
        messages = _raw(world, [_body(n).ljust(_RAW_BYTES).encode() for n in range(20_000)])
        envelopes = _sealed(world)
        whole = _raw(world, envelopes) * len(envelopes[0])
        took_s, sent_bytes = _drained(world)
    records, size = _RECORDS / took_s, sum(map(len, envelopes)) / took_s
    words = f"paho alone, {_RAW_BYTES} B a message, {_IN_FLIGHT} in flight"
    print(
        f"drained {_RECORDS} records in {took_s:.2f} s: {len(envelopes)} batches, "
        f"{sent_bytes / 1e6:.1f} MB, {size / 1e6:.1f} MB/s; paho alone with batches: "
        f"{whole / 1e6:.0f} MB/s"
    )
    return [at_least("drain of a backlog", records, "records/s", (words, messages), 0.7)]


@dataclass(frozen=True)
class _World:
    """A broker, a hub that acknowledges, and a node that is to say much."""

    folder: Path
    port: int
    node: SigningKey
    sync: SigningKey

    def fill(self, name: str) -> tuple[Ledger, Addressee]:
        """Return a ledger with a backlog."""
        ledger = Ledger(self.folder / name)
        at = rfc3339(datetime.datetime.now(datetime.UTC))
        facts = [Fact(Stream.USAGE, "end", at, json.loads(_body(n))) for n in range(_RECORDS)]
        for first in range(0, _RECORDS, 2000):
            ledger.note(*facts[first : first + 2000]).result()
        return ledger, Addressee("acme", "bench", self.node.public, ledger.epoch)


def _body(number: int) -> str:
    """Return a record of usage, as different from the one before it as such records are."""
    random = hashlib.sha256(b"%d" % number).hexdigest()
    return json.dumps(
        {
            "request": random[:32],
            "tenant": f"line-{number % 7}",
            "model": "smollm2-135m-instruct:1.0.0-Q4_1",
            "status": 200,
            "prompt": int(random[32:35], 16),
            "generated": int(random[35:37], 16),
            "first_ms": int(random[37:40], 16) / 10,
            "took_ms": int(random[40:44], 16) / 10,
        }
    )


@contextmanager
def _world() -> Iterator[_World]:
    folder = Path(tempfile.mkdtemp(prefix="appliance-bench-"))
    folder.chmod(0o711)
    with socket.create_server((_HOST, 0)) as free:
        port = int(free.getsockname()[1])
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(broker.command(folder, _HOST, port), stdout=log, stderr=log)
    try:
        _wait_for(port)
        keys = (SigningKey.create(folder / f"{name}.pem") for name in ("node", "sync"))
        yield _World(folder, port, *keys)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(port: int) -> None:
    while True:
        with suppress(OSError):
            socket.create_connection((_HOST, port), 1).close()
            return
        time.sleep(0.05)


def _sealed(world: _World) -> list[bytes]:
    """Return the backlog as the batches that it makes."""
    ledger, me = world.fill("sealed.db")
    make = batch.maker(Stream.USAGE, me, world.node, rfc3339(SystemClock().utc()))
    found = []
    while (
        made := ledger.record(
            lambda db: streams.seal(db, Stream.USAGE, make, most=batch.MOST_RECORDS)
        ).result()
    ) is not None:
        found.append(made.envelope)
    ledger.close()
    return found


def _raw(world: _World, messages: Sequence[bytes]) -> float:
    """Return how many messages/s paho alone brings to the broker, which passes them on."""
    done, listens = threading.Semaphore(0), threading.Event()
    sender, listener = _paho(), _paho()
    sender.on_publish = lambda *_: done.release()
    listener.on_subscribe = lambda *_: listens.set()
    for client in (sender, listener):
        client.connect(_HOST, world.port)
        client.loop_start()
    listener.subscribe("raw/#", 1)
    listens.wait(10)
    began = time.perf_counter()
    for number, message in enumerate(messages):
        if number >= _IN_FLIGHT:
            done.acquire()
        sender.publish("raw/1", message, qos=1)
    for _ in range(min(_IN_FLIGHT, len(messages))):
        done.acquire()
    took_s = time.perf_counter() - began
    for client in (sender, listener):
        client.disconnect()
        client.loop_stop()
    return len(messages) / took_s


def _paho() -> Client:
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.max_inflight_messages = _IN_FLIGHT
    return client


def _drained(world: _World) -> tuple[float, int]:
    """Return how long the link takes to have all acknowledged, and the bytes that it sent."""
    ledger, me = world.fill("node.db")
    names = [str(world.port), str(world.folder), me.node_key, me.db_epoch]
    hub = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.sync_drain", *names], stdout=subprocess.PIPE, text=True
    )
    assert hub.stdout is not None
    try:
        hub.stdout.readline()
        took_s = asyncio.run(_drain(world, ledger, me))
    finally:
        hub.terminate()
        out, _ = hub.communicate()
        ledger.close()
    return took_s, int(out.split()[-1])


async def _drain(world: _World, ledger: Ledger, me: Addressee) -> float:
    clock, director = (
        SystemClock(),
        Director("acme", 1, frozenset(), frozenset({world.sync.public})),
    )
    trust: Any = SimpleNamespace(director=lambda: director)
    inbox = FleetInbox(me, trust, ledger, clock, lambda: None)

    async def report() -> bytes:
        return b"{}"

    endpoints = Endpoints({"ack": inbox.ack}, report, lambda: 0)
    settings = SyncSettings(broker=f"mqtt://{_HOST}:{world.port}")
    link = Link(ledger, endpoints, clock, settings, heartbeat_s=30.0)
    loop = asyncio.get_running_loop()
    drained = asyncio.Event()

    def committed() -> None:
        loop.call_soon_threadsafe(link.wake.set)
        if ledger.read(lambda db: streams.position(db, Stream.USAGE)).acked_upto == _RECORDS:
            loop.call_soon_threadsafe(drained.set)

    ledger.on_commit(committed)
    began = time.perf_counter()
    running = asyncio.create_task(link.run(me, world.node))
    await drained.wait()
    took_s = time.perf_counter() - began
    ledger.on_commit(lambda: None)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return took_s


async def _be_the_hub(port: int, folder: Path, me: Addressee) -> None:
    """Acknowledge what comes until somebody ends this; print its bytes as they grow."""
    key, size = SigningKey.open(folder / "sync.pem"), 0
    async with mqtt.connect(BrokerAddress(_HOST, port), Session("hub", (EVERY_NODE,))) as road:
        print("ready", flush=True)
        while True:
            messages = [await road.messages.get()]
            await asyncio.sleep(_GATHER_S)
            while not road.messages.empty():
                messages.append(road.messages.get_nowait())
            told: dict[str, Any] = {}
            for message in messages:
                found = parse_upward(message.topic)
                if found is not None and found.kind == "stream":
                    told[str(found.name)] = _read(message.payload, me.db_epoch)
                    size += len(message.payload)
            if told:
                issued = datetime.datetime.now(datetime.UTC)
                body = {"streams": told}
                envelope = seal(Slot.ACK, me, body, key, issued=issued, lifetime=_LIFE)
                road.publish(_TOPICS.ack, envelope, retain=True)
                print(size, flush=True)


def _read(envelope: bytes, epoch: str) -> dict[str, Any]:
    """Return how far a batch goes, from the beginning of it."""
    payload = base64.b64decode(json.loads(envelope)["payload"])
    head = zstd.ZstdDecompressor().decompress(payload, max_length=2000)
    numbers = dict(re.findall(rb'"(first|n)":(\d+)', head))
    upto = int(numbers[b"first"]) + int(numbers[b"n"]) - 1
    return {"epoch": epoch, "upto": upto, "hash": hashlib.sha256(payload).hexdigest()}


def _main() -> None:
    port, folder, node_key, epoch = sys.argv[1:]
    me = Addressee("acme", "bench", node_key, epoch)
    asyncio.run(_be_the_hub(int(port), Path(folder), me))


if __name__ == "__main__":
    _main()
