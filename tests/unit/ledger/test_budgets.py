"""A budget takes detail, then the oldest, and leaves a place for every number that was given."""

import datetime
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import NoSpaceError
from appliance.kit.clock import rfc3339
from appliance.ledger import budgets, sizes, streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import NEVER_DROPPED, Fact, Position, Record, SealedBatch, Stream
from appliance.node.metrics import enforce

BEGAN = datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC)
SMALL = 40_000


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "node.db")
    made.record(partial(budgets.begin, limits=dict.fromkeys(Stream, SMALL))).result()
    yield made
    made.close()


def note(ledger: Ledger, stream: Stream, numbers: range) -> None:
    moments = [BEGAN + datetime.timedelta(seconds=n) for n in numbers]
    facts = [
        Fact(stream, "host", rfc3339(moment), {"load": float(n % 10), "n": n})
        for n, moment in zip(numbers, moments, strict=True)
    ]
    ledger.note(*facts).result()


def waiting(ledger: Ledger, stream: Stream) -> list[Record]:
    return ledger.read(lambda db: list(streams.waiting(db, stream, 100_000)))


def held(ledger: Ledger, stream: Stream) -> int:
    return ledger.read(partial(budgets.held, stream=stream))


def truth(ledger: Ledger, stream: Stream) -> int:
    """Return what ``held`` should say, by reading all there is."""
    sealed = ledger.read(partial(sizes.sealed, stream=stream))
    return sealed + sum(sizes.size_of(r.text) for r in waiting(ledger, stream))


def seal(ledger: Ledger, stream: Stream, most: int) -> SealedBatch:
    def make(_: Position, records: list[Record]) -> SealedBatch:
        data = "".join(r.text for r in records).encode()
        count = sum(r.span for r in records)
        return SealedBatch(stream, records[0].seq, count, f"h{records[0].seq}", data[:100])

    batch = ledger.record(lambda db: streams.seal(db, stream, make, most=most)).result()
    assert batch is not None
    return batch


def check_every_number_has_its_place(ledger: Ledger, stream: Stream, first: int = 1) -> None:
    expected = first
    for record in waiting(ledger, stream):
        assert record.seq == expected
        assert record.record.get("span", 1) == record.span >= 1
        expected += record.span
    written = ledger.read(partial(streams.position, stream=stream)).written
    assert expected == written + 1


def test_within_its_budget_nothing_gives_way(ledger: Ledger) -> None:
    note(ledger, Stream.METRICS, range(200))
    assert enforce(ledger) == {}
    assert [r.span for r in waiting(ledger, Stream.METRICS)] == [1] * 200


@pytest.mark.slow
def test_metrics_lose_detail_first_the_oldest_and_never_a_number(ledger: Ledger) -> None:
    for begin in range(0, 20_000, 500):
        note(ledger, Stream.METRICS, range(begin, begin + 500))
        enforce(ledger)
        assert held(ledger, Stream.METRICS) <= SMALL
        assert held(ledger, Stream.METRICS) == truth(ledger, Stream.METRICS)
        check_every_number_has_its_place(ledger, Stream.METRICS)
    found = [r.record for r in waiting(ledger, Stream.METRICS)]
    kinds = [(r["kind"], r["body"].get("every_s")) for r in found]
    assert kinds == sorted(kinds, key=[("coarse", 900), ("coarse", 60), ("host", None)].index)
    assert set(kinds) == {("coarse", 900), ("coarse", 60), ("host", None)}
    seen = sum(r["body"]["series"]["host"]["n"][0] for r in found if r["kind"] == "coarse")
    assert seen + kinds.count(("host", None)) == 20_000
    assert found[0]["body"]["series"]["host"]["load"] == [900, 0.0, 4.5, 9.0]


@pytest.mark.slow
def test_when_nothing_can_lose_more_detail_the_oldest_are_dropped_and_one_record_says_so(
    ledger: Ledger,
) -> None:
    def day(number: int) -> range:
        return range(number * 86_400, (number + 1) * 86_400, 450)

    dropped = 0
    for number in range(40):
        note(ledger, Stream.METRICS, day(number))
        kept = enforce(ledger).get(Stream.METRICS)
        dropped += 0 if kept is None else kept.dropped
        assert held(ledger, Stream.METRICS) <= SMALL
        assert held(ledger, Stream.METRICS) == truth(ledger, Stream.METRICS)
        check_every_number_has_its_place(ledger, Stream.METRICS)
    gaps = [r.record for r in waiting(ledger, Stream.METRICS) if r.record["kind"] == "gap"]
    assert [g["body"] for g in gaps] == [{"why": "budget", "records": dropped}]
    assert gaps[0]["span"] == dropped > 1000


@pytest.mark.parametrize("stream", [Stream.EVENTS, Stream.REPORTED])
def test_events_and_states_keep_the_newest(ledger: Ledger, stream: Stream) -> None:
    for begin in range(0, 3000, 300):
        note(ledger, stream, range(begin, begin + 300))
        enforce(ledger)
        assert held(ledger, stream) == truth(ledger, stream) <= SMALL
        check_every_number_has_its_place(ledger, stream)
    gap, *rest = [r.record for r in waiting(ledger, stream)]
    assert gap["body"] == {"why": "budget", "records": 3000 - len(rest)}
    assert gap["at"] == rfc3339(BEGAN)
    assert [r["body"]["n"] for r in rest] == list(range(3000 - len(rest), 3000))


def test_one_record_that_is_larger_than_the_budget_stays(ledger: Ledger) -> None:
    ledger.note(Fact(Stream.EVENTS, "big", "", {"text": "x" * SMALL})).result()
    assert enforce(ledger) == {}
    assert [r.record["kind"] for r in waiting(ledger, Stream.EVENTS)] == ["big"]


@pytest.mark.parametrize("stream", sorted(NEVER_DROPPED))
def test_audit_receipts_and_usage_never_give_way_but_it_is_said(
    ledger: Ledger, stream: Stream
) -> None:
    note(ledger, stream, range(1000))
    assert enforce(ledger) == {}
    assert [r.span for r in waiting(ledger, stream)] == [1] * 1000
    assert ledger.read(budgets.overfull) == [stream]


def test_a_full_audit_log_is_refused_more_until_the_hub_has_heard_of_some(ledger: Ledger) -> None:
    ledger.read(budgets.require_audit)
    note(ledger, Stream.AUDIT, range(1000))
    assert ledger.read(budgets.audit_is_full)
    with pytest.raises(NoSpaceError, match=r"39\.1 KiB that the hub has not acknowledged"):
        ledger.read(budgets.require_audit)
    batch = seal(ledger, Stream.AUDIT, most=900)
    free = partial(streams.acknowledge, stream=Stream.AUDIT, upto=batch.upto, batch_hash=batch.hash)
    assert ledger.record(free).result()
    assert not ledger.read(budgets.audit_is_full)


def test_what_is_sealed_never_changes_and_what_follows_is_coarsened_behind_it(
    ledger: Ledger,
) -> None:
    note(ledger, Stream.METRICS, range(300))
    batches = [seal(ledger, Stream.METRICS, most=100) for _ in range(2)]
    note(ledger, Stream.METRICS, range(300, 3000))
    enforce(ledger)
    found = ledger.read(partial(streams.unacknowledged, stream=Stream.METRICS, most=9))
    assert found == batches
    check_every_number_has_its_place(ledger, Stream.METRICS, first=201)
    assert held(ledger, Stream.METRICS) == truth(ledger, Stream.METRICS)
    coarse = seal(ledger, Stream.METRICS, most=5)
    assert coarse.count > 5, "records with spans are counted by their numbers"
    assert coarse.first == 201
    check_every_number_has_its_place(ledger, Stream.METRICS, first=coarse.upto + 1)
    assert held(ledger, Stream.METRICS) == truth(ledger, Stream.METRICS)


def test_the_count_survives_another_release_that_knows_nothing_of_it(ledger: Ledger) -> None:
    note(ledger, Stream.METRICS, range(1000))
    enforce(ledger)

    def older(db: Any) -> None:
        db.execute("DELETE FROM outbox WHERE stream = 'metrics' AND seq <= 500")

    ledger.record(older).result()
    assert held(ledger, Stream.METRICS) != truth(ledger, Stream.METRICS)
    ledger.record(partial(budgets.begin, limits={Stream.METRICS: SMALL})).result()
    assert held(ledger, Stream.METRICS) == truth(ledger, Stream.METRICS)


def test_without_settings_the_defaults_hold(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "other.db")
    assert {s: ledger.read(partial(budgets.limit, stream=s)) for s in Stream} == budgets.DEFAULTS
    assert sum(budgets.DEFAULTS.values()) < 1 << 30
    assert not ledger.read(budgets.audit_is_full)
    ledger.close()
