"""The hub's API for commands and for going back."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.hub import store
from appliance.hub.api import HubApi
from appliance.hub.commands import CommandDesk
from appliance.sync import mqtt
from tests.fakes.broker import FakeBroker
from tests.helpers.hubs import Hub, TalkingNode
from tests.helpers.models import wire_deployment
from tests.helpers.web import Answer, ask, serving

AT = "2026-12-01T00:00:00.000Z"
NODE = "/api/v1/nodes/box-1"
TOKEN = {"Authorization": "Bearer the token"}
RESTART = {"verb": "restart-engine", "args": {"deployment": "a"}}
Ask = Callable[..., Awaitable[Answer]]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(mqtt, "connect", FakeBroker().connect)
    made = Hub(tmp_path)
    made.admit(TalkingNode())
    payload = {"dbEpoch": "e1", "applied": {"generation": None}}
    made.db.submit(lambda db: store.set_reported(db, "box-1", payload, 1, AT)).result()
    yield made
    made.db.close()


def run(hub: Hub, story: Callable[[Ask], Awaitable[None]], *, desk: bool = True) -> None:
    made = CommandDesk(hub.identity, hub.db, hub.clock)
    token = hub.identity.token
    api = HubApi(hub.db, hub.service, hub.clock, token, 30.0, loopback=True)
    if desk:
        api = HubApi(hub.db, hub.service, hub.clock, token, 30.0, loopback=True, commands=made)

    async def whole() -> None:
        async with serving(api.app()) as port:

            async def asking(
                method: str, path: str, body: Any = b"", headers: dict[str, str] = TOKEN
            ) -> Answer:
                return await ask(port, method, path, body, headers)

            await story(asking)

    asyncio.run(whole())


def test_a_command_is_issued_and_listed(hub: Hub) -> None:
    async def story(ask: Ask) -> None:
        issued = await ask("POST", f"{NODE}/commands", {**RESTART, "expires_s": 60})
        assert (issued.status, issued.json()["id"]) == (200, "1")
        assert issued.json()["expires"] == "2026-12-01T00:01:00.000Z"
        (listed,) = (await ask("GET", f"{NODE}/commands")).json()["commands"]
        assert (listed["verb"], listed["args"], listed["state"]) == (
            RESTART["verb"], RESTART["args"], "waiting",
        )  # fmt: skip

    run(hub, story)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("commands", {}),
        ("commands", {"verb": "reboot"}),
        ("commands", {**RESTART, "args": "a"}),
        ("commands", {**RESTART, "expires_s": "soon"}),
        ("commands", {**RESTART, "expires_s": True}),
        ("commands", {**RESTART, "expires_s": 0}),
        ("rollback", {}),
        ("rollback", {"to": "1", "why": "x"}),
        ("rollback", {"to": True, "why": "x"}),
        ("rollback", {"to": 1}),
        ("rollback", {"to": 1, "why": "nothing was asked yet"}),
        ("rollback", {"to": 1, "why": "x", "keep": "yes"}),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(hub: Hub, path: str, body: Any) -> None:
    async def story(ask: Ask) -> None:
        answer = await ask("POST", f"{NODE}/{path}", body)
        assert answer.status == 400
        assert answer.json()["error"]["code"] == "usage"

    run(hub, story)


def test_commanding_needs_the_token_and_a_desk(hub: Hub) -> None:
    async def refused(ask: Ask) -> None:
        for path, body in (("commands", RESTART), ("rollback", {"to": 1, "why": "x"})):
            answer = await ask("POST", f"{NODE}/{path}", body, {})
            assert answer.json()["error"]["code"] == "signature"
        assert (await ask("GET", f"{NODE}/commands")).json() == {"commands": []}

    async def absent(ask: Ask) -> None:
        assert (await ask("POST", f"{NODE}/commands", RESTART)).status == 404

    run(hub, refused)
    run(hub, absent, desk=False)


def test_a_node_is_asked_for_what_it_was_asked_before(hub: Hub) -> None:
    async def story(ask: Ask) -> None:
        for replicas in (1, 2):
            documents = [wire_deployment("a", replicas=replicas)]
            await ask("POST", f"{NODE}/documents", {"documents": documents})
        answer = await ask("POST", f"{NODE}/rollback", {"to": 1, "why": "two were too many"})
        assert answer.json() == {"node": "box-1", "generation": 3, "to": 1}
        (document,) = (await ask("GET", NODE)).json()["documents"]
        assert document["spec"]["replicas"] == 1

    run(hub, story)
