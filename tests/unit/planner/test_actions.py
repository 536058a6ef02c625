"""Desired against observed: stops first, nothing twice, nothing when there is nothing to do."""

from dataclasses import replace

import pytest

from appliance.core.model import Replica
from appliance.core.state import ObservedReplica, Phase
from appliance.planner.actions import Start, Stop, plan
from appliance.planner.decide import decide
from tests.helpers.models import deployment, place, variant

A, B = decide([deployment("n", replicas=2)], [place([variant()])], slots=1)["n"].replicas


def seen(replica: Replica, phase: Phase = Phase.READY) -> ObservedReplica:
    return ObservedReplica(replica.id, replica.deployment, replica.revision, phase)


def running(*found: ObservedReplica) -> dict[str, ObservedReplica]:
    return {r.id: r for r in found}


def test_what_is_wanted_and_does_not_run_is_started() -> None:
    assert plan([A, B], running(seen(A))) == [Start(B, "wanted, and not running")]


def test_what_nobody_wants_is_stopped_before_anything_starts() -> None:
    assert plan([B], running(seen(A))) == [
        Stop(A.id, "no longer wanted"),
        Start(B, "wanted, and not running"),
    ]


def test_another_form_is_only_stopped_until_it_is_seen_to_be_gone() -> None:
    other = replace(A, context=A.context + 1)
    (stop,) = plan([other], running(seen(A)))
    assert stop == Stop(A.id, f"wanted as {other.revision}, runs as {A.revision}")
    assert plan([other], running(seen(A, Phase.STOPPING))) == []
    assert plan([other], {}) == [Start(other, "wanted, and not running")]


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.READY, Phase.BACKOFF])
def test_what_runs_as_wanted_is_left_alone_even_when_it_crashed(phase: Phase) -> None:
    assert plan([A], running(seen(A, phase))) == []


def test_what_is_stopping_is_not_stopped_again() -> None:
    assert plan([], running(seen(A, Phase.STOPPING))) == []


def test_what_is_wanted_twice_is_started_once() -> None:
    assert plan([A, A], {}) == [Start(A, "wanted, and not running")]


def test_equal_replicas_have_one_revision_and_any_change_another() -> None:
    assert replace(A).revision == A.revision
    changed = [
        replace(A, context=1),
        replace(A, slots=9),
        replace(A, memory_limit_bytes=1),
        replace(A, variant=variant(version="2")),
    ]
    assert len({A.revision, *(r.revision for r in changed)}) == 5
