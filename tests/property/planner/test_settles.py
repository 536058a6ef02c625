"""Whatever is wanted and whatever runs, repeating the plan settles, and nothing runs twice."""

from collections.abc import Mapping
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from appliance.core.documents import ModelDeployment
from appliance.core.model import Replica, Variant
from appliance.core.state import ObservedReplica, Phase, Truth
from appliance.planner.actions import Action, Start, Stop, plan
from appliance.planner.decide import decide
from appliance.planner.estimate import estimate
from appliance.planner.place import RESERVED_BYTES
from tests.helpers.models import GIB, MIB, deployment, place, variant

Running = dict[str, ObservedReplica]

names = st.sampled_from(["a", "b", "a-1", "b-0", "c"])
contexts = st.sampled_from([64, 128, 4096, 100_000])
variants = st.builds(
    variant,
    st.sampled_from(["small", "large"]),
    st.sampled_from(["1.0", "1.1", "2.0-rc1"]),
    st.sampled_from(["Q4_0", "Q8_0"]),
    weights_bytes=st.integers(MIB, 3 * GIB),
    kv_bytes_per_token=st.none() | st.integers(0, 100_000),
    context_max=st.none() | st.just(8192),
)
catalogues = st.lists(variants, max_size=6, unique_by=lambda v: v.manifest)
memories = st.none() | st.integers(0, 16 * GIB)


@st.composite
def deployments(draw: st.DrawFn) -> list[ModelDeployment]:
    found = draw(st.lists(names, unique=True))
    return [
        deployment(
            name,
            draw(st.sampled_from(["small", "large", "small@1.0", "missing"])),
            replicas=draw(st.integers(0, 4)),
            context=draw(contexts),
        )
        for name in found
    ]


@st.composite
def replicas(draw: st.DrawFn) -> list[Replica]:
    decided = decide(draw(deployments()), [place(draw(catalogues), draw(memories))], slots=1)
    return [replica for decision in decided.values() for replica in decision.replicas]


@st.composite
def worlds(draw: st.DrawFn) -> Running:
    """Return what may run: some of anything, in any phase and revision."""
    phases = st.sampled_from(Phase)
    found = draw(replicas())
    old = draw(st.lists(st.booleans(), min_size=len(found), max_size=len(found)))
    return {
        r.id: ObservedReplica(
            r.id, r.deployment, "0123456789ab" if is_old else r.revision, draw(phases)
        )
        for r, is_old in zip(found, old, strict=True)
    }


def simulate(actions: list[Action], running: Running) -> Running:
    """Carry actions out as a driver would, and let what stops be gone by the next look."""
    after = {name: r for name, r in running.items() if r.phase is not Phase.STOPPING}
    for action in actions:
        if isinstance(action, Stop):
            after[action.id] = replace(after[action.id], phase=Phase.STOPPING)
        else:
            r = action.replica
            assert r.id not in running, "started while one of this id was there"
            after[r.id] = ObservedReplica(r.id, r.deployment, r.revision, Phase.STARTING)
    return after


@given(wanted=replicas(), running=worlds())
def test_repeating_the_plan_settles_within_three_rounds(
    wanted: list[Replica], running: Running
) -> None:
    for _ in range(3):
        running = simulate(plan(wanted, running), running)
    assert plan(wanted, running) == []
    assert {r.id: r.revision for r in running.values()} == {r.id: r.revision for r in wanted}


@given(wanted=replicas(), running=worlds())
def test_stops_come_first_and_nothing_is_named_twice(
    wanted: list[Replica], running: Mapping[str, ObservedReplica]
) -> None:
    actions = plan([*wanted, *wanted], running)
    kinds = [isinstance(a, Start) for a in actions]
    assert kinds == sorted(kinds)
    touched = [a.replica.id if isinstance(a, Start) else a.id for a in actions]
    assert len(set(touched)) == len(touched)


@given(deployments(), catalogues, memories, st.integers(1, 4))
def test_what_is_decided_is_unique_fits_and_does_not_depend_on_order(
    asked: list[ModelDeployment], catalogue: list[Variant], memory: int | None, slots: int
) -> None:
    decided = decide(asked, [place(catalogue, memory)], slots=slots)
    again = decide(asked[::-1], [place(catalogue[::-1], memory)], slots=slots)
    assert decided == again
    assert set(decided) == {d.name for d in asked}
    found = [r for d in decided.values() for r in d.replicas]
    assert len({r.id for r in found}) == len(found)
    sure = [
        estimate(r.variant, r.context, slots).total_bytes or 0
        for d in decided.values()
        for r in d.replicas
        if d.conditions[-1].status is Truth.TRUE
    ]
    if memory is not None:
        assert sum(sure) <= max(0, memory - RESERVED_BYTES)
    for decision in decided.values():
        blocked = any(c.status is Truth.FALSE for c in decision.conditions)
        assert all(c.message for c in decision.conditions)
        assert not (blocked and decision.replicas)
