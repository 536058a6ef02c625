"""Many batches share a transaction, and each is judged as if it had come alone."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import EquivocationError
from appliance.hub import store
from appliance.hub.ingest import Ingested, ingest, ingest_all, parcel
from appliance.hub.migrations import migrations
from appliance.hub.store import Position
from appliance.kit.commit import GroupCommit
from appliance.sync.batch import Batch

AT = "2026-12-01T00:00:00.000Z"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[GroupCommit]:
    made = GroupCommit(tmp_path / "hub.db", migrations)
    yield made
    made.close()


def batch(first: int, *records: dict[str, Any], previous: str = "", epoch: str = "e1") -> Batch:
    return Batch("metrics", epoch, first, previous, f"hash-{first}", records or ({"n": first},))


def take(db: GroupCommit, *found: tuple[str, Batch]) -> Ingested:
    parcels = [parcel(node, each) for node, each in found]
    return db.submit(lambda c: ingest_all(c, parcels, AT)).result()


def stored(db: GroupCommit, node: str = "box-1", epoch: str = "e1") -> list[tuple[int, int, Any]]:
    found = db.read(lambda c: store.records(c, node, (epoch, "metrics"), 0, 100))
    return [(r["seq"], r.get("span", 1), r["n"]) for r in found]


def test_a_record_that_stands_for_several_numbers_keeps_them(db: GroupCommit) -> None:
    coarse = batch(1, {"n": "a", "span": 60}, {"n": "b"}, {"n": "c", "span": 840})
    after = batch(902, {"n": "d"}, previous="hash-1")
    assert take(db, ("box-1", coarse), ("box-1", after)).new == [0, 1]
    assert stored(db) == [(1, 60, "a"), (61, 1, "b"), (62, 840, "c"), (902, 1, "d")]
    position = Position("e1", "metrics", 902, "hash-902")
    assert db.read(partial(store.positions, name="box-1")) == [position]
    first, _ = db.read(partial(store.batches, name="box-1"))
    assert (first["first"], first["count"]) == (1, 901)


def test_a_number_inside_of_a_span_is_not_the_next_one(db: GroupCommit) -> None:
    take(db, ("box-1", batch(1, {"n": "a", "span": 60})))
    inside = batch(30, {"n": "x"}, previous="hash-1")
    assert list(take(db, ("box-1", inside)).refused) == [0]
    assert stored(db) == [(1, 60, "a")]


def test_in_one_group_each_is_judged_after_those_before_it(db: GroupCommit) -> None:
    first, second, third = batch(1), batch(2, previous="hash-1"), batch(3, previous="hash-2")
    done = take(
        db,
        ("box-1", first),
        ("box-1", third),  # too early: it comes again
        ("box-1", second),
        ("box-2", second),  # of another node, for whom it is too early
        ("box-1", first),
        ("box-1", replace(second, hash="other")),
        ("box-1", third),
    )
    assert (done.new, done.known, list(done.refused)) == ([0, 2, 6], [4], [5])
    assert isinstance(done.refused[5], EquivocationError)
    assert [n for *_, n in stored(db)] == [1, 2, 3]
    assert stored(db, "box-2") == []


def test_what_breaks_off_stops_nobody_else(db: GroupCommit) -> None:
    take(db, ("box-1", batch(1)))
    done = take(
        db,
        ("box-1", batch(2, previous="another past")),
        ("box-2", batch(1)),
        ("box-1", batch(1, epoch="e2")),
    )
    assert (done.new, list(done.refused)) == ([1, 2], [0])
    assert (stored(db), stored(db, "box-2"), stored(db, epoch="e2")) == ([(1, 1, 1)],) * 3


def test_records_are_kept_as_they_were_signed(db: GroupCommit) -> None:
    text = '{"n":1, "records":[{"n": 1.50,"b":"\\u0000é","a":[{}]}]}'
    odd = replace(batch(1, {"n": 1.5, "b": "\0é", "a": [{}]}), text=text)
    assert db.submit(lambda c: ingest(c, "box-1", odd, AT)).result()
    (kept,) = db.read(lambda c: c.execute("SELECT record FROM records").fetchone())
    assert kept == '{"n":1.50,"b":"\\u0000é","a":[{}]}'
    assert db.read(lambda c: store.records(c, "box-1", ("e1", "metrics"), 0, 9))[0]["b"] == "\0é"


def test_nothing_at_all_is_no_group(db: GroupCommit) -> None:
    assert take(db) == Ingested()
