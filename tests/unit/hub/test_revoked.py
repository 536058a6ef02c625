"""A node that was revoked is asked nothing, told nothing, and keeps nobody else's out."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.core.ids import NodeId
from appliance.errors import ApplianceError, RevokedError, from_wire
from appliance.hub import carrier, receipts, roster, store
from appliance.hub.api import HubApi
from appliance.hub.commands import CommandDesk
from appliance.sync import mqtt
from appliance.sync.topics import NodeTopics
from tests.fakes.broker import FakeBroker
from tests.helpers.hubs import Hub, TalkingNode
from tests.helpers.models import deployment, wire_deployment
from tests.helpers.waiting import until
from tests.helpers.web import Answer, ask, serving

AT = "2026-12-01T00:00:00.000Z"
NODE = "/api/v1/nodes/box-1"
TOKEN = {"Authorization": "Bearer the token"}
RESTART = {"verb": "restart-engine", "args": {"deployment": "a"}}
HOLD = {"verb": "hold", "args": {"deployment": "a", "reason": "audit", "minutes": 5}}
Ask = Callable[..., Awaitable[Answer]]


class Told:
    """A hub with a broker, and a node that was told all there is, over a connection that lasts."""

    def __init__(self, folder: Path) -> None:
        self.broker, self.hub, self.node = FakeBroker(), Hub(folder), TalkingNode()
        self.desk = CommandDesk(self.hub.identity, self.hub.db, self.hub.clock)
        self.hub.service.add("outcome", self.desk)
        self.hub.admit(self.node)
        self.write(lambda db: store.put_documents(db, "box-1", [deployment("a")]))
        payload = {"dbEpoch": "e1", "applied": {"generation": None}}
        self.write(lambda db: store.set_reported(db, "box-1", payload, 1, AT))

    def write(self, effect: Any) -> Any:
        return self.hub.db.submit(effect).result()

    def revoke(self) -> None:
        self.write(lambda db: roster.revoke(db, "box-1", "stolen", AT))

    def run(self, story: Callable[[Ask], Awaitable[None]]) -> None:
        hub = self.hub
        api = HubApi(
            hub.db, hub.service, hub.clock, "the token", 30.0, loopback=True, commands=self.desk
        )

        async def whole() -> None:
            service = asyncio.create_task(hub.service.run())
            await until(lambda: hub.service.connected, "the hub")
            async with serving(api.app()) as port:

                async def asking(method: str, path: str, body: Any = b"") -> Answer:
                    return await ask(port, method, path, body, TOKEN)

                await story(asking)
            service.cancel()
            await asyncio.gather(service, return_exceptions=True)

        asyncio.run(whole())

    def down(self) -> list[str]:
        return [m.topic for m in self.broker.published if "/dn/" in m.topic and m.payload]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    made = Told(tmp_path)
    monkeypatch.setattr(mqtt, "connect", made.broker.connect)
    yield made
    made.hub.db.close()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "documents", {"documents": [wire_deployment("b")]}),
        ("DELETE", "documents/ModelDeployment/a", b""),
        ("POST", "commands", RESTART),
        ("POST", "commands", HOLD),
        ("POST", "rollback", {"to": 1, "why": "x"}),
        ("POST", "rollback", {"to": 1, "why": "x", "keep": True}),
        ("GET", "messages", b""),
    ],
)
def test_nothing_is_asked_of_a_revoked_node(told: Told, method: str, path: str, body: Any) -> None:
    async def story(ask: Ask) -> None:
        told.revoke()
        before = told.down()
        answer = await ask(method, f"{NODE}/{path}", body)
        assert (answer.status, answer.json()["error"]["code"]) == (403, "revoked")
        assert answer.json()["error"]["exit"] == 29
        assert "hub token box-1" in answer.json()["error"]["hint"]
        assert told.down() == before

    told.run(story)
    assert told.hub.db.read(lambda db: store.generation(db, "box-1")) == 1
    assert told.desk.listed("box-1") == []
    (kept,) = told.hub.db.read(lambda db: store.documents(db, "box-1"))
    assert kept["metadata"]["name"] == "a"


def test_before_it_was_revoked_all_of_it_was_said(told: Told) -> None:
    """Else the test that nothing is said could not fail."""

    async def story(ask: Ask) -> None:
        topics = NodeTopics(NodeId("box-1"))
        assert (await ask("POST", f"{NODE}/commands", RESTART)).status == 200
        batch = told.node.batch(["a"])
        told.broker.publish(topics.stream("usage"), batch.envelope)
        await until(lambda: {topics.ack, topics.desired, topics.command("1")} <= {*told.down()})
        messages = (await ask("GET", f"{NODE}/messages")).json()["messages"]
        assert {topics.ack, topics.desired, topics.command("1")} <= {m["topic"] for m in messages}

    told.run(story)


def test_what_a_revoked_node_says_over_an_open_connection_is_not_answered(told: Told) -> None:
    async def story(ask: Ask) -> None:
        assert (await ask("POST", f"{NODE}/commands", RESTART)).status == 200
        topics = NodeTopics(NodeId("box-1"))
        told.broker.publish(topics.stream("usage"), told.node.batch(["a"]).envelope)
        await until(lambda: {topics.ack, topics.command("1")} <= {*told.down()})
        told.revoke()
        before = told.down()
        for number in (2, 3):
            now = told.hub.clock.utc()
            told.broker.publish(topics.reported, told.node.report(number, now))
        told.broker.publish(topics.stream("usage"), told.node.batch(["b"]).envelope)
        await until(lambda: len(told.hub.refusals()) >= 3, "the refusals")
        assert set(told.hub.refusals()) == {"revoked"}
        await told.hub.service.say("box-1")
        told.hub.service.tell(told.hub.row())
        assert await told.hub.service.intake.acknowledgements(["box-1"]) == []
        assert told.down() == before

    told.run(story)


def test_a_word_that_is_sealed_while_the_node_is_revoked_is_not_said(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = told.hub.service._envelope

    async def slowly(name: str) -> bytes | None:
        found = await sealed(name)
        told.revoke()
        return found

    async def story(ask: Ask) -> None:
        topic = NodeTopics(NodeId("box-1")).desired
        assert (await ask("GET", NODE)).status == 200
        await until(lambda: topic in told.down(), "the greeting")
        said = told.down().count(topic)
        monkeypatch.setattr(told.hub.service, "_envelope", slowly)
        await told.hub.service.say("box-1")
        assert told.down().count(topic) == said

    told.run(story)


def test_a_revoked_node_is_not_told_the_time(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "signed_time", lambda *_: b"12 o'clock")
    assert told.hub.service._signed_time(told.hub.row()) == b"12 o'clock"
    told.revoke()
    assert told.hub.service._signed_time(told.hub.row()) is None


def test_a_machine_that_takes_the_name_is_asked_again(told: Told) -> None:
    told.revoke()
    key = "ab" * 32
    told.write(partial(roster.admit, node="box-1", key=key, site="", at=AT))

    async def story(ask: Ask) -> None:
        answer = await ask("POST", f"{NODE}/documents", {"documents": [wire_deployment("b")]})
        assert answer.status == 200

    told.run(story)


# --- sticks ---------------------------------------------------------------------------------------


def refusing(node: NodeId, _: Any = None) -> dict[str, Any]:
    if node == "box-1":
        raise RevokedError("box-1 was revoked")
    return answering("new")


def answering(result: str) -> dict[str, Any]:
    results = [{"result": result, "fork": None}]
    return {"results": results, "chains": [], "time": None, "positions": [], "messages": []}


def test_a_revoked_node_on_a_stick_keeps_nobody_else_out(tmp_path: Path) -> None:
    for name in ("box-1", "box-2"):
        folder = tmp_path / "up" / name / "receipts"
        folder.mkdir(parents=True)
        (folder / "e1-1.json").write_text("{}")
        (tmp_path / "up" / name / "reported.json").write_text(json.dumps({}))
    found = carrier.import_folder(tmp_path, refusing)
    assert [(d.node, d.new, len(d.refused)) for d in found] == [("box-1", 0, 1), ("box-2", 1, 0)]
    assert from_wire(found[0].refused[0]).exit_code == 29

    def post(node: NodeId, _: Any) -> dict[str, Any]:
        return {**refusing(node), **answering("taken")}

    replays = carrier.import_letters(tmp_path, post, refusing)
    assert [r.node for r in replays] == ["box-1", "box-2"]
    assert isinstance(from_wire(replays[0].refused[0]), RevokedError)
    assert not (tmp_path / "dn" / "box-1").exists()


def test_an_export_leaves_a_revoked_node_out_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from appliance.cli import hub_sync  # noqa: PLC0415 - the command alone

    class Client:
        def call(self, _: str, path: str) -> dict[str, Any]:
            if path == "/api/v1/nodes":
                return {"nodes": [{"node": "box-1"}, {"node": "box-2"}]}
            node = path.split("/")[4]
            refusing(NodeId(node))
            topic = NodeTopics(NodeId(node)).time
            return {"messages": [{"topic": topic, "payload": "{}"}]}

    client: Any = Client()
    hub_sync._export(tmp_path, client, None, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "box-1: revoked, nothing is written for it",
        "box-2: time.json",
    ]
    assert [p.name for p in (tmp_path / "dn").iterdir()] == ["box-2"]
    with pytest.raises(ApplianceError) as refused:
        hub_sync._export(tmp_path, client, "box-1", as_json=False)
    assert refused.value.exit_code == 29
