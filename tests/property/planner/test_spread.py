"""On several nodes: repeating settles, nobody gets what is not there, and what runs stays."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.documents import ModelDeployment
from appliance.core.model import Variant
from appliance.core.state import ObservedReplica, Phase
from appliance.planner.actions import Start, plan
from appliance.planner.decide import decide
from appliance.planner.place import Decision, Place, used_bytes
from tests.helpers.models import GIB, MIB, deployment, place
from tests.property.planner.test_settles import contexts, names, variants

pytestmark = pytest.mark.slow

NODES = ("a", "b", "c")
memories = st.none() | st.integers(0, 12 * GIB)
one_version = variants.map(lambda v: replace(v, version="1.0", context_max=None))
catalogues = st.lists(one_version, min_size=1, max_size=4, unique_by=lambda v: (v.model, v.name))


@st.composite
def asked(draw: st.DrawFn) -> list[ModelDeployment]:
    return [
        deployment(
            name, draw(st.sampled_from(["small", "large"])),
            replicas=draw(st.integers(0, 4)), context=draw(contexts),
            priority=draw(st.sampled_from(["critical", "standard", "batch"])),
            resources=draw(st.none() | st.builds(dict, gpu=st.integers(0, 2))),
        )
        for name in draw(st.lists(names, unique=True, max_size=4))
    ]  # fmt: skip


@st.composite
def places(draw: st.DrawFn) -> list[Place]:
    known = draw(catalogues)
    return [
        place(
            draw(st.lists(st.sampled_from(known), unique=True)) if known else [],
            draw(memories), node=name, schedulable=draw(st.booleans()),
        )
        for name in NODES
    ]  # fmt: skip


class World:
    """What a cluster does with a plan: its scheduler takes the first node that it may."""

    def __init__(self) -> None:
        self.running: dict[str, ObservedReplica] = {}

    @property
    def alive(self) -> dict[str, str]:
        return {r.revision: r.node for r in self.running.values()}

    def step(self, documents: list[ModelDeployment], nodes: list[Place]) -> dict[str, Decision]:
        found = decide(documents, nodes, slots=1, alive=self.alive)
        wanted = [r for d in found.values() for r in d.replicas]
        for action in plan(wanted, self.running):
            if isinstance(action, Start):
                r = action.replica
                self.running[r.id] = ObservedReplica(
                    r.id, r.deployment, r.revision, Phase.READY, node=r.nodes[0]
                )
            else:
                del self.running[action.id]
        return found


def settle(world: World, documents: list[ModelDeployment], nodes: list[Place]) -> None:
    for _ in range(20):
        before = dict(world.running)
        world.step(documents, nodes)
        if world.running == before:
            return
    raise AssertionError("it does not settle")


@given(asked(), places(), places())
def test_repeating_settles_whatever_ran_before(
    documents: list[ModelDeployment], before: list[Place], after: list[Place]
) -> None:
    world = World()
    settle(world, documents, before)
    settle(world, documents, after)


@given(asked(), places(), st.data())
def test_a_change_of_one_nodes_facts_moves_nothing_that_runs_and_still_fits(
    documents: list[ModelDeployment], nodes: list[Place], data: st.DataObject
) -> None:
    world = World()
    documents = [_without_priority(d) for d in documents]  # a critical one may displace a lesser
    settle(world, documents, nodes)
    before = dict(world.running)
    changed = data.draw(st.integers(0, 2))
    facts: dict[str, Any] = {
        "memory_bytes": data.draw(memories), "schedulable": data.draw(st.booleans())
    }  # fmt: skip
    nodes[changed] = replace(nodes[changed], **facts)
    for _ in range(4):
        world.step(documents, nodes)
    for id_, seen in before.items():
        if seen.node != NODES[changed]:
            assert world.running.get(id_) == seen


def _without_priority(document: ModelDeployment) -> ModelDeployment:
    spec = document.spec.model_copy(update={"priority": "standard"})
    return document.model_copy(update={"spec": spec})


@given(asked(), places())
def test_nobody_gets_what_is_not_there(
    documents: list[ModelDeployment], nodes: list[Place]
) -> None:
    found = decide(documents, nodes, slots=1)
    assert found == decide(documents[::-1], nodes[::-1], slots=1)
    by_name = {p.node: p for p in nodes}
    for replica in (r for d in found.values() for r in d.replicas):
        assert replica.nodes
        for name in replica.nodes:
            assert holds(by_name[name], replica.variant)
            assert by_name[name].schedulable
    rooms = [p.room_bytes for p in nodes]
    if None not in rooms:
        sure = [r for d in found.values() for r in d.replicas if r.variant.kv_bytes_per_token]
        assert sum(map(used_bytes, sure)) <= sum(r or 0 for r in rooms) + MIB


def holds(found: Place, wanted: Variant) -> bool:
    return wanted in found.variants
