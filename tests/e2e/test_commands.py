"""Commands and local words on a real node: an engine restarted, prompts asked, a node killed."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from appliance.demo.stack import NODE
from appliance.demo.story import DEPLOYMENT, deployment
from tests.e2e.conftest import Running, running_stack

pytestmark = pytest.mark.integration

COMMANDS = f"/api/v1/nodes/{NODE}/commands"


@pytest.fixture(scope="module")
def fleet() -> Iterator[Running]:
    with running_stack() as found:
        yield found


def issued(fleet: Running, verb: str, **args: Any) -> str:
    answer = fleet.stack.hub().call("POST", COMMANDS, {"verb": verb, "args": args})
    return str(answer["id"])


def one(fleet: Running, name: str) -> dict[str, Any]:
    found = fleet.stack.hub().call("GET", COMMANDS)["commands"]
    return next(c for c in found if c["id"] == name)


def ended(fleet: Running, verb: str, **args: Any) -> dict[str, Any]:
    """Command something, and return how it ended."""
    name = issued(fleet, verb, **args)
    fleet.stack.wait(verb, lambda: one(fleet, name)["state"] != "waiting")
    return one(fleet, name)


def pids(fleet: Running) -> list[int]:
    return [engine["pid"] for engine in fleet.stack.status()["engines"]]


def test_an_engine_is_restarted_once(fleet: Running) -> None:
    before = pids(fleet)
    found = ended(fleet, "restart-engine", deployment=DEPLOYMENT)
    assert (found["state"], found["result"]["stopped"]) == ("done", [f"{DEPLOYMENT}-0"])
    assert fleet.stack.is_ready(DEPLOYMENT, 1)
    assert len(pids(fleet)) == 1
    assert pids(fleet) != before


def test_golden_prompts_have_the_same_answers_twice(fleet: Running) -> None:
    first = ended(fleet, "run-golden-prompts", deployment=DEPLOYMENT)
    assert first["state"] == "done", first["why"]
    (answers,) = first["result"]["answers"].values()
    expect = {a["id"]: a["sha256"] for a in answers}
    assert ended(fleet, "run-golden-prompts", deployment=DEPLOYMENT, expect=expect)["state"] == (
        "done"
    )
    wrong = ended(fleet, "run-golden-prompts", deployment=DEPLOYMENT, expect={"count": "0" * 64})
    assert (wrong["state"], "otherwise than expected" in wrong["why"]) == ("failed", True)


def test_diagnostics_come_home(fleet: Running) -> None:
    found = ended(fleet, "collect-diagnostics", lines=5)
    assert found["result"]["status"]["node"] == NODE
    assert DEPLOYMENT in str(found["result"]["logs"])


def test_the_hub_holds_and_the_site_releases(fleet: Running) -> None:
    stack = fleet.stack
    held = ended(fleet, "hold", deployment=DEPLOYMENT, reason="the rollout halts", minutes=60)
    assert held["state"] == "done", held["why"]
    stack.ask_through_hub(deployment(replicas=0))
    stack.wait("the drift", lambda: "replicas" in stack.seen_by_hub()["drift"].get(DEPLOYMENT, ""))
    assert "held by the director until" in stack.seen_by_hub()["drift"][DEPLOYMENT]
    assert stack.is_ready(DEPLOYMENT, 1)
    stack.node().call("POST", f"/v1/deployments/{DEPLOYMENT}/release")
    stack.wait("the fleet's word", lambda: not pids(fleet))
    back = stack.hub().call(
        "POST", f"/api/v1/nodes/{NODE}/rollback", {"to": 1, "why": "the ward needs it"}
    )
    stack.wait("the rollback", lambda: stack.seen_by_hub()["applied"] == back["generation"])
    stack.wait("the deployment", lambda: stack.is_ready(DEPLOYMENT, 1))


def test_a_hold_of_this_site_ends_by_itself(fleet: Running) -> None:
    stack = fleet.stack
    body = {"reason": "a test", "until": "3s"}
    answer = stack.node().call("POST", f"/v1/deployments/{DEPLOYMENT}/hold", body)
    assert "held as it is until" in answer["result"]
    stack.wait("the drift", lambda: "a test" in str(stack.seen_by_hub()["drift"]))
    stack.wait("its end", lambda: not stack.seen_by_hub()["drift"])


def test_a_node_killed_in_the_middle_says_unknown_and_does_it_no_more(fleet: Running) -> None:
    stack = fleet.stack
    (engine,) = pids(fleet)
    os.kill(engine, signal.SIGSTOP)  # so that the command cannot end before the kill
    try:
        name = issued(fleet, "run-golden-prompts", deployment=DEPLOYMENT)
        stack.wait("its beginning", lambda: began(fleet, name))
        fleet.supervisor.kill("node")
    finally:
        os.kill(engine, signal.SIGCONT)
    stack.wait("the outcome", lambda: one(fleet, name)["state"] != "waiting")
    assert one(fleet, name)["state"] == "unknown"
    assert ended(fleet, "collect-diagnostics")["state"] == "done"
    assert one(fleet, name)["state"] == "unknown", "it was not carried out again"


def began(fleet: Running, name: str) -> bool:
    records = f"/api/v1/nodes/{NODE}/records?stream=audit"
    found = fleet.stack.hub().call("GET", records)["records"]
    return any(r["kind"] == "command-started" and r["body"]["id"] == name for r in found)
