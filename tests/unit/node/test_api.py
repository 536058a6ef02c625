"""The local API over a real Unix socket, as the commands of this machine use it."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle.media.queue import Entry
from appliance.cache import catalog
from appliance.core.ids import Digest
from appliance.core.reading import parse_yaml
from appliance.core.state import Origin
from appliance.errors import (
    ApplianceError,
    BadDocumentError,
    ForbiddenError,
    IncompleteError,
    LockedError,
    MalformedError,
    NoSpaceError,
    NotFoundError,
    PeerUnreachableError,
    RefusedError,
    ScopeError,
    UsageError,
)
from appliance.kit.files import locked
from appliance.kit.http import HttpClient
from appliance.kit.reserve import Reserve
from appliance.ledger import overrides, streams
from appliance.ledger.streams import Stream
from appliance.node import desired, keys
from appliance.node.api import carry
from appliance.node.api.app import local_api
from appliance.node.api.services import LocalServices
from appliance.node.desired import FleetWord
from appliance.node.fetching import Fetching
from appliance.node.gpus import Gpus
from appliance.node.software import Software
from appliance.settings import NetworkSettings
from appliance.software.shelf import Shelf, Staged
from appliance.trust.enrolment import EnrolmentToken
from tests.conftest import ROOT
from tests.fakes.controllers import FakeControllers
from tests.fakes.gpus import FakeGpus
from tests.helpers.carrying import carrier_of
from tests.helpers.enrolling import certificates_of
from tests.helpers.gguf import write_small_llama
from tests.helpers.models import deployment, variant, wire_deployment, wire_site
from tests.helpers.organisation import Node
from tests.helpers.stores import care_of
from tests.helpers.waiting import StillClock
from tests.helpers.web import serving_unix

pytestmark = pytest.mark.slow

ME = f"uid {os.getuid()}"


class Box:
    """A node behind its socket. Each story gets a client, and runs on a thread of its own."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.changes = 0
        self.stopped: list[bool] = []
        self.reserve = Reserve(node.state / "reserve")
        self.controllers = FakeControllers()
        self.driver = FakeGpus(["GPU-a", "GPU-b"])
        self.gpus = Gpus(node.ledger, StillClock(), self.driver, list)

    async def changed(self) -> None:
        self.changes += 1

    def stop(self, *, engines_too: bool) -> None:
        self.stopped.append(engines_too)

    def log_lines(self, name: str, lines: int) -> dict[str, list[str]]:
        if name != "notes":
            raise NotFoundError(f"no deployment {name!r} is in force")
        return {"notes-0": [f"line {n}" for n in range(lines)]}

    def run(self, story: Callable[[HttpClient], None]) -> None:
        services = LocalServices(
            ledger=self.node.ledger,
            importer=self.node.importer,
            receipts=self.node.receipts,
            answers=self.node.answers,
            certificates=certificates_of(self.node),
            care=care_of(self.node),
            software=Software(Shelf(self.node.state), self.controllers, StillClock()),
            gpus=self.gpus,
            reserve=self.reserve,
            clock=StillClock(),
            status=lambda: {"node": "box-1", "deployments": [{"name": "notes"}]},
            log_lines=self.log_lines,
            changed=self.changed,
            stop=self.stop,
            fetching=Fetching(
                self.node.ledger, self.node.importer, StillClock(), NetworkSettings(tries=1)
            ),
            carrier=carrier_of(self.node, StillClock()),
        )

        async def whole() -> None:
            async with serving_unix(local_api(services)) as path:
                client = HttpClient.over_unix(path, "the node", "start it", timeout_s=10)
                await asyncio.to_thread(story, client)

        asyncio.run(whole())

    def audit(self) -> list[tuple[str, dict[str, Any]]]:
        found = self.node.ledger.read(lambda db: list(streams.waiting(db, Stream.AUDIT, 100)))
        return [(r.record["kind"], r.record["body"]) for r in found]

    def in_force(self) -> dict[str, Origin]:
        state = self.node.ledger.read(desired.in_force)
        return {d.document.name: d.origin for d in state.deployments}


@pytest.fixture
def box(node: Node) -> Box:
    return Box(node)


def test_what_is_applied_is_in_force_and_the_audit_says_who_did_it(box: Box) -> None:
    def story(client: HttpClient) -> None:
        documents = [wire_deployment("a"), wire_site("here")]
        for result in ("created", "unchanged"):
            answer = client.call("POST", "/v1/apply", {"documents": documents})
            assert answer == {"applied": {"ModelDeployment/a": result, "Site/here": result}}

    box.run(story)
    assert box.in_force() == {"a": Origin.LOCAL}
    assert box.changes == 2
    kind, body = box.audit()[0]
    assert (kind, body["by"], body["kind"], body["name"]) == ("apply", ME, "ModelDeployment", "a")
    assert body["document"] == wire_deployment("a")
    assert len(box.audit()) == 4


def test_the_examples_are_in_force_once_they_are_applied(box: Box) -> None:
    files = sorted((ROOT / "examples").glob("*.yaml"))
    documents = [d.to_wire() for f in files for d in parse_yaml(f.read_text(), f.name)]

    def story(client: HttpClient) -> None:
        answer = client.call("POST", "/v1/apply", {"documents": documents})
        assert set(answer["applied"].values()) == {"created"}

    box.run(story)
    state = box.node.ledger.read(desired.in_force)
    assert len(state.deployments) == len(documents) - 1  # the other one is the Site
    assert {d.document.metadata.namespace for d in state.deployments} == {"edge-engines"}


def test_deleting_and_releasing_say_in_words_what_they_did(box: Box) -> None:
    def story(client: HttpClient) -> None:
        client.call(
            "POST", "/v1/apply", {"documents": [wire_deployment("a"), wire_deployment("b")]}
        )
        gone = client.call("DELETE", "/v1/deployments/a")
        assert gone == {"name": "a", "result": "removed"}
        released = client.call("POST", "/v1/deployments/b/release")
        assert released["result"] == "released; the fleet does not ask for it, so it ends"

    box.run(story)
    assert box.in_force() == {}
    assert [kind for kind, _ in box.audit()] == ["apply", "apply", "delete", "release"]
    assert box.audit()[2][1] == {"by": ME, "name": "a"}


def test_a_hold_a_pin_and_an_override_say_why_and_until_when(box: Box) -> None:
    word = FleetWord(1, 1, "hash", (deployment("a", replicas=2),))
    box.node.ledger.record(lambda db: desired.set_fleet(db, word)).result()
    box.node.ledger.record(lambda db: catalog.add(db, variant("small"), "now")).result()

    def story(client: HttpClient) -> None:
        body = {"reason": "audit week", "until": "2h"}
        held = client.call("POST", "/v1/deployments/a/hold", body)
        assert held["result"].startswith("held as it is until 20")
        pinned = client.call(
            "POST", "/v1/deployments/a/pin", {"reason": "known good", "model": "small@1.0.0"}
        )
        assert pinned["result"] == "pinned to small@1.0.0; release gives it back"
        documents = [wire_deployment("a", replicas=1), wire_deployment("b", "typo")]
        said = {"documents": documents, "reason": "too hot", "until": "1d"}
        answer = client.call("POST", "/v1/apply", said)
        absent = "typo is not in the catalogue, which holds small"
        assert answer["waits"] == {"ModelDeployment/b": absent}

    box.run(story)
    row, _ = box.node.ledger.read(overrides.rows).values()
    assert (row.mode, row.reason, row.by) == ("override", "too hot", ME)
    told = [(kind, body["reason"]) for kind, body in box.audit()[:3]]
    assert told == [("hold", "audit week"), ("pin", "known good"), ("apply", "too hot")]
    assert box.audit()[1][1] == {
        "by": ME, "name": "a", "model": "small@1.0.0", "reason": "known good", "until": None,
    }  # fmt: skip


def test_a_pin_to_a_typo_is_refused_unless_somebody_says_anyway(box: Box) -> None:
    word = FleetWord(1, 1, "hash", (deployment("a"),))
    box.node.ledger.record(lambda db: desired.set_fleet(db, word)).result()

    def story(client: HttpClient) -> None:
        body = {"reason": "known good", "model": "typo"}
        with pytest.raises(NotFoundError, match="a would stop serving"):
            client.call("POST", "/v1/deployments/a/pin", body)
        assert box.audit() == []
        client.call("POST", "/v1/deployments/a/pin", {**body, "anyway": True})

    box.run(story)
    assert [(kind, body["model"]) for kind, body in box.audit()] == [("pin", "typo")]


@pytest.mark.parametrize(
    "body",
    [{}, {"reason": " "}, {"reason": "x", "until": "soon"}, {"reason": "x", "until": 5},
     {"reason": "x" * 201}],
)  # fmt: skip
def test_a_hold_without_a_reason_or_with_no_end_is_refused(box: Box, body: Any) -> None:
    def story(client: HttpClient) -> None:
        with pytest.raises(UsageError):
            client.call("POST", "/v1/deployments/a/hold", body)

    box.run(story)
    assert box.audit() == []


def test_what_failed_is_not_in_the_audit(box: Box) -> None:
    def story(client: HttpClient) -> None:
        for method, path in (
            ("DELETE", "/v1/deployments/none"),
            ("POST", "/v1/deployments/none/release"),
            ("DELETE", "/v1/gateway/keys/none"),
        ):
            with pytest.raises(NotFoundError, match="none"):
                client.call(method, path)

    box.run(story)
    assert box.audit() == []
    assert box.changes == 0


REFUSED: list[tuple[str, str, dict[str, Any] | None, type[ApplianceError], str]] = [
    ("POST", "/v1/apply", {}, UsageError, "holds no documents"),
    ("POST", "/v1/apply", {"documents": []}, UsageError, "holds no documents"),
    ("POST", "/v1/apply", None, MalformedError, "not strict JSON"),
    ("POST", "/v1/gateway/keys", {"id": "a/b", "tenant": "t"}, UsageError, "not a name"),
    ("GET", "/v1/nothing", None, NotFoundError, "there is no GET /v1/nothing"),
    ("DELETE", "/v1/status", None, UsageError, "there is no DELETE /v1/status"),
    ("POST", "/v1/apply", {"documents": ["x"]}, BadDocumentError, "mapping"),
    (
        "POST",
        "/v1/apply",
        {"documents": [wire_deployment("a"), wire_deployment("b", contxt=1)]},
        BadDocumentError,
        "contxt",
    ),
    (
        "POST",
        "/v1/apply",
        {"documents": [{**wire_site(), "kind": "BundleLock", "spec": {"sources": []}}]},
        UsageError,
        "a BundleLock is not applied to a node",
    ),
    (
        "POST",
        "/v1/apply",
        {"documents": [{**wire_site(), "kind": "Model", "spec": {"variants": []}}]},
        UsageError,
        "a Model is not applied to a node",
    ),
    ("POST", "/v1/import", {"path": "stick"}, UsageError, "absolute path"),
    ("POST", "/v1/import", {}, UsageError, "absolute path"),
    ("POST", "/v1/models/local", {"path": "x.gguf", "name": "a"}, UsageError, "absolute path"),
    ("POST", "/v1/models/local", {"path": "/x.gguf"}, UsageError, "needs a name"),
    ("POST", "/v1/models/local", {"path": "/x", "name": 1}, UsageError, "are texts"),
    ("POST", "/v1/models/local", {"path": "/no/x", "name": "a"}, NotFoundError, "no model at"),
    ("DELETE", "/v1/models/local/mine", None, NotFoundError, "brought no such model"),
    ("POST", "/v1/receipts/export", {"path": "stick"}, UsageError, "absolute path"),
    ("POST", "/v1/receipts/export", {"path": "/no/stick"}, NotFoundError, "no folder /no/stick"),
    ("POST", "/v1/time", {}, UsageError, "absolute path"),
    ("GET", "/v1/receipts/x", None, UsageError, "not the number of a receipt"),
    ("GET", "/v1/receipts/7", None, NotFoundError, "no receipt 7"),
    ("POST", "/v1/gateway/keys", {"id": "a"}, UsageError, "a name and a tenant"),
    ("GET", "/v1/deployments/notes/logs?lines=0", None, UsageError, "1 to 10000"),
    ("GET", "/v1/deployments/notes/logs?lines=x", None, UsageError, "1 to 10000"),
    ("GET", "/v1/deployments/other/logs", None, NotFoundError, "'other'"),
    ("POST", "/v1/software/switch", {}, UsageError, "version is missing"),
    ("POST", "/v1/software/stage", {"version": "9"}, NotFoundError, "no controller"),
    ("GET", "/v1/other", None, NotFoundError, "there is no"),
]


def test_a_token_and_an_authority_that_contradict_each_other_are_refused(box: Box) -> None:
    token = EnrolmentToken.create("ab" * 32)
    body = {"hub": "http://127.0.0.1:1", "token": token.text}

    def story(client: HttpClient) -> None:
        with pytest.raises(ScopeError, match="another authority than --ca") as refused:
            client.call("POST", "/v1/certificate", {**body, "authority": "cd" * 32})
        assert "appliance hub ca" in str(refused.value.hint)
        for same in ("ab" * 32, "AB" * 32, ""):
            with pytest.raises(PeerUnreachableError):
                client.call("POST", "/v1/certificate", {**body, "authority": same})

    box.run(story)


def test_an_error_arrives_as_its_own_family(box: Box) -> None:
    def story(client: HttpClient) -> None:
        for method, path, body, family, text in REFUSED:
            with pytest.raises(family) as caught:
                client.call(method, path, body)
            assert text in caught.value.what, f"{method} {path} {body}"

    box.run(story)
    assert box.in_force() == {}
    assert box.audit() == []


def test_keys_are_made_listed_without_their_text_and_revoked(box: Box) -> None:
    def story(client: HttpClient) -> None:
        made = client.call("POST", "/v1/gateway/keys", {"id": "app", "tenant": "ward"})
        assert made["key"].startswith("ea-")
        with pytest.raises(UsageError, match="already"):
            client.call("POST", "/v1/gateway/keys", {"id": "app", "tenant": "ward"})
        listed = client.call("GET", "/v1/gateway/keys")
        assert listed == {"keys": [{"id": "app", "tenant": "ward"}]}
        assert client.call("DELETE", "/v1/gateway/keys/app")["result"] == "revoked"
        texts.append(made["key"])

    texts: list[str] = []
    box.run(story)
    assert box.node.ledger.read(keys.all_keys) == ()
    assert [kind for kind, _ in box.audit()] == ["key-create", "key-revoke"]
    assert texts[0] not in str(box.audit())


def test_reading_changes_nothing(box: Box) -> None:
    def story(client: HttpClient) -> None:
        assert client.call("GET", "/v1/status")["node"] == "box-1"
        assert client.call("GET", "/v1/deployments") == {"deployments": [{"name": "notes"}]}
        assert client.call("GET", "/v1/models") == {"models": []}
        logs = client.call("GET", "/v1/deployments/notes/logs?lines=2")
        assert logs == {"notes-0": ["line 0", "line 1"]}

    box.run(story)
    assert box.audit() == []
    assert box.changes == 0


def test_an_import_tells_its_progress_and_then_its_result(box: Box, small_bundle: Path) -> None:
    def story(client: HttpClient) -> None:
        lines = list(client.objects("POST", "/v1/import", {"path": str(small_bundle)}))
        assert all("progress" in line for line in lines[:-1])
        assert (lines[-1]["imported"]["name"], lines[-1]["imported"]["version"]) == (
            "small",
            "1.0.0",
        )
        (model,) = client.call("GET", "/v1/models")["models"]
        assert (model["model"], model["version"]) == ("small", "1.0.0")

    box.run(story)
    assert box.changes == 1
    assert ME in str(box.audit())


def test_a_model_of_one_s_own_comes_in_and_stays_while_it_is_asked_for(
    box: Box, tmp_path: Path
) -> None:
    path = write_small_llama(tmp_path / "mine-Q4_0.gguf")

    def story(client: HttpClient) -> None:
        body = {"path": str(path), "name": "mine", "licence": "MIT", "embeddings": True}
        lines = list(client.objects("POST", "/v1/models/local", body))
        assert all("progress" in line for line in lines[:-1])
        added = lines[-1]["added"]
        assert (added["publisher"], added["name"], added["capabilities"]) == (
            "local", "Q4_0", ["embeddings"],
        )  # fmt: skip
        client.call("POST", "/v1/apply", {"documents": [wire_deployment("notes", "mine@1.0.0")]})
        with pytest.raises(UsageError, match="mine is asked for by notes") as caught:
            client.call("DELETE", "/v1/models/local/mine")
        assert caught.value.hint == "appliance delete notes, then try again"
        client.call("DELETE", "/v1/deployments/notes")
        assert client.call("DELETE", "/v1/models/local/mine?version=1.0.0")["removed"] == [added]
        assert client.call("GET", "/v1/models") == {"models": []}

    box.run(story)
    kinds = [kind for kind, _ in box.audit()]
    assert kinds == ["model-add", "apply", "delete", "model-remove"]
    assert box.changes == 4


def test_a_refused_import_arrives_as_the_refusal_it_is(box: Box, tmp_path: Path) -> None:
    def story(client: HttpClient) -> None:
        (tmp_path / "stick").mkdir()
        with pytest.raises((RefusedError, NotFoundError)):
            client.call("POST", "/v1/import", {"path": str(tmp_path / "stick")})

    box.run(story)
    assert box.changes == 0


def test_on_a_full_disk_nothing_new_is_begun_and_reading_goes_on(box: Box) -> None:
    def story(client: HttpClient) -> None:
        for path, body in (
            ("/v1/apply", {"documents": []}),
            ("/v1/import", {"path": "/x"}),
            ("/v1/models/local", {"path": "/x", "name": "a"}),
        ):
            with pytest.raises(NoSpaceError, match="nothing new is begun"):
                client.call("POST", path, body)
        assert client.call("GET", "/v1/status")["node"] == "box-1"

    box.reserve.use()
    box.run(story)
    assert box.audit() == []


def test_stopping_leaves_the_engines_alone_unless_told_otherwise(box: Box) -> None:
    def story(client: HttpClient) -> None:
        for body in ({}, {"engines": True}, {"engines": 1}):
            assert client.call("POST", "/v1/stop", body) == {"result": "stopping"}

    box.run(story)
    assert box.stopped == [False, True, False]


def test_nobody_at_the_socket_is_said_with_what_to_do(tmp_path: Path) -> None:
    client = HttpClient.over_unix(tmp_path / "none", "the node", "start it", timeout_s=1)
    with pytest.raises(PeerUnreachableError) as caught:
        client.call("GET", "/v1/status")
    assert caught.value.hint == "start it"


def test_receipts_go_onto_a_stick_and_the_time_comes_back(box: Box, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()

    def story(client: HttpClient) -> None:
        found = client.call("POST", "/v1/receipts/export", {"path": str(stick)})
        assert (found["node"], found["written"], found["upto"]) == ("box-1", 1, 1)
        (row,) = client.call("GET", "/v1/receipts")["receipts"]
        assert row["hash"] == found["head"]
        assert client.call("GET", "/v1/receipts/1")["payload"]["kind"] == "export"
        assert client.call("GET", "/v1/time")["asked"] is True
        with pytest.raises(NotFoundError, match="no time for box-1"):
            client.call("POST", "/v1/time", {"path": str(stick)})

    box.run(story)


def test_a_controller_is_switched_to_by_a_supervisor_alone(box: Box) -> None:
    shelf = Shelf(box.node.state)
    path, manifest = "files/controller/x/1.2.0", Digest("sha256:" + "1" * 64)
    box.controllers.lists[path] = manifest
    shelf.place("1.2.0").mkdir(parents=True)
    shelf.mark(Staged("1.2.0", path, manifest))

    def story(client: HttpClient) -> None:
        answers = client.objects("POST", "/v1/software/stage", {"version": "1.2.0"})
        assert list(answers)[-1]["staged"]["version"] == "1.2.0"  # it is there already
        with pytest.raises(NotFoundError, match="no supervisor"):
            client.call("POST", "/v1/software/switch", {"version": "1.2.0"})
        with locked(shelf.supervisor_lock, what="it"):
            with box.node.importer.queue.turn(Entry("a stick", "me")):
                for verb in ("switch", "back"):
                    with pytest.raises(LockedError, match="being imported"):
                        client.call("POST", f"/v1/software/{verb}", {"version": "1.2.0"})
            with pytest.raises(NotFoundError, match="no other version"):
                client.call("POST", "/v1/software/back", {})
            answer = client.call("POST", "/v1/software/switch", {"version": "1.2.0"})
            assert answer == {"number": 0, "wanted": "1.2.0"}
        found = client.call("GET", "/v1/software")
        assert (found["current"], found["next"], found["last"]) == ("installed", "1.2.0", None)
        assert found["listed"] == [path]

    box.run(story)
    intent = shelf.read().next
    assert intent is not None
    assert (intent.version, intent.by, intent.tried) == ("1.2.0", ME, False)


def test_gpus_are_listed_fenced_released_and_reset(box: Box) -> None:
    def story(client: HttpClient) -> None:
        found = client.call("GET", "/v1/gpus")["gpus"]
        assert [g["uuid"] for g in found] == ["GPU-a", "GPU-b"]
        client.call("POST", "/v1/gpus/fence", {"gpu": "GPU-a", "why": "smells of smoke"})
        found = client.call("GET", "/v1/gpus")["gpus"]
        assert found[0]["fence"]["message"] == "smells of smoke"
        assert found[0]["fence"]["by"] == ME
        assert client.call("POST", "/v1/gpus/reset", {"gpu": "GPU-a"}) == {"reset": "GPU-a"}
        with pytest.raises(UsageError, match="is not fenced"):
            client.call("POST", "/v1/gpus/release", {"gpu": "GPU-a"})
        with pytest.raises(UsageError, match="why is not a text"):
            client.call("POST", "/v1/gpus/fence", {"gpu": "GPU-a"})

    box.run(story)
    assert box.driver.resets == ["GPU-a"]
    assert box.changes == 2
    assert [kind for kind, _ in box.audit()] == ["gpu-fence", "gpu-reset"]


def test_a_stick_is_written_and_taken_and_the_audit_log_is_shown(box: Box, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()

    def story(client: HttpClient) -> None:
        client.call("POST", "/v1/apply", {"documents": [wire_site("here")]})
        made = client.call("POST", "/v1/sync/export", {"path": str(stick)})
        assert (made["node"], made["upto"]) == ("box-1", 1)
        assert "receipts alone" in made["why_not"]
        with pytest.raises(NotFoundError, match="carries nothing for box-1"):
            client.call("POST", "/v1/sync/import", {"path": str(stick)})
        found = client.call("GET", "/v1/audit?most=5")
        assert [(r["seq"], r["kind"], r["body"]["by"]) for r in found["records"]] == [
            (1, "apply", ME)
        ]
        good = client.call("POST", "/v1/audit/verify", {})
        assert (good["first"], good["last"], good["witnesses"]) == (1, 1, 0)
        head = {"seq": 1, "hash": good["hash"][:8]}
        assert client.call("POST", "/v1/audit/verify", {"heads": [head]})["witnesses"] == 1
        with pytest.raises(IncompleteError):
            client.call("POST", "/v1/audit/verify", {"heads": [{**head, "seq": 2}]})
        wrong: list[Any] = [{"heads": 1}, {"heads": [1]}, {"heads": [{}]}, {"receipts": ["x"]}]
        for nonsense in wrong:
            with pytest.raises(UsageError):
                client.call("POST", "/v1/audit/verify", nonsense)
        with pytest.raises(UsageError):
            client.call("GET", "/v1/audit?most=0")

    box.run(story)


def test_a_backup_is_for_root_and_the_controllers_own_user_and_is_audited(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def story(client: HttpClient) -> None:
        made = client.call("POST", "/v1/backup", {"path": str(tmp_path / "saved")})
        assert made["node"] == "box-1"
        monkeypatch.setattr(carry, "who", lambda _: "uid 12345")
        with pytest.raises(ForbiddenError, match="private keys"):
            client.call("POST", "/v1/backup", {"path": str(tmp_path / "another")})

    box.run(story)
    assert (tmp_path / "saved" / "identity" / "node.pem").exists()
    assert not (tmp_path / "another").exists()
    assert box.audit() == [("backup", {"by": ME})]
