"""What runs is chosen by what is here and what fits, and every answer has its reason."""

from typing import Any

import pytest

from appliance.core.documents import ModelDeployment
from appliance.core.ids import Digest
from appliance.core.model import Denial, Replica, Variant
from appliance.core.state import Condition, ObservedReplica, Phase, Truth
from appliance.planner.actions import Stop, plan
from appliance.planner.decide import decide
from appliance.planner.estimate import estimate, limit_bytes
from appliance.planner.place import RESERVED_BYTES, Decision
from appliance.planner.select import select
from tests.helpers.models import GIB, deployment, place, variant

BIG = variant(name="Q8_0", weights_bytes=4 * GIB)
MIDDLE = variant(name="Q4_0", weights_bytes=2 * GIB)
SMALL = variant(name="Q2_K", weights_bytes=GIB)


def one(document: ModelDeployment, *variants: Variant, memory: int | None = 64 * GIB) -> Decision:
    return decide([document], [place(variants, memory)], slots=2)[document.name]


def condition(decision: Decision, kind: str) -> Condition:
    return next(c for c in decision.conditions if c.type == kind)


def test_the_best_variant_that_fits_is_taken() -> None:
    choices = {
        memory: one(deployment(), SMALL, BIG, MIDDLE, memory=memory * GIB).variant
        for memory in (64, 4, 2)
    }
    assert choices == {64: BIG, 4: MIDDLE, 2: SMALL}


def test_a_replica_says_all_that_its_engine_is_started_with() -> None:
    (replica, second) = one(deployment(replicas=2, context=512), SMALL).replicas
    assert (replica.id, second.id) == ("notes-0", "notes-1")
    assert (replica.deployment, replica.engine, replica.variant) == ("notes", "llama-cpp", SMALL)
    assert (replica.context, replica.slots) == (512, 2)
    assert replica.memory_limit_bytes == limit_bytes(estimate(SMALL, 512, 2))


def test_what_is_not_in_the_catalogue_says_what_is() -> None:
    decision = one(deployment(model="other"), SMALL)
    assert decision.replicas == ()
    assert decision.variant is None
    found = condition(decision, "Verified")
    assert (found.status, found.reason) == (Truth.FALSE, "NotInCatalogue")
    assert found.message == "other is not in the catalogue, which holds small"
    assert "which holds nothing" in condition(one(deployment()), "Verified").message


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ({}, "2.10.0"),
        ({"model": "small@2.9.0"}, "2.9.0"),
        ({"model": f"small@{variant(version='1.0.0').manifest}"}, "1.0.0"),
        ({"model": "small@3"}, None),
        ({"quantization": "Q4_0"}, "2.10.0"),
        ({"quantization": "Q9"}, None),
        ({"engine": "llama-cpp"}, "2.10.0"),
        ({"engine": "vllm"}, None),
    ],
)
def test_the_newest_version_is_taken_unless_a_document_says_otherwise(
    asked: dict[str, Any], chosen: str | None
) -> None:
    catalogue = [variant(version=v) for v in ("2.9.0", "2.10.0", "1.0.0")]
    choice = select(deployment(**asked), catalogue)
    assert [v.version for v in choice.candidates] == ([] if chosen is None else [chosen])
    assert bool(choice.why) is (chosen is None)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("1.9", "1.10"),
        ("1.0", "1.0.1"),
        ("1.0-rc1", "1.0"),
        ("1.0.0-rc1", "1.0.0-rc2"),
        ("1.0.0-rc9", "1.0.1"),
        ("beta", "0.1"),
        ("2025-12-31", "2026-01-01"),
    ],
)
def test_versions_are_ordered_as_people_mean_them(older: str, newer: str) -> None:
    catalogue = [variant(version=newer), variant(version=older)]
    found = select(deployment(), catalogue).candidates
    assert [v.version for v in found] == [newer]


def test_too_little_memory_is_said_with_the_arithmetic_and_starts_nothing() -> None:
    decision = one(deployment(replicas=3), MIDDLE, memory=4 * GIB)
    assert decision.replicas == ()
    assert decision.variant == MIDDLE
    found = condition(decision, "Fits")
    assert (found.status, found.reason) == (Truth.FALSE, "NotEnoughMemory")
    assert found.message == (
        "3 x (weights 2.0 GiB + KV cache 8.0 MiB + buffers 384.0 MiB = 2.4 GiB): "
        "7.1 GiB of 3.5 GiB left"
    )


def test_a_context_that_the_model_was_not_trained_for_is_refused() -> None:
    found = condition(one(deployment(context=8193), SMALL), "Fits")
    assert (found.status, found.reason) == (Truth.FALSE, "ContextTooLong")
    unknown = one(deployment(context=8193), variant(context_max=None))
    assert condition(unknown, "Fits").status is Truth.TRUE


def test_memory_that_nobody_could_read_is_unsure_and_tried() -> None:
    decision = one(deployment(), SMALL, memory=None)
    assert condition(decision, "Fits").status is Truth.UNKNOWN
    assert "memory not known" in condition(decision, "Fits").message
    assert len(decision.replicas) == 1


def test_a_need_that_is_not_known_is_unsure_while_what_is_known_fits() -> None:
    unsure = variant(kv_bytes_per_token=None, weights_bytes=GIB)
    decision = one(deployment(), unsure, memory=4 * GIB)
    assert condition(decision, "Fits").status is Truth.UNKNOWN
    assert len(decision.replicas) == 1


def test_weights_that_alone_are_too_large_do_not_fit_whatever_else_is_not_known() -> None:
    hopeless = variant(kv_bytes_per_token=None, weights_bytes=100 * GIB)
    decision = one(deployment(), hopeless, memory=8 * GIB)
    assert condition(decision, "Fits").status is Truth.FALSE
    assert decision.replicas == ()


def test_memory_is_given_out_by_name_whatever_the_order_of_asking() -> None:
    memory = RESERVED_BYTES + 5 * GIB
    asked = [deployment(name) for name in ("b", "c", "a")]
    for order in (asked, asked[::-1]):
        found = decide(order, [place([MIDDLE], memory)], slots=2)
        assert {name: len(d.replicas) for name, d in found.items()} == {"a": 1, "b": 1, "c": 0}


def test_a_need_that_is_not_known_takes_no_more_than_there_is() -> None:
    unsure = variant("unsure", kv_bytes_per_token=None, weights_bytes=GIB)
    found = decide(
        [deployment("a", "unsure"), deployment("b")], [place([unsure, SMALL], 4 * GIB)], slots=2
    )
    assert "of 0 B left" in condition(found["b"], "Fits").message


def test_zero_replicas_need_nothing_and_take_nothing() -> None:
    found = decide(
        [deployment("a", replicas=0), deployment("b")], [place([MIDDLE], 4 * GIB)], slots=2
    )
    assert found["a"].replicas == ()
    assert condition(found["a"], "Fits").status is Truth.TRUE
    assert len(found["b"].replicas) == 1


# --- what must not be started (step 15 of an import) ----------------------------------------------

OLD, NEW = variant(version="1.0.0"), variant(version="1.1.0")
NOT_LISTED = Denial("NotListed", "nobody vouches for it")
REVOKED = Denial("Revoked", "it leaks")
STOPPED = Denial("Revoked", "it burns", stop=True)


def judged(
    denied: dict[Digest, Denial], *running: Replica, replicas: int = 1, memory: int = 64 * GIB
) -> Decision:
    alive = {replica.revision: "" for replica in running}
    document = deployment(replicas=replicas)
    return decide(
        [document], [place([OLD, NEW], memory, denied)], slots=2, alive=alive
    )[document.name]  # fmt: skip


def engines(version: Variant, replicas: int = 1) -> tuple[Replica, ...]:
    return one(deployment(replicas=replicas), version).replicas


@pytest.mark.parametrize("denial", [NOT_LISTED, REVOKED, STOPPED])
def test_what_is_denied_is_passed_over_for_an_older_version(denial: Denial) -> None:
    found = judged({NEW.manifest: denial})
    assert (found.variant, found.replicas) == (OLD, engines(OLD))
    assert condition(found, "Verified").status is Truth.TRUE


@pytest.mark.parametrize("denial", [NOT_LISTED, REVOKED, STOPPED])
def test_where_all_is_denied_nothing_starts_and_the_newest_says_why(denial: Denial) -> None:
    found = judged({OLD.manifest: Denial("NotListed", "old"), NEW.manifest: denial})
    assert (found.variant, found.replicas) == (None, ())
    (why,) = found.conditions
    assert (why.status, why.reason, why.message) == (Truth.FALSE, denial.reason, denial.message)


@pytest.mark.parametrize("denial", [NOT_LISTED, REVOKED])
def test_what_runs_goes_on_although_it_would_not_start(denial: Denial) -> None:
    running = engines(NEW)
    for also in ({}, {OLD.manifest: denial}):
        found = judged({NEW.manifest: denial, **also}, *running)
        assert (found.variant, found.replicas) == (NEW, running)
        why = condition(found, "Verified")
        assert (why.status, why.reason) == (Truth.FALSE, denial.reason)
        assert why.message.startswith(f"{denial.message}; what runs goes on")
        assert plan(found.replicas, observed(*running)) == []


def test_what_is_revoked_with_stop_runs_no_longer() -> None:
    running = engines(NEW)
    found = judged({NEW.manifest: STOPPED, OLD.manifest: STOPPED}, *running)
    assert found.replicas == ()
    assert [type(action) for action in plan(found.replicas, observed(*running))] == [Stop]
    (stop,) = plan(judged({NEW.manifest: STOPPED}, *running).replicas, observed(*running))
    assert isinstance(stop, Stop)  # and then the older version, which is listed, takes its place


def test_of_two_engines_the_one_that_ended_starts_as_what_is_listed() -> None:
    first, second = engines(NEW, 2)
    found = judged({NEW.manifest: NOT_LISTED}, first, replicas=2)
    assert found.replicas == (first, engines(OLD, 2)[1])
    stops = [a.id for a in plan(found.replicas, observed(first, second)) if isinstance(a, Stop)]
    assert stops == [second.id]
    assert judged({NEW.manifest: NOT_LISTED}, first, second).replicas == (engines(NEW)[0],)


def test_a_newer_listed_version_replaces_one_that_is_denied_and_runs() -> None:
    found = judged({OLD.manifest: NOT_LISTED}, *engines(OLD))
    assert (found.variant, found.replicas) == (NEW, engines(NEW))


def test_what_goes_on_uses_memory_that_others_do_not_get() -> None:
    big = variant(model="big", weights_bytes=4 * GIB)
    asked = [deployment("a", model="big"), deployment("b", model="big")]
    (running,) = decide(asked[:1], [place([big], 64 * GIB)], slots=2)["a"].replicas
    found = decide(
        asked, [place([big], 6 * GIB, {big.manifest: NOT_LISTED})], slots=2,
        alive={running.revision: ""},
    )  # fmt: skip
    assert (found["a"].replicas, found["b"].replicas) == ((running,), ())
    other = variant(model="other", weights_bytes=4 * GIB)
    asked[1] = deployment("b", model="other")
    found = decide(
        asked, [place([big, other], 6 * GIB, {big.manifest: NOT_LISTED})], slots=2,
        alive={running.revision: ""},
    )  # fmt: skip
    assert condition(found["b"], "Fits").reason == "NotEnoughMemory"


def observed(*replicas: Replica) -> dict[str, ObservedReplica]:
    return {r.id: ObservedReplica(r.id, r.deployment, r.revision, Phase.READY) for r in replicas}
