"""Conditions say what is, and why, in words of people; ready is only what serves as wanted."""

from typing import Any

from appliance.core.state import (
    DeploymentStatus,
    DesiredDeployment,
    ObservedReplica,
    Origin,
    Phase,
    Truth,
)
from appliance.planner.conditions import cannot_start, status
from appliance.planner.decide import decide
from tests.helpers.models import GIB, deployment, place, variant


def look(
    *phases: Phase, memory: int = 8 * GIB, drift: str = "", failures: int = 0, **spec: Any
) -> DeploymentStatus:
    """Return the status of a deployment whose first replicas are in these phases."""
    document = deployment(**{"replicas": max(1, len(phases)), **spec})
    decision = decide([document], [place([variant()], memory)], slots=1)["notes"]
    engines = [
        ObservedReplica(r.id, "notes", r.revision, phase, message=f"{r.id} {phase}",
                        failures=failures)
        for r, phase in zip(decision.replicas, phases, strict=True)
    ]  # fmt: skip
    desired = DesiredDeployment(document, Origin.LOCAL if drift else Origin.FLEET, drift)
    return status(desired, decision, {e.id: e for e in [*engines, STRANGER]})


STRANGER = ObservedReplica("other-0", "other", "0", Phase.READY)


def ready(found: DeploymentStatus) -> tuple[Truth, str, str]:
    condition = found.condition("Ready")
    assert condition is not None
    return condition.status, condition.reason, condition.message


def test_all_that_was_asked_for_serves() -> None:
    found = look(Phase.READY, Phase.READY)
    assert ready(found) == (Truth.TRUE, "Serving", "2 of 2 serve")
    assert found.is_ready
    assert (found.ready, found.replicas, found.model) == (2, 2, "small")
    assert [e.id for e in found.engines] == ["notes-0", "notes-1"]


def test_some_of_it_is_not_ready() -> None:
    assert ready(look(Phase.READY, Phase.STARTING)) == (Truth.FALSE, "Starting", "1 of 2 serve")
    assert ready(look(Phase.READY, Phase.STOPPING)) == (Truth.FALSE, "Starting", "1 of 2 serve")


def test_a_failing_engine_is_quoted() -> None:
    assert ready(look(Phase.READY, Phase.BACKOFF)) == (
        Truth.FALSE,
        "EngineFails",
        "notes-1 backoff",
    )


def test_an_engine_of_another_revision_does_not_count() -> None:
    document = deployment()
    decision = decide([document], [place([variant()])], slots=1)["notes"]
    old = ObservedReplica("notes-0", "notes", "0123456789ab", Phase.READY)
    found = status(DesiredDeployment(document, Origin.FLEET), decision, {"notes-0": old})
    assert (found.ready, found.is_ready) == (0, False)


def test_what_blocks_is_the_reason_for_not_being_ready() -> None:
    found = look(memory=0)
    assert ready(found)[1] == "NotEnoughMemory"
    assert "of 0 B left" in cannot_start(found)


def test_what_is_set_and_not_acted_on_is_said() -> None:
    condition = look(Phase.READY, priority="batch", resources={"gpu": 1}).condition("Honoured")
    assert condition is not None
    assert condition.status is Truth.FALSE
    assert condition.message.endswith("not acted on by this release: priority, resources")
    assert look(Phase.READY).condition("Honoured") is None


def test_drift_is_a_condition() -> None:
    condition = look(Phase.READY, drift="replicas is 1 here, 2 in the fleet").condition("Drifted")
    assert condition is not None
    assert condition.reason == "LocalOverride"
    assert look(Phase.READY).condition("Drifted") is None


def test_on_the_wire_a_status_names_the_variant_by_its_digest() -> None:
    wire = look(Phase.READY).to_wire()
    assert wire["digest"] == variant().manifest
    assert (wire["variant"], wire["version"], wire["ready"]) == ("Q4_0", "1.0.0", 1)


def test_a_request_is_told_at_once_that_nothing_will_answer() -> None:
    nothing = look(replicas=0)
    assert ready(nothing)[0] is Truth.TRUE
    assert cannot_start(nothing) == "it is scaled to zero replicas"
    assert nothing.conditions[-1].reason == "ScaledToZero"
    assert cannot_start(look(Phase.BACKOFF, failures=3)) == "notes-0 backoff"


def test_an_engine_that_may_come_back_is_waited_for() -> None:
    assert cannot_start(look(Phase.STARTING)) == ""
    assert cannot_start(look(Phase.BACKOFF, failures=2)) == ""
    assert cannot_start(look(Phase.STARTING, Phase.BACKOFF, failures=9)) == ""


def test_what_autoscalers_ask_beyond_bounds_is_said_beside_the_rest() -> None:
    found = look(Phase.READY, Phase.READY, scaling={"min": 1, "max": 1})
    limited = found.condition("ScalingLimited")
    assert limited is not None
    assert (limited.status, limited.message) == (Truth.TRUE, "2 asked, 1 allowed by scaling.max")
    assert look(Phase.READY).condition("ScalingLimited") is None
