"""On several nodes: where replicas go, what keeps its place, and what each node says."""

from typing import Any

import pytest

from appliance.core.documents import ModelDeployment
from appliance.core.machine import Gpu
from appliance.core.model import Denial, Replica
from appliance.core.state import Condition, ObservedReplica, Phase, Truth
from appliance.planner.actions import Stop, plan
from appliance.planner.decide import decide
from appliance.planner.place import Decision, Place
from tests.helpers.models import GIB, deployment, place, variant

SMALL = variant(weights_bytes=GIB)
GPU = Gpu("GPU-1", "H200", None, 80 * GIB, None)


def node(name: str, gib: float | None = 8, *variants: Any, **more: Any) -> Place:
    memory = None if gib is None else int(gib * GIB)
    return place(variants or [SMALL], memory, node=name, **more)


def one(document: ModelDeployment, *places: Place, at: dict[str, str] | None = None) -> Decision:
    return decide([document], places, slots=1, alive=at or {})[document.name]


def placed(found: Decision) -> list[tuple[str, ...]]:
    return [replica.nodes for replica in found.replicas]


def fits(found: Decision) -> Condition:
    return next(c for c in found.conditions if c.type == "Fits")


def verified(found: Decision) -> Condition:
    return next(c for c in found.conditions if c.type == "Verified")


def at(found: Decision, *nodes: str) -> dict[str, str]:
    """Say that the replicas run, each on its node."""
    return {r.revision: n for r, n in zip(found.replicas, nodes, strict=True)}


def test_a_replica_may_go_wherever_its_weights_and_room_are() -> None:
    found = one(deployment(), node("a"), node("b"), node("c", 8, variant("other")), node("d", 1))
    assert placed(found) == [("a", "b")]
    assert fits(found).status is Truth.TRUE
    assert verified(found).status is Truth.TRUE


def test_replicas_spread_before_they_fill_the_largest_node() -> None:
    found = one(deployment(replicas=3), node("a", 64), node("b", 4))
    assert fits(found).message.endswith("on a, b")
    assert len(found.replicas) == 3


def test_as_many_run_as_have_room_and_each_node_says_why_not_more() -> None:
    found = one(
        deployment(replicas=3), node("a", 2.2), node("b", 1), node("c", 9, schedulable=False)
    )
    assert len(found.replicas) == 1
    assert fits(found).reason == "NotEnoughMemory"
    assert "1 of 3 have room; a has " in fits(found).message
    assert "b has 512.0 MiB left; c takes no new work" in fits(found).message


def test_unknown_memory_takes_a_replica_and_says_so() -> None:
    found = one(deployment(), node("a", None))
    assert placed(found) == [("a",)]
    assert (fits(found).status, fits(found).reason) == (Truth.UNKNOWN, "MemoryNotKnown")


def test_no_node_at_all_is_said() -> None:
    found = one(deployment())
    assert verified(found).message == "small is not in the catalogue, which holds nothing"
    shut = one(deployment(), node("a", schedulable=False))
    assert fits(shut).reason == "NoNode"
    assert "a takes no new work" in fits(shut).message


def test_what_runs_keeps_its_place_although_the_node_is_cordoned_and_others_are_emptier() -> None:
    document = deployment(replicas=2)
    found = one(document, node("a"), node("b"))
    for places in (
        (node("a", schedulable=False), node("b")),
        (node("a", 4), node("b", 64), node("c", 640)),
    ):
        again = one(document, *places, at=at(found, "a", "a"))
        assert [r.revision for r in again.replicas] == [r.revision for r in found.replicas]
        assert all("a" in r.nodes for r in again.replicas)
        assert plan(again.replicas, running(found.replicas, "a", "a")) == []


def test_what_runs_where_it_may_not_is_stopped_to_go_elsewhere() -> None:
    found = one(deployment(), node("a"), node("b"))
    again = one(deployment(), node("a", 1), node("b"), at=at(found, "a"))
    (stop,) = plan(again.replicas, running(found.replicas, "a"))
    assert stop == Stop("notes-0", "a may not run it any more")
    assert placed(again) == [("b",)]


def running(replicas: tuple[Replica, ...], *nodes: str) -> dict[str, ObservedReplica]:
    return {
        r.id: ObservedReplica(r.id, r.deployment, r.revision, Phase.READY, node=n)
        for r, n in zip(replicas, nodes, strict=True)
    }


def test_memory_goes_to_what_is_critical_then_to_what_runs_then_by_name() -> None:
    asked = [deployment("a"), deployment("b"), deployment("z", priority="critical")]
    (runs,) = one(asked[1], node("n")).replicas

    def who(gib: float) -> list[str]:
        found = decide(asked, [node("n", gib)], slots=1, alive={runs.revision: "n"})
        return [d.name for d in found.values() if d.replicas]

    assert who(2) == ["z"]
    assert who(3.5) == ["b", "z"]
    assert who(8) == ["a", "b", "z"]


def test_a_better_variant_waits_until_nothing_runs_and_a_newer_version_until_all_fits() -> None:
    large = variant(name="Q8_0", weights_bytes=2 * GIB)
    newer = variant(version="2.0.0", weights_bytes=GIB)
    document = deployment(replicas=2)
    small = one(document, node("a", 8, SMALL), node("b", 8, SMALL))
    runs = at(small, "a", "b")
    both = (node("a", 8, SMALL, large), node("b", 8, SMALL, large))
    assert one(document, *both).variant == large
    assert one(document, *both, at=runs).variant == SMALL
    tight = (node("a", 2.2, SMALL, newer), node("b", 8, SMALL))
    assert one(document, *tight, at=runs).variant == SMALL
    assert one(document, node("a", 8, SMALL, newer), node("b"), at=runs).variant == newer


def test_an_older_version_serves_while_the_newest_has_no_room() -> None:
    newer = variant(version="2.0.0", weights_bytes=4 * GIB)
    found = one(deployment(), node("a", 2, newer), node("b", 2, SMALL))
    assert (found.variant, placed(found)) == (SMALL, [("b",)])


@pytest.mark.parametrize("stop", [False, True])
def test_what_one_node_must_not_start_starts_on_another(*, stop: bool) -> None:
    denied = {SMALL.manifest: Denial("Revoked", "it leaks", stop)}
    places = (node("a", 64, denied=denied), node("b"))
    found = one(deployment(), *places)
    assert placed(found) == [("b",)]
    again = one(deployment(), *places, at=at(found, "a"))
    assert ("a" in again.replicas[0].nodes) is not stop
    assert (verified(again).status is Truth.TRUE) is stop


def test_what_every_node_denies_goes_on_where_it_runs_and_starts_nowhere() -> None:
    denied = {SMALL.manifest: Denial("NotListed", "nobody vouches")}
    document = deployment(replicas=2)
    found = one(document, node("a"), node("b"))
    places = (node("a", denied=denied), node("b", denied=denied))
    runs = dict(list(at(found, "a", "b").items())[:1])
    again = one(document, *places, at=runs)
    assert [r.id for r in again.replicas] == ["notes-0"]
    assert verified(again).message.startswith("nobody vouches; what runs goes on")
    fresh = one(document, *places)
    assert (fresh.replicas, verified(fresh).reason) == ((), "NotListed")


def test_gpus_are_counted() -> None:
    document = deployment(replicas=3, resources={"gpu": 1})
    found = one(document, node("a", gpus=(GPU, GPU)), node("b", gpus=()))
    assert [r.gpus for r in found.replicas] == [1, 1]
    assert fits(found).reason == "NotEnoughGpus"
    assert "a has no GPU left; b has no GPU left" in fits(found).message
    assert placed(one(document, node("a", gpus=None))) == [("a",)] * 3, "not known is not none"


def test_a_slice_needs_a_node_with_a_gpu() -> None:
    document = deployment(resources={"mig": "1g.10gb"})
    found = one(document, node("a", gpus=(GPU,)), node("b", gpus=()))
    assert (placed(found), found.replicas[0].mig) == ([("a",)], "1g.10gb")


def test_a_replica_that_no_node_has_yet_is_counted_where_it_may_go() -> None:
    found = one(deployment(), node("a"))
    again = one(deployment(), node("a"), at=at(found, ""))
    assert again == found


def test_a_context_that_is_too_long_is_said_on_every_number_of_nodes() -> None:
    found = one(deployment(context=10_000), node("a"), node("b"))
    assert (found.replicas, fits(found).reason) == ((), "ContextTooLong")
