"""The hub's routes for enrolment: which are open, which are not, and what they say."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509

from appliance.hub.api import HubApi
from tests.helpers.enrolling import Machine, Office
from tests.helpers.web import Answer, ask, serving

NODE = "/api/v1/nodes/box-1"
TOKEN = {"Authorization": "Bearer the token"}
Ask = Callable[..., Awaitable[Answer]]


class Web:
    """A hub's API on loopback that counts as reached from elsewhere, and a machine."""

    def __init__(self, folder: Path) -> None:
        self.office = Office(folder / "hub")
        self.machine = Machine(folder / "machine", self.office.clock)

    def request(self) -> dict[str, object]:
        return {"request": json.loads(self.machine.certificates.request())}

    def run(self, story: Callable[[Ask], Awaitable[None]]) -> None:
        hub = self.office.hub
        api = HubApi(
            hub.db, hub.service, hub.clock, "the token", 30.0, loopback=False,
            enrolment=self.office.enrolment,
        )  # fmt: skip

        async def whole() -> None:
            async with serving(api.app()) as port:

                async def asking(
                    method: str, path: str, body: object = b"", headers: object = TOKEN
                ) -> Answer:
                    return await ask(port, method, path, body, headers)  # type: ignore[arg-type]

                await story(asking)

        asyncio.run(whole())


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    made = Web(tmp_path)
    yield made
    made.office.close()
    made.machine.close()


def test_what_changes_something_needs_the_token_of_the_api(web: Web) -> None:
    async def story(ask: Ask) -> None:
        for path, body in (
            ("/api/v1/enrol/approve", {**web.request(), "fingerprint": "x"}),
            ("/api/v1/enrol/look", web.request()),
            (f"{NODE}/token", {"minutes": 5}),
            (f"{NODE}/revoke", {"why": "stolen"}),
            (f"{NODE}/replace", {"key": "ab" * 32}),
        ):
            answer = await ask("POST", path, body, {})
            assert (answer.status, answer.json()["error"]["code"]) == (401, "signature"), path
        assert web.office.row() is None

    web.run(story)


def test_what_is_signed_or_public_needs_none(web: Web) -> None:
    async def story(ask: Ask) -> None:
        refused = await ask("POST", "/api/v1/enrol", web.request(), {})
        assert (refused.status, refused.json()["error"]["code"]) == (404, "not-found")
        web.office.admit(web.machine)
        answer = await ask("POST", "/api/v1/enrol", web.request(), {})
        assert answer.json()["node"] == "box-1"
        authority = (await ask("GET", "/api/v1/authority", b"", {})).json()
        assert authority["hash"] == web.office.authority.hash
        assert answer.json()["chain"].endswith(authority["pem"])
        crl = await ask("GET", "/api/v1/crl", b"", {})
        assert len(list(x509.load_pem_x509_crl(crl.body))) == 0

    web.run(story)


def test_a_node_s_life_over_the_api(web: Web) -> None:
    async def story(ask: Ask) -> None:
        shown = (await ask("POST", "/api/v1/enrol/look", web.request())).json()
        assert shown == {"node": "box-1", "fingerprint": web.machine.certificates.fingerprint()}
        approved = {**web.request(), "fingerprint": shown["fingerprint"], "site": "hall 4"}
        assert (await ask("POST", "/api/v1/enrol/approve", approved)).status == 200
        node = (await ask("GET", NODE)).json()
        assert (node["site"], len(node["certificates"])) == ("hall 4", 1)
        made = (await ask("POST", f"{NODE}/token", {"minutes": 5, "replaces": True})).json()
        assert made["token"].startswith("ea1-")
        gone = (await ask("POST", f"{NODE}/revoke", {"why": "stolen"})).json()
        assert gone["revoked_at"] == "2026-12-01T00:00:00.000Z"
        listed = (await ask("GET", "/api/v1/nodes")).json()["nodes"]
        assert [(n["node"], n["state"]) for n in listed] == [("box-1", "revoked")]
        for method, path, body in (
            ("POST", "/api/v1/enrol", web.request()),
            ("POST", f"{NODE}/receipts", {"receipts": []}),
            ("PUT", NODE, {"key": web.machine.identity.key.public}),
            ("POST", f"{NODE}/replace", {"key": web.machine.identity.key.public}),
        ):
            answer = await ask(method, path, body)
            refused = (answer.status, answer.json().get("error", {}).get("code"))
            assert refused == (403, "revoked"), path
        assert (await ask("PUT", NODE, {"key": "ab" * 32})).status == 200
        assert (await ask("GET", NODE)).json()["state"] == "never heard"

    web.run(story)


def test_what_makes_no_sense_is_said(web: Web) -> None:
    async def story(ask: Ask) -> None:
        for path, body, code in (
            ("/api/v1/enrol", {}, "malformed"),
            ("/api/v1/enrol", {"request": {}}, "malformed"),
            ("/api/v1/enrol/approve", {**web.request(), "fingerprint": 7}, "usage"),
            (f"{NODE}/token", {"minutes": 0}, "usage"),
            (f"{NODE}/token", {"minutes": 99_999}, "usage"),
            (f"{NODE}/token", {"minutes": 5, "site": "<script>"}, "usage"),
            (f"{NODE}/revoke", {"why": " "}, "usage"),
            (f"{NODE}/revoke", {"why": "\x1b[2J"}, "usage"),
            (f"{NODE}/revoke", {"why": "stolen"}, "not-found"),
            (f"{NODE}/replace", {"key": "zz"}, "malformed"),
            (f"{NODE}/replace", {"key": "ab" * 32}, "not-found"),
            ("/api/v1/nodes/B%20X/token", {"minutes": 5}, "usage"),
        ):
            answer = await ask("POST", path, body)
            assert answer.json()["error"]["code"] == code, f"{path} {body}"

    web.run(story)
