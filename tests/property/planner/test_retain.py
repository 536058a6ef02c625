"""Whatever is in the store, a pinned blob stays, and the budget is met as far as pins allow."""

from hypothesis import given
from hypothesis import strategies as st

from appliance.core.ids import Digest
from appliance.planner.retain import DiskBudget, DiskUse, Held, Pin, PinKind, Retention, retain

BLOBS = [Digest(f"sha256:{n:064x}") for n in range(8)]
SIZES = {blob: 1 << n for n, blob in enumerate(BLOBS)}

pins = st.lists(st.builds(Pin, st.sampled_from(PinKind), st.just("x")), max_size=1).map(tuple)


@st.composite
def stores(draw: st.DrawFn) -> list[Held]:
    count = draw(st.integers(0, 8))
    return [
        Held(
            Digest(f"sha256:{100 + number:064x}"),
            draw(st.sampled_from(["a", "b"])),
            draw(st.sampled_from(["1.0", "1.9", "1.10"])),
            f"r{number}",
            {b: SIZES[b] for b in draw(st.sets(st.sampled_from(BLOBS), min_size=1, max_size=4))},
            draw(st.sampled_from(["2026-01", "2026-02"])),
            draw(pins),
        )
        for number in range(count)
    ]


limits = st.none() | st.integers(0, 300)


def used(held: list[Held]) -> int:
    return sum(SIZES[b] for b in {b for v in held for b in v.blobs})


def left(held: list[Held], answer: Retention) -> list[Held]:
    gone = {eviction.manifest for eviction in answer.evictions}
    return [v for v in held if v.manifest not in gone]


def decide(held: list[Held], limit: int | None, floor: int, free: int) -> Retention:
    return retain(held, DiskUse(used(held), free), DiskBudget(limit, floor))


@given(held=stores(), limit=limits, floor=st.integers(0, 100), free=st.integers(0, 200))
def test_what_is_pinned_stays_with_every_blob(
    held: list[Held], limit: int | None, floor: int, free: int
) -> None:
    answer = decide(held, limit, floor, free)
    freed = {blob for eviction in answer.evictions for blob in eviction.frees}
    for variant in held:
        if variant.pins:
            assert variant in left(held, answer)
            assert not freed.intersection(variant.blobs)


@given(held=stores(), limit=limits, floor=st.integers(0, 100), free=st.integers(0, 200))
def test_afterwards_the_budget_is_met_or_only_what_is_pinned_is_left(
    held: list[Held], limit: int | None, floor: int, free: int
) -> None:
    answer = decide(held, limit, floor, free)
    rest = left(held, answer)
    assert used(held) - used(rest) == answer.freed_bytes, "freed once each, and really unheld"
    after = DiskUse(used(rest), free + answer.freed_bytes)
    short = after.shortfall(DiskBudget(limit, floor))
    assert short == answer.short_bytes
    pinned = {blob for v in held if v.pins for blob in v.blobs}
    assert not short or {blob for v in rest for blob in v.blobs} <= pinned


@given(held=stores(), limit=limits, floor=st.integers(0, 100), free=st.integers(0, 200))
def test_doing_it_again_changes_nothing(
    held: list[Held], limit: int | None, floor: int, free: int
) -> None:
    answer = decide(held, limit, floor, free)
    again = decide(left(held, answer), limit, floor, free + answer.freed_bytes)
    assert again.evictions == ()


@given(held=stores(), limit=limits, free=st.integers(0, 200))
def test_every_variant_gets_one_answer_with_a_reason(
    held: list[Held], limit: int | None, free: int
) -> None:
    answer = decide(held, limit, 0, free)
    told = [(e.reference, e.why) for e in answer.evictions]
    told += [(k.reference, k.why) for k in answer.kept]
    assert sorted(reference for reference, _ in told) == sorted(v.reference for v in held)
    assert all(why for _, why in told)
