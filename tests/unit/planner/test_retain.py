"""Who leaves a store that is too full, and in which order."""

from appliance.core.ids import Digest
from appliance.planner.retain import (
    DiskBudget,
    DiskUse,
    Held,
    Pin,
    PinKind,
    Retention,
    free_up,
    retain,
)
from tests.helpers.models import digest_of


def held(
    name: str,
    size: int = 10,
    *,
    model: str | None = None,
    version: str = "1.0",
    used: str = "2026-01-01",
    pins: tuple[Pin, ...] = (),
    shares: dict[Digest, int] | None = None,
) -> Held:
    blobs = {digest_of(f"weights of {name}"): size, **(shares or {})}
    return Held(digest_of(name), model or name, version, name, blobs, used, pins)


def over(by: int, *variants: Held) -> Retention:
    total = sum({b: s for v in variants for b, s in v.blobs.items()}.values())
    return retain(variants, DiskUse(total, 1000), DiskBudget(total - by))


def gone(answer: Retention) -> list[str]:
    return [eviction.reference for eviction in answer.evictions]


def test_nothing_leaves_while_there_is_room() -> None:
    answer = over(0, held("a"), held("b"))
    assert (gone(answer), answer.short_bytes) == ([], 0)
    assert {k.why for k in answer.kept} == {"there is room for it"}


def test_an_older_version_goes_before_what_was_not_used_for_longer() -> None:
    old = held("old", model="m", version="1.9", used="2026-09-01")
    new = held("new", model="m", version="1.10", used="2026-09-01")
    idle = held("idle", used="2020-01-01")
    answer = over(1, idle, new, old)
    assert gone(answer) == ["old"]
    assert answer.evictions[0].why == "1.10 of m is here; last used 2026-09-01, 10 B"
    assert gone(over(11, idle, new, old)) == ["old", "idle"]


def test_then_the_least_recently_used_and_of_those_the_largest() -> None:
    small, large = held("small", 10, used="2026-02"), held("large", 20, used="2026-02")
    recent = held("recent", 99, used="2026-03")
    assert gone(over(1, recent, small, large)) == ["large"]
    assert gone(over(21, recent, small, large)) == ["large", "small"]


def test_each_pin_keeps_and_is_named() -> None:
    for kind in PinKind:
        answer = over(10, held("it", pins=(Pin(kind, "notes"),)))
        assert gone(answer) == []
        assert answer.short_bytes == 10
        assert answer.kept[0].why == f"{kind}: notes"


def test_a_shared_blob_goes_with_the_last_who_holds_it() -> None:
    shared = {digest_of("shared"): 100}
    one = held("one", used="2026-01", shares=shared)
    two = held("two", used="2026-02", shares=shared)
    answer = over(15, one, two)
    assert [(e.reference, e.freed_bytes) for e in answer.evictions] == [("one", 10), ("two", 110)]
    keeper = held("two", pins=(Pin(PinKind.DESIRED, "x"),), shares=shared)
    assert [(e.reference, e.freed_bytes) for e in over(15, one, keeper).evictions] == [("one", 10)]


def test_what_would_free_nothing_is_left_alone() -> None:
    pinned = held("pinned", pins=(Pin(PinKind.RUNNING, "x"),))
    copy = Held(digest_of("copy"), "copy", "1", "copy", pinned.blobs, "2020")
    answer = over(5, pinned, copy)
    assert gone(answer) == []
    assert answer.kept[0].why.startswith("all its blobs are held by others")


def test_the_floor_counts_although_the_budget_holds() -> None:
    use = DiskUse(used_bytes=20, free_bytes=95)
    assert gone(retain([held("a", used="2025"), held("b")], use, DiskBudget(None, 100))) == ["a"]


def test_so_many_bytes_are_freed_for_what_comes() -> None:
    old, new = held("a", used="2025"), held("b")
    assert gone(free_up([old, new], 0)) == []
    assert gone(free_up([old, new], 10)) == ["a"]
    assert gone(free_up([old, new], 11)) == ["a", "b"]
    assert free_up([old, new], 21).short_bytes == 1
