"""However often and in whatever order batches come, each record ends at the hub exactly once."""

import contextlib
import itertools
import sqlite3
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import EquivocationError
from appliance.hub import store
from appliance.hub.ingest import ingest_all, parcel
from appliance.hub.migrations import migrations
from appliance.kit.commit import GroupCommit
from appliance.sync.batch import Batch

pytestmark = pytest.mark.slow


def chain(sizes: list[int]) -> list[Batch]:
    found: list[Batch] = []
    first, previous = 1, ""
    for size in sizes:
        records = tuple({"number": n} for n in range(first, first + size))
        batch = Batch("usage", "e1", first, previous, f"hash-{first}", records)
        found.append(batch)
        first, previous = batch.upto + 1, batch.hash
    return found


def forged(batch: Batch) -> Batch:
    """Return another content under a batch's numbers."""
    records = tuple({"number": -1} for _ in batch.records)
    return Batch(batch.stream, batch.epoch, batch.first, batch.previous, "forged", records)


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 3), min_size=1, max_size=6), data=st.data())
def test_each_record_ends_there_exactly_once(sizes: list[int], data: Any) -> None:
    batches = chain(sizes)
    which = st.tuples(st.sampled_from(batches), st.sampled_from([True, True, True, False]))
    deliveries = data.draw(st.lists(which, max_size=25))
    with tempfile.TemporaryDirectory() as folder:
        db = GroupCommit(Path(folder) / "hub.db", migrations)
        db.submit(partial(store.admit, node="box-1", key="k", at="")).result()

        def upto() -> int:
            return next((p.upto for p in db.read(partial(store.positions, name="box-1"))), 0)

        def deliver(batch: Batch) -> bool:
            before = upto()
            try:
                new = db.submit(partial(store.ingest, name="box-1", batch=batch, at="")).result()
            except EquivocationError:
                assert upto() == before
                return False
            assert new is (upto() > before)
            return new

        for batch, is_honest in deliveries:
            if is_honest:
                deliver(batch)
            elif batch.first <= upto():
                assert not deliver(forged(batch))
        while rest := [b for b in batches if b.first > upto()]:
            deliver(data.draw(st.sampled_from(rest)))
        found = db.read(lambda c: store.records(c, "box-1", ("e1", "usage"), 0, 1000))
        db.close()
    assert [r["seq"] for r in found] == list(range(1, sum(sizes) + 1))
    assert [r["number"] for r in found] == [r["seq"] for r in found]


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 3), min_size=1, max_size=6), data=st.data())
def test_a_group_comes_to_the_same_as_one_by_one(sizes: list[int], data: Any) -> None:
    batches = chain(sizes)
    any_batch = st.sampled_from([*batches, *map(forged, batches)])
    deliveries = data.draw(st.lists(st.tuples(st.sampled_from(["a", "b"]), any_batch), max_size=25))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(deliveries)), max_size=4)))
    with tempfile.TemporaryDirectory() as folder:
        alone = GroupCommit(Path(folder) / "alone.db", migrations)
        grouped = GroupCommit(Path(folder) / "grouped.db", migrations)
        for node, batch in deliveries:
            with contextlib.suppress(EquivocationError):
                alone.submit(partial(store.ingest, name=node, batch=batch, at="")).result()
        for first, last in itertools.pairwise([0, *cuts, len(deliveries)]):
            parcels = [parcel(*each) for each in deliveries[first:last]]
            grouped.submit(partial(ingest_all, parcels=parcels, at="")).result()
        for query in (partial(store.positions, name="a"), partial(store.batches, name="b"), _all):
            assert alone.read(query) == grouped.read(query)
        alone.close()
        grouped.close()


def _all(db: sqlite3.Connection) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in db.execute("SELECT * FROM records ORDER BY node, stream, seq")]
