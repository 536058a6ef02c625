"""Whatever people, the fleet and bad luck do: plans settle, and nobody's work is overrun."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.state import Origin
from appliance.kube.words import owned
from appliance.kube.words.plan import Put, Remove, TakeOver
from tests.helpers.projected import KIND, World

pytestmark = pytest.mark.slow

NAMES = st.sampled_from(["a", "b"])
SPECS = st.fixed_dictionaries(
    {"model": st.sampled_from(["small", "large"])},
    optional={
        "replicas": st.integers(0, 2),
        "context": st.sampled_from([4096, 8192]),
        "scaling": st.just({"min": 1, "max": 3}),
        "objectives": st.sampled_from([{"concurrency": 2}, {"concurrency": 3}]),
    },
)
DEEDS = st.one_of(
    st.tuples(st.just("say"), NAMES, SPECS),
    st.tuples(st.just("withdraw"), NAMES),
    st.tuples(st.just("apply"), NAMES, SPECS),
    st.tuples(st.just("release"), NAMES),
    st.tuples(st.just("kubectl apply"), NAMES, SPECS),
    st.tuples(st.just("kubectl unset"), NAMES),
    st.tuples(st.just("scale"), NAMES, st.integers(0, 3)),
    st.tuples(st.just("kubectl delete"), NAMES),
    st.tuples(st.just("lose")),
    st.tuples(st.just("pass"), st.integers(0, 2)),
    st.tuples(st.just("settle")),
)
POLICIES = st.sampled_from(TakeOver)


def do(world: World, deed: tuple[Any, ...]) -> None:  # noqa: C901 - a table in other words
    match deed:
        case ("say", name, spec):
            world.say(name, **spec)
        case ("withdraw", name):
            world.fleet.pop((KIND, name), None)
        case ("apply", name, spec):
            world.apply(name, **spec)
        case ("release", name):
            world.release(name)
        case ("kubectl apply", name, spec):
            world.kubectl_apply(name, **spec)
        case ("kubectl unset", name) if (KIND, name) in world.objects:
            world.kubectl_unset(name, "context")
        case ("scale", name, replicas) if (KIND, name) in world.objects:
            world.scale(name, replicas)
        case ("kubectl delete", name) if (KIND, name) in world.objects:
            world.kubectl_delete(name)
        case ("lose",):
            world.lose()
        case ("pass", most):
            world.pass_(most)
        case ("settle",):
            world.settle()


@given(st.lists(DEEDS, max_size=14), POLICIES, st.booleans())
def test_repeating_the_plan_always_settles(
    deeds: list[tuple[Any, ...]],
    policy: TakeOver,
    notes_scale: bool,  # noqa: FBT001
) -> None:
    world = World(policy, notes_scale=notes_scale)
    for deed in deeds:
        do(world, deed)
    world.settle()
    assert world.steps() == ()
    assert not world.asked


@given(st.lists(DEEDS, max_size=14), POLICIES)
def test_nothing_is_deleted_that_is_not_ours(
    deeds: list[tuple[Any, ...]], policy: TakeOver
) -> None:
    world = World(policy)
    for deed in deeds:
        do(world, deed)
        for step in world.steps():
            if isinstance(step, Remove):
                held = world.objects[step.key]
                assert held.labels[owned.OWNER] in ("fleet", "local")
                assert held.annotations[owned.FROM] == world.node
                assert world.rows[step.key].projected


MILD = DEEDS.filter(lambda d: d[0] in ("say", "pass", "settle", "lose") or d[1:2] == ("b",))


@given(
    st.lists(DEEDS, max_size=8),
    st.fixed_dictionaries({"model": st.just("mine"), "context": st.just(1024)}),
    st.lists(MILD, max_size=8),
    st.sampled_from([TakeOver.NEVER, TakeOver.IF_NO_DIFF]),
    st.booleans(),
)
def test_an_edit_stays_whatever_the_fleet_says(
    before: list[tuple[Any, ...]],
    edit: dict[str, Any],
    after: list[tuple[Any, ...]],
    policy: TakeOver,
    notes_scale: bool,  # noqa: FBT001
) -> None:
    world = World(policy, notes_scale=notes_scale)
    for deed in before:
        do(world, deed)
    world.settle()
    world.kubectl_apply("a", **edit)
    world.pass_(0)
    for deed in after:
        do(world, deed)
    world.settle()
    now = world.objects[KIND, "a"].spec
    assert {f: now.get(f) for f in edit} == edit
    assert "a" in world.findings or world.owner("a") is Origin.CLUSTER


@given(st.lists(DEEDS, max_size=12))
def test_by_never_the_fleet_takes_nothing_that_somebody_here_made(
    deeds: list[tuple[Any, ...]],
) -> None:
    world = World(TakeOver.NEVER)
    for deed in deeds:
        do(world, deed)
        for step in world.steps():
            if (
                isinstance(step, Put)
                and step.before is not None
                and step.row.key not in world.asked
            ):
                seen = step.before
                assert seen.owner is not Origin.CLUSTER or step.row.owner is Origin.LOCAL


@given(st.lists(DEEDS, max_size=12), POLICIES, st.lists(st.integers(0, 2), max_size=6))
def test_a_lost_datastore_comes_back_as_it_was_wherever_it_is_killed(
    deeds: list[tuple[Any, ...]], policy: TakeOver, kills: list[int]
) -> None:
    world = World(policy)
    for deed in deeds:
        do(world, deed)
    world.settle()
    before = {k: (world.spec(k[1]), world.owner(k[1])) for k in world.objects}
    words = dict(world.local)
    world.lose()
    for most in kills:
        world.pass_(most)
    world.settle()
    assert {k: (world.spec(k[1]), world.owner(k[1])) for k in world.objects} == before
    assert world.local == words


def test_what_somebody_made_again_from_our_marks_is_not_deleted() -> None:
    world = World()
    world.say("a")
    world.settle()
    held = world.objects[KIND, "a"]
    world.objects[KIND, "a"] = replace(held, uid="another")
    world.fleet.clear()
    world.settle()
    assert world.objects[KIND, "a"].uid == "another"
    assert world.findings["a"].reason == "Orphan"
