"""The hub's REST API and its page: who may do what, what errors look like, what is escaped."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.core import wire
from appliance.hub import store
from appliance.hub.api import HubApi
from appliance.ledger import receipts
from appliance.sync import mqtt
from appliance.sync.batch import open_batch
from appliance.trust.envelope import Slot
from appliance.trust.receipt import imported, payload_of, sign
from tests.fakes.broker import FakeBroker
from tests.helpers.hubs import Hub, TalkingNode
from tests.helpers.models import wire_deployment, wire_site
from tests.helpers.sticks import Site
from tests.helpers.web import Answer, ask, serving

pytestmark = pytest.mark.slow


NODE = "/api/v1/nodes/box-1"
TOKEN = {"Authorization": "Bearer the token"}
KEY = "ab" * 32

Ask = Callable[..., Awaitable[Answer]]
Story = Callable[[Ask], Awaitable[None]]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(mqtt, "connect", FakeBroker().connect)
    made = Hub(tmp_path)
    yield made
    made.db.close()


def run(hub: Hub, story: Story, *, loopback: bool = True) -> None:
    """Serve the API while a story asks it, with the token unless it says otherwise."""
    api = HubApi(hub.db, hub.service, hub.clock, hub.identity.token, 30.0, loopback)

    async def whole() -> None:
        async with serving(api.app()) as port:

            async def asking(
                method: str, path: str, body: Any = b"", headers: dict[str, str] = TOKEN
            ) -> Answer:
                return await ask(port, method, path, body, headers)

            await story(asking)

    asyncio.run(whole())


def report(hub: Hub, node: TalkingNode, payload: dict[str, Any]) -> None:
    body = {"dbEpoch": "e1", "applied": {"generation": None}, **payload}
    at = "2026-12-01T00:00:00.000Z"
    hub.db.submit(lambda db: store.set_reported(db, node.me.node, body, 1, at)).result()


def test_a_node_is_admitted_asked_for_something_and_shown(hub: Hub) -> None:
    async def story(ask: Ask) -> None:
        admitted = await ask("PUT", NODE, {"key": KEY})
        assert (admitted.status, admitted.json()) == (200, {"node": "box-1", "result": "admitted"})
        for generation, documents in enumerate(
            ([wire_deployment("a"), wire_site()], [wire_deployment("b")]), start=1
        ):
            answer = await ask("POST", f"{NODE}/documents", {"documents": documents})
            assert answer.json() == {"node": "box-1", "generation": generation}
        gone = await ask("DELETE", f"{NODE}/documents/ModelDeployment/a")
        assert gone.json()["generation"] == 3
        shown = (await ask("GET", NODE)).json()
        assert [d["metadata"]["name"] for d in shown["documents"]] == ["b", "here"]
        assert (shown["key"], shown["state"], shown["generation"]) == (KEY, "never heard", 3)
        listed = (await ask("GET", "/api/v1/nodes")).json()["nodes"]
        assert [n["node"] for n in listed] == ["box-1"]

    run(hub, story)


WRITES = [
    ("PUT", NODE),
    ("POST", f"{NODE}/documents"),
    ("DELETE", f"{NODE}/documents/ModelDeployment/a"),
    ("POST", f"{NODE}/receipts"),
]
READS = [
    ("GET", "/api/v1/receipts"),
    ("GET", f"{NODE}/receipts"),
    ("GET", "/"),
    ("GET", "/api/v1/nodes"),
    ("GET", NODE),
    ("GET", f"{NODE}/records"),
    ("GET", f"{NODE}/batches"),
]


STRANGERS = [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic the token"}]


def test_writing_needs_the_token_and_reading_does_when_others_reach_us(hub: Hub) -> None:
    async def from_here(ask: Ask) -> None:
        for headers in STRANGERS:
            for method, path in WRITES:
                answer = await ask(method, path, {"key": KEY}, headers)
                assert answer.status == 401
                assert answer.json()["error"]["code"] == "signature"
            for method, path in READS:
                assert (await ask(method, path, headers=headers)).status == 200

    async def from_anywhere(ask: Ask) -> None:
        for method, path in [*WRITES, *READS]:
            for headers in STRANGERS:
                assert (await ask(method, path, headers=headers)).status == 401
            assert (await ask(method, path, {"key": KEY})).status != 401

    hub.admit(TalkingNode())
    run(hub, from_here)
    run(hub, from_anywhere, loopback=False)


ERRORS: list[tuple[str, str, Any, int, str]] = [
    ("GET", "/api/v1/nodes/box-9", b"", 404, "not-found"),
    ("GET", "/api/v1/nodes/Box", b"", 400, "usage"),
    ("PUT", NODE, {"key": "ab" * 31}, 400, "malformed"),
    ("PUT", NODE, {}, 400, "malformed"),
    ("PUT", NODE, {"key": "cd" * 32}, 400, "usage"),
    ("PUT", NODE, b"not JSON", 400, "malformed"),
    ("PUT", NODE, b"[]", 400, "malformed"),
    ("POST", f"{NODE}/documents", {}, 400, "usage"),
    ("POST", f"{NODE}/receipts", {}, 400, "malformed"),
    ("POST", f"{NODE}/receipts", {"receipts": ["x"]}, 400, "malformed"),
    ("POST", "/api/v1/nodes/box-9/receipts", {"receipts": []}, 404, "not-found"),
    ("GET", "/api/v1/nodes/box-9/receipts", b"", 404, "not-found"),
    ("POST", f"{NODE}/documents", {"documents": []}, 400, "usage"),
    ("POST", f"{NODE}/documents", {"documents": ["x"]}, 400, "bad-document"),
    ("POST", f"{NODE}/documents", {"documents": [wire_deployment("Bad")]}, 400, "bad-document"),
    ("POST", "/api/v1/nodes/box-9/documents", {"documents": [wire_site()]}, 404, "not-found"),
    ("DELETE", f"{NODE}/documents/ModelDeployment/none", b"", 404, "not-found"),
    ("PUT", NODE, b" " * (1 << 21), 400, "usage"),
    ("PUT", NODE, b'{"key":1e999}', 400, "malformed"),
    ("GET", "/nothing", b"", 404, "not-found"),
    ("GET", "/api/v1/nodes/", b"", 404, "not-found"),
    ("POST", "/api/v1/nodes", b"", 405, "usage"),
    ("GET", f"{NODE}/records?after=x", b"", 400, "usage"),
    ("GET", f"{NODE}/records?after=-1", b"", 400, "usage"),
    ("GET", f"{NODE}/records?after={'9' * 30}", b"", 400, "usage"),
]


def test_an_error_has_one_form(hub: Hub) -> None:
    async def story(ask: Ask) -> None:
        for method, path, body, status, code in ERRORS:
            answer = await ask(method, path, body)
            error = answer.json()["error"]
            assert (answer.status, error["code"]) == (status, code), f"{method} {path} {body!r}"
            assert set(error) == {"code", "exit", "what", "hint"}

    hub.admit(TalkingNode())
    run(hub, story)


def test_a_bundle_definition_is_not_something_a_node_is_asked_for(hub: Hub) -> None:
    lock = {**wire_site(), "kind": "BundleLock", "spec": {"sources": []}}

    async def story(ask: Ask) -> None:
        documents = [wire_deployment(), lock]
        answer = await ask("POST", f"{NODE}/documents", {"documents": documents})
        assert "BundleLock is not something a node is asked for" in answer.json()["error"]["what"]
        assert (await ask("GET", NODE)).json()["documents"] == []

    hub.admit(TalkingNode())
    run(hub, story)


def test_records_and_batches_are_read_in_order(hub: Hub) -> None:
    node = TalkingNode()
    hub.admit(node)
    for bodies in (["a", "b"], ["c"]):
        batch = open_batch(node.batch(bodies).envelope, {node.key.public}, node.me, "usage")
        hub.db.submit(partial(store.ingest, name="box-1", batch=batch, at="at")).result()

    async def story(ask: Ask) -> None:
        found = (await ask("GET", f"{NODE}/records?stream=usage&epoch=e1&after=1")).json()
        assert [(r["seq"], r["epoch"], r["body"]) for r in found["records"]] == [
            (2, "e1", "b"),
            (3, "e1", "c"),
        ]
        assert (await ask("GET", f"{NODE}/records?stream=audit")).json()["records"] == []
        batches = (await ask("GET", f"{NODE}/batches")).json()["batches"]
        assert [(b["first"], b["count"]) for b in batches] == [(1, 2), (3, 1)]

    run(hub, story)


HOSTILE = "<script>alert('x')</script>"


def test_the_page_shows_every_node_and_escapes_what_nodes_say(hub: Hub) -> None:
    good, bad, silent = TalkingNode("box-1"), TalkingNode("box-2"), TalkingNode("box-3")
    for node in (good, bad, silent):
        hub.admit(node)
    serving_well = {
        "name": "notes", "model": "small", "variant": "Q4_0", "ready": 1, "replicas": 1,
        "conditions": [{"type": "Ready", "status": "True"}],
    }  # fmt: skip
    report(hub, good, {"deployments": [serving_well], "drift": {"notes": "replicas is 1 here"}})
    hostile = dict.fromkeys(serving_well, HOSTILE)
    gpus = {"gpus": {"gpus": [{"name": HOSTILE}]}}
    report(
        hub,
        bad,
        {
            "deployments": [hostile],
            "drift": {HOSTILE: HOSTILE, "gone": HOSTILE},
            "machine": gpus,
            "applied": {"generation": HOSTILE},
        },
    )

    async def story(ask: Ask) -> None:
        answer = await ask("GET", "/", headers={})
        page = answer.body.decode()
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/html")
        for text in (
            "box-1",
            "box-2",
            "box-3",
            "1 of 1",
            "drift: replicas is 1 here",
            "never",
        ):
            assert text in page
        assert "<script" not in page
        assert page.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;") >= 7
        assert "broker not connected" in page

    run(hub, story)


def test_a_node_that_signs_nonsense_does_not_take_the_page_from_the_others(hub: Hub) -> None:
    for number, nonsense in enumerate([["x"], {"a": 1}, 7, [{"name": 7}], [{"conditions": 1}]]):
        node = TalkingNode(f"box-{number}")
        hub.admit(node)
        report(hub, node, dict.fromkeys(("deployments", "drift", "machine", "removed"), nonsense))

    async def story(ask: Ask) -> None:
        assert (await ask("GET", "/")).body.count(b">degraded<") == 5
        listed = (await ask("GET", "/api/v1/nodes")).json()["nodes"]
        assert [n["state"] for n in listed] == ["degraded"] * 5
        assert [(await ask("GET", f"/api/v1/nodes/box-{n}")).status for n in range(5)] == [200] * 5

    run(hub, story)


def test_an_empty_fleet_says_what_to_do(hub: Hub) -> None:
    async def story(ask: Ask) -> None:
        assert b"appliance hub admit NODE" in (await ask("GET", "/")).body

    run(hub, story)


def test_the_page_loads_nothing_from_elsewhere(hub: Hub) -> None:
    async def story(ask: Ask) -> None:
        for path in ("/", "/api/v1/nodes", NODE):
            headers = (await ask("GET", path, headers={})).headers
            assert headers["content-security-policy"].startswith("default-src 'none'")
            assert headers["cache-control"] == "no-store"
        page = (await ask("GET", "/")).body
        assert b"http://" not in page
        assert b"https://" not in page
        style = await ask("GET", "/static/hub.css", headers={})
        assert style.status == 200
        assert style.headers["content-type"].startswith("text/css")
        assert b"@import" not in style.body
        assert b"url(" not in style.body

    hub.admit(TalkingNode())
    run(hub, story)


def test_what_is_beside_the_pages_cannot_be_read(hub: Hub) -> None:
    async def story(ask: Ask) -> None:
        for path in ("/static/../templates/nodes.html", "/static/%2e%2e/templates/nodes.html"):
            assert (await ask("GET", path)).status == 404

    run(hub, story)


def test_receipts_come_in_are_listed_and_a_second_history_is_shown(
    hub: Hub, tmp_path: Path
) -> None:
    site = Site(tmp_path / "node", hub.identity.sync)
    site.make(imported("small", "1.0.0"))
    site.ask()
    site.make(imported("small", "1.1.0"))
    found = [wire.loads(r.envelope, what="it") for r in site.ledger.read(receipts.rows)]
    site.close()
    payload = payload_of(wire.dumps(found[1]))
    twin = wire.loads(sign({**payload, "store": []}, site.key)[0], what="it")

    async def story(ask: Ask) -> None:
        await ask("PUT", NODE, {"key": site.key.public})
        answer = (await ask("POST", f"{NODE}/receipts", {"receipts": found})).json()
        assert [r["result"] for r in answer["results"]] == ["new", "new"]
        assert answer["time"]["payloadType"] == Slot.TIME
        listed = (await ask("GET", "/api/v1/receipts")).json()["chains"]
        assert [(c["node"], c["upto"], c["forks"]) for c in listed] == [("box-1", 2, [])]
        each = (await ask("GET", f"{NODE}/receipts")).json()["receipts"]
        assert [(r["seq"], r["kind"]) for r in each] == [(1, "import"), (2, "import")]
        answer = (await ask("POST", f"{NODE}/receipts", {"receipts": [twin]})).json()
        assert answer["results"][0]["result"] == "equivocation"
        (shown,) = (await ask("GET", "/api/v1/nodes")).json()["nodes"]
        assert shown["state"] == "suspect"
        assert b"two histories since receipt 2" in (await ask("GET", "/")).body

    run(hub, story)
