"""A node and its hub over a broker in memory: the word comes down, what happened goes up."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.core import wire
from appliance.core.commands import Command
from appliance.core.ids import NodeId
from appliance.hub import store
from appliance.hub.commands import CommandDesk
from appliance.hub.store import NodeRow
from appliance.ledger.streams import Fact, Stream
from appliance.node import desired
from appliance.node.commands import Hands
from appliance.node.identity import NodeIdentity
from appliance.node.report import Reporter
from appliance.node.uplink import Uplink
from appliance.settings import SyncSettings
from appliance.sync import mqtt
from appliance.trust.documents import DIRECTOR_PATH
from tests.fakes.broker import FakeBroker
from tests.helpers.hubs import Hub, TalkingNode
from tests.helpers.models import deployment, machine, variant
from tests.helpers.nodes import ControlledNode
from tests.helpers.signing import InForce
from tests.helpers.waiting import until


class Pair:
    """A hub, and a node that it admitted."""

    def __init__(self, folder: Path) -> None:
        for name in ("hub", "node", "tuf"):
            (folder / name).mkdir()
        self.broker = FakeBroker()
        self.hub = Hub(folder / "hub")
        self.node = ControlledNode(folder / "node")
        self.in_tuf = InForce(folder / "tuf")
        signs = TalkingNode()
        self.hub.admit(signs)
        self.uplink = Uplink(
            NodeIdentity(NodeId("box-1"), signs.key),
            self.node.ledger,
            self.in_tuf.trust,
            Reporter(self.node.ledger, self.node.board, machine, self.node.clock),
            self.node.board,
            lambda: None,
        )

    def name_director(self) -> None:
        identity = self.hub.identity
        keys = {"keys": [identity.director.public], "sync": [identity.sync.public]}
        verbs = ["restart-engine"]
        document = {"org": "acme", "epoch": 1, **keys, "sites": ["*"], "verbs": verbs}
        self.in_tuf.documents[DIRECTOR_PATH] = wire.dumps(document)
        self.in_tuf.put()

    def all_acknowledged(self) -> bool:
        found = Reporter(self.node.ledger, self.node.board, machine, self.node.clock)
        counts = found.streams()
        return counts["audit"]["written"] > 0 and all(
            s["written"] == s["acknowledged"] for s in counts.values()
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        settings = SyncSettings(broker="mqtt://broker")
        tasks = [
            asyncio.create_task(self.hub.service.run()),
            asyncio.create_task(self.uplink.run(settings, self.node.clock, heartbeat_s=30)),
        ]
        try:
            yield
            assert not any(task.done() for task in tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    made = Pair(tmp_path)
    monkeypatch.setattr(mqtt, "connect", made.broker.connect)
    yield made
    made.hub.db.close()
    made.node.ledger.close()


def test_the_word_comes_down_and_every_record_goes_up_once(pair: Pair) -> None:
    async def story() -> None:
        pair.name_director()
        async with pair.running():
            await until(lambda: pair.hub.row().reported, "the first report")
            ask = lambda db: store.put_documents(db, "box-1", [deployment()])  # noqa: E731
            pair.hub.db.submit(ask).result()
            await pair.hub.service.say("box-1")
            await until(lambda: "generation 1" in pair.uplink.status()["waits_for"])
            pair.node.bring(variant())
            pair.in_tuf.list(variant())
            await pair.uplink.catalogue_changed()
            assert pair.node.ledger.read(desired.fleet).generation == 1
            await pair.node.controller.reconcile()
            pair.node.ledger.note(*[Fact(Stream.USAGE, "t", "", {"n": n}) for n in range(3)])
            await until(pair.all_acknowledged)
            assert [r["n"] for r in pair.hub.records(stream="usage")] == [0, 1, 2]
            assert pair.hub.records(stream="audit")[0]["generation"] == 1
            assert pair.hub.refusals() == []
            assert pair.uplink.status()["connected"] is True

    asyncio.run(story())


class HardOfHearing(CommandDesk):
    """A desk that takes no outcome in until it hears."""

    hears = False

    async def take(self, row: NodeRow, name: str | None, payload: bytes) -> bool:
        return self.hears and await super().take(row, name, payload)


def test_a_command_comes_down_once_and_its_outcome_goes_up_until_it_is_heard(pair: Pair) -> None:
    done: list[str] = []

    async def do(command: Command) -> dict[str, Any]:
        done.append(command.id)
        return {"ran": command.id}

    pair.uplink.hands = Hands(do)
    pair.name_director()
    desk = HardOfHearing(pair.hub.identity, pair.hub.db, pair.hub.clock)
    pair.hub.service.add("outcome", desk)

    def states() -> list[str]:
        return [found.state for found in desk.listed("box-1")]

    async def story() -> None:
        async with pair.running():
            await until(lambda: pair.hub.row().reported, "the first report")
            for _ in range(2):
                await desk.issue("box-1", "restart-engine", {"deployment": "a"}, lifetime_s=600)
            pair.hub.service.tell(pair.hub.row())
            await until(lambda: done == ["1", "2"])
            assert states() == ["waiting", "waiting"]
            desk.hears = True
            pair.broker.break_connections()
            await until(lambda: states() == ["done", "done"], "both outcomes, said again")
            await until(pair.all_acknowledged)
        assert done == ["1", "2"]
        assert pair.hub.refusals() == []
        told = [r for r in pair.hub.records(stream="audit") if "id" in r]
        assert sorted(r["id"] for r in told) == ["1", "1", "2", "2"]
        assert [r["state"] for r in told if "state" in r] == ["done", "done"]

    asyncio.run(story())


def test_before_a_bundle_named_the_director_nothing_is_said(pair: Pair) -> None:
    async def story() -> None:
        async with pair.running():
            await asyncio.sleep(0.02)
            assert pair.broker.on("ea1/box-1/up/state") == []
            assert "no bundle has named a director yet" in pair.uplink.status()["why"]
            pair.name_director()
            await pair.uplink.catalogue_changed()
            await until(lambda: pair.hub.row().reported, "the first report")

    asyncio.run(story())


def test_without_a_broker_there_is_nothing_to_do(pair: Pair) -> None:
    asyncio.run(pair.uplink.run(SyncSettings(), pair.node.clock, heartbeat_s=30))
    asyncio.run(pair.uplink.catalogue_changed())
    assert pair.uplink.status()["connected"] is False


def test_the_time_comes_back_over_the_link(pair: Pair) -> None:
    taken: list[bytes] = []
    pair.uplink.on_time = taken.append
    pair.name_director()

    async def story() -> None:
        async with pair.running():
            await until(lambda: pair.uplink.status()["connected"])
            pair.broker.publish("ea1/box-1/dn/time", b"signed")
            await until(lambda: taken)

    asyncio.run(story())
    assert taken == [b"signed"]


def test_without_a_broker_a_stick_brings_the_word_and_takes_the_report_home(
    pair: Pair,
) -> None:
    """What a running controller says and takes is the same by stick as over the link."""
    service, row, node = pair.hub.service, pair.hub.row, pair.node

    async def visit() -> list[str]:
        messages = list(await pair.uplink.up())
        results = await service.replay(row(), messages)
        assert {r["result"] for r in results} == {"taken"}
        down = await pair.uplink.down()
        found = [m for m in await service.answers("box-1") if m.topic.endswith("desired")]
        for message in found:
            await down["desired"](message.payload)
        return [m.topic for m in messages]

    async def story() -> None:
        assert await pair.uplink.down() == {}
        assert await pair.uplink.up() == []
        pair.name_director()
        assert await visit() == ["ea1/box-1/up/reported"]
        pair.in_tuf.list(variant())
        node.bring(variant())
        pair.hub.db.submit(lambda db: store.put_documents(db, "box-1", [deployment()])).result()
        await visit()
        assert node.ledger.read(desired.fleet).generation == 1
        await node.controller.reconcile()
        await visit()
        reported = row().reported
        assert reported is not None
        assert reported["applied"]["generation"] == 1
        assert pair.hub.refusals() == []

    asyncio.run(story())
