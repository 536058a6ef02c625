"""The controller brings the node to what is wanted, and tells gateway and hub what it sees."""

import asyncio
import datetime
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from appliance.core.ids import Digest
from appliance.core.routes import Endpoint
from appliance.core.state import Phase, Truth
from appliance.errors import EngineError, NoSpaceError
from appliance.kit.loop import Again
from appliance.ledger.streams import Stream
from appliance.node import desired, keys
from tests.helpers.models import GIB, machine, variant, wire_deployment
from tests.helpers.nodes import ControlledNode


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ControlledNode]:
    made = ControlledNode(tmp_path)
    made.bring(variant())
    yield made
    made.ledger.close()


def reconcile(node: ControlledNode) -> Again | None:
    return asyncio.run(node.controller.reconcile())


def events(node: ControlledNode) -> list[tuple[str, int | None, str]]:
    """Return what the hub was told: which deployment, how many are ready, and why not all."""
    found = []
    for record in node.records(Stream.EVENTS):
        body = record["body"]
        why = next(
            (c["reason"] for c in body.get("conditions", []) if c["type"] == "Ready"), "gone"
        )
        found.append((body["name"], body.get("ready"), why))
    return found


def test_a_deployment_is_started_seen_and_left_alone(node: ControlledNode) -> None:
    node.apply(replicas=2)
    assert reconcile(node) == Again(1.0)
    assert node.driver.started == ["notes-0", "notes-1"]
    assert reconcile(node) is None
    assert node.status().ready == 0
    node.driver.become_ready("notes-0")
    node.driver.become_ready("notes-1")
    assert reconcile(node) is None
    assert node.status().is_ready
    assert node.driver.started == ["notes-0", "notes-1"]


def test_what_is_wanted_otherwise_is_stopped_gone_and_only_then_started(
    node: ControlledNode,
) -> None:
    node.apply(context=64)
    reconcile(node)
    before = node.driver.world["notes-0"].revision
    node.apply(context=128)
    reconcile(node)
    assert node.driver.observe()["notes-0"].phase is Phase.STOPPING
    assert reconcile(node) is None
    node.driver.end("notes-0")
    assert reconcile(node) == Again(1.0)
    assert node.driver.world["notes-0"].revision != before


def test_what_is_wanted_no_more_ends(node: ControlledNode) -> None:
    node.apply()
    reconcile(node)
    node.ledger.record(partial(desired.release, name="notes")).result()
    reconcile(node)
    node.driver.end("notes-0")
    assert reconcile(node) is None
    assert node.driver.world == {}
    assert node.board.world.statuses == ()
    assert node.routes().routes == ()


def test_a_new_controller_adopts_what_runs_and_starts_nothing(node: ControlledNode) -> None:
    node.apply()
    reconcile(node)
    node.driver.become_ready("notes-0")
    node.restart()
    assert reconcile(node) is None
    assert node.driver.started == ["notes-0"]
    assert node.status().is_ready


def ready(node: ControlledNode, name: str) -> tuple[Truth, str, str]:
    found = node.status(name).condition("Ready")
    assert found is not None
    return found.status, found.reason, found.message


def test_what_cannot_be_started_is_reported_and_raised_to_be_tried_again(
    node: ControlledNode,
) -> None:
    node.apply()
    node.driver.refusals["notes-0"] = "no engine is installed"
    for _ in range(2):
        with pytest.raises(EngineError, match="no engine is installed"):
            reconcile(node)
    assert ready(node, "notes") == (Truth.FALSE, "ActionFailed", "no engine is installed")
    node.driver.refusals.clear()
    assert reconcile(node) == Again(1.0)
    assert ready(node, "notes")[1] == "Starting"


def test_a_failure_is_told_of_its_own_deployment_and_the_others_go_on(
    node: ControlledNode,
) -> None:
    for name, model in (("a", "small"), ("b", "small"), ("c", "missing")):
        node.apply(name, model=model)
    node.driver.refusals["a-0"] = "no engine is installed"
    with pytest.raises(EngineError):
        reconcile(node)
    assert node.driver.started == ["b-0"]
    found = [ready(node, name)[1] for name in "abc"]
    assert found == ["ActionFailed", "Starting", "NotInCatalogue"]


def test_the_gateway_hears_where_what_answers(node: ControlledNode) -> None:
    node.apply(replicas=2)
    reconcile(node)
    (route,) = node.routes().routes
    assert (route.model, route.endpoints, route.cannot) == ("notes", (), "")
    assert route.capabilities == ("chat", "completions")
    node.driver.become_ready("notes-1", endpoint="/run/e/1.sock")
    reconcile(node)
    assert node.routes().routes[0].endpoints == (Endpoint("notes-1", "/run/e/1.sock"),)
    node.driver.crash("notes-1")
    reconcile(node)
    assert node.routes().routes[0].endpoints == ()


def test_the_gateway_hears_why_nothing_will_answer(node: ControlledNode) -> None:
    node.apply("a", replicas=0)
    node.apply("b")
    node.facts = machine(GIB // 2)
    reconcile(node)
    zero, large = node.routes().routes
    assert zero.cannot == "it is scaled to zero replicas"
    assert "of 0 B left" in large.cannot
    assert large.retry_after_s == 5


def test_an_engine_that_never_comes_up_is_given_up_by_the_gateway(node: ControlledNode) -> None:
    node.apply()
    reconcile(node)
    for _ in range(3):
        node.driver.crash("notes-0", "ended with status 1")
    reconcile(node)
    (route,) = node.routes().routes
    assert route.cannot == "notes-0 ended with status 1"
    assert route.retry_after_s == 1


def test_keys_reach_the_gateway(node: ControlledNode) -> None:
    node.ledger.record(partial(keys.create, key_id="app", tenant="t", at="now")).result()
    reconcile(node)
    assert [k.id for k in node.routes().keys] == ["app"]
    node.ledger.record(partial(keys.revoke, key_id="app")).result()
    reconcile(node)
    assert node.routes().keys == ()


def test_the_snapshot_is_written_only_when_it_changed(node: ControlledNode) -> None:
    node.apply()
    reconcile(node)
    before = node.routes_path.stat().st_ino
    reconcile(node)
    assert node.routes_path.stat().st_ino == before
    assert node.routes_path.stat().st_mode & 0o777 == 0o640


def test_the_hub_is_told_once_of_each_change(node: ControlledNode) -> None:
    node.apply()
    for _ in range(3):
        reconcile(node)
    node.driver.become_ready("notes-0")
    for _ in range(3):
        reconcile(node)
    node.ledger.record(partial(desired.release, name="notes")).result()
    reconcile(node)
    assert events(node) == [
        ("notes", 0, "Starting"),
        ("notes", 1, "Serving"),
        ("notes", None, "gone"),
    ]
    assert node.board.version == 3


def test_nothing_wanted_is_nothing_to_tell(node: ControlledNode) -> None:
    assert reconcile(node) is None
    assert events(node) == []
    assert node.board.version == 0
    assert node.routes().routes == ()


def test_what_comes_to_serve_another_manifest_is_told_once(node: ControlledNode) -> None:
    told: list[tuple[str, str, str]] = []
    node.board.on_activation = lambda *what: told.append(what)
    node.apply(replicas=1)
    reconcile(node)
    reconcile(node)
    assert told == [], "it does not serve yet"
    node.driver.become_ready("notes-0")
    for _ in range(3):
        reconcile(node)
    assert told == [("notes", variant().reference, variant().manifest)]
    node.apply("asleep", replicas=0)
    reconcile(node)
    assert len(told) == 1, "what is scaled to zero serves nothing"


def test_a_full_disk_delays_the_receipt_and_not_the_serving(node: ControlledNode) -> None:
    told = []

    def full(*what: str) -> None:
        told.append(what)
        if len(told) == 1:
            raise NoSpaceError("the disk is full")

    node.board.on_activation = full
    node.apply(replicas=1)
    reconcile(node)
    node.driver.become_ready("notes-0")
    for _ in range(3):
        reconcile(node)
    assert node.status().is_ready
    assert len(told) == 2


# --- what must not be started any more (step 15 of an import) -------------------------------------


def why(node: ControlledNode, kind: str = "Verified") -> tuple[Truth, str]:
    found = node.status().condition(kind)
    assert found is not None
    return found.status, found.reason


def serving(node: ControlledNode) -> None:
    node.apply()
    reconcile(node)
    node.driver.become_ready("notes-0")
    reconcile(node)
    assert node.status().is_ready


def test_what_is_not_listed_does_not_start_and_says_so(node: ControlledNode) -> None:
    node.unlist(variant())
    node.apply()
    assert reconcile(node) is None
    assert node.driver.started == []
    assert why(node) == why(node, "Ready") == (Truth.FALSE, "NotListed")
    assert "not in the newest signed list" in node.routes().routes[0].cannot
    node.bring(variant())
    assert reconcile(node) == Again(1.0)
    assert node.driver.started == ["notes-0"]


@pytest.mark.parametrize("digest", [variant().manifest, variant().weights])
def test_what_is_revoked_does_not_start_and_says_so(node: ControlledNode, digest: Digest) -> None:
    node.revoke(digest)
    node.apply()
    assert reconcile(node) is None
    assert node.driver.started == []
    assert why(node) == why(node, "Ready") == (Truth.FALSE, "Revoked")
    assert node.status().conditions[0].message.endswith("is revoked: it leaks")


def test_what_serves_goes_on_until_it_ends_when_it_is_unlisted(node: ControlledNode) -> None:
    serving(node)
    node.unlist(variant())
    assert reconcile(node) is None
    assert node.status().is_ready
    assert why(node) == (Truth.FALSE, "NotListed")
    assert node.routes().routes[0].endpoints
    node.driver.crash("notes-0")
    assert reconcile(node) == Again(1.0)
    assert node.driver.observe()["notes-0"].phase is Phase.STOPPING
    node.driver.end("notes-0")
    assert reconcile(node) is None
    assert node.driver.started == ["notes-0"]
    assert why(node, "Ready") == (Truth.FALSE, "NotListed")


def test_what_serves_and_is_revoked_goes_on_unless_that_says_stop(node: ControlledNode) -> None:
    serving(node)
    node.revoke(variant().weights)
    assert reconcile(node) is None
    assert node.status().is_ready
    node.revoke(variant().weights, stop=True)
    assert reconcile(node) == Again(1.0)
    assert node.driver.observe()["notes-0"].phase is Phase.STOPPING
    assert why(node) == (Truth.FALSE, "Revoked")


def test_an_engine_that_was_adopted_after_a_restart_goes_on_too(node: ControlledNode) -> None:
    serving(node)
    node.unlist(variant())
    node.restart()
    assert reconcile(node) is None
    assert node.status().is_ready


# --- scaling to zero ------------------------------------------------------------------------------


def test_what_may_sleep_sleeps_until_somebody_asks_and_again_after(node: ControlledNode) -> None:
    node.apply(scaling={"min": 0, "max": 2, "idleAfter": "1m"})
    assert reconcile(node) is None
    assert node.driver.started == []
    (route,) = node.routes().routes
    assert (route.cannot, route.wakes) == ("", True)
    assert ready(node, "notes") == (Truth.TRUE, "ScaledToZero", "idle; a request wakes it")
    node.demand["notes"] = node.clock.utc()
    assert reconcile(node) == Again(1.0)
    node.driver.become_ready("notes-0")
    assert reconcile(node) == Again(60.0)
    assert node.status().is_ready
    node.demand["notes"] -= datetime.timedelta(minutes=1)
    reconcile(node)
    assert node.driver.observe()["notes-0"].phase is Phase.STOPPING


def test_a_word_that_this_release_does_not_allow_stops_nothing_and_says_so(
    node: ControlledNode,
) -> None:
    node.apply()
    reconcile(node)
    node.driver.become_ready("notes-0")
    reconcile(node)
    wire = wire_deployment("notes", resources={"gpu": 1, "gpuMemory": "6Gi"})
    node.ledger.record(
        lambda db: db.execute("UPDATE local SET document = ?", (json.dumps(wire),))
    ).result()
    node.apply("other")
    reconcile(node)
    assert node.driver.started == ["notes-0", "other-0"]
    assert node.driver.observe()["notes-0"].phase is Phase.READY
    found = node.status().condition("Ready")
    assert found is not None
    assert (found.status, found.reason) == (Truth.FALSE, "Invalid")
    assert "gpu, gpuMemory and mig exclude each other" in found.message
    (endpoint,) = next(r for r in node.routes().routes if r.model == "notes").endpoints
    assert endpoint.replica == "notes-0"
