"""The scrub reads everything now and then, at its pace, and goes on where it ended."""

import datetime

import pytest

from appliance.cache import index, scrub, verify
from tests.helpers.signing import flip
from tests.helpers.stores import CaredStore

PIECE = 1000


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (verify, scrub):
        monkeypatch.setattr(module, "PIECE", PIECE)
    monkeypatch.setattr(scrub, "_KEEP_EVERY", 2)


def test_each_blob_is_read_once_in_so_many_days(cared: CaredStore) -> None:
    cared.bring("a")
    size = cared.used_bytes()
    assert cared.scrub() == size
    assert cared.scrub() == 0
    cared.later(days=6.9)
    assert cared.scrub() == 0
    cared.later(days=0.2)
    assert cared.scrub() == size


def test_a_clock_that_was_in_the_future_does_not_keep_it_away(cared: CaredStore) -> None:
    cared.bring("a")
    cared.later(days=4000)
    cared.scrub()
    cared.now -= datetime.timedelta(days=4000)
    assert cared.scrub() == cared.used_bytes()


def test_a_step_reads_a_second_s_worth(cared: CaredStore) -> None:
    cared.bring("a", data=bytes(10 * PIECE))
    cared.scrub()
    cared.later(days=8)
    cared.with_settings(scrub_bytes_per_s=3 * PIECE)
    counts = []
    while (stepped := cared.care.scrub.step()).more:
        counts.append(stepped.count)
    assert max(counts) == 3 * PIECE
    assert sum(counts) == cared.used_bytes()


def test_a_new_controller_goes_on_where_the_last_one_ended(cared: CaredStore) -> None:
    found = cared.bring("a", data=bytes(10 * PIECE))
    cared.scrub()
    cared.later(days=8)
    cared.with_settings(scrub_bytes_per_s=3 * PIECE)
    while cared.ledger.read(index.begun)[0] is None:
        assert cared.care.scrub.step().more
    begun, piece = cared.ledger.read(index.begun)
    assert begun is not None
    assert (begun.digest, piece) == (found.weights, 3)
    cared.with_settings()
    read = cared.scrub()
    assert read <= cared.used_bytes() - piece * PIECE
    assert cared.ledger.read(index.begun) == (None, 0)
    assert cared.scrub() == 0
    assert cared.models() == ["a@1.0"]


def test_damage_behind_the_place_is_found_in_the_next_round(cared: CaredStore) -> None:
    found = cared.bring("a", data=bytes(10 * PIECE))
    cared.scrub()
    cared.ledger.record(lambda db: index.set_begun(db, found.weights, 5)).result()
    flip(cared.store.blobs.path(found.weights), 0)
    cared.later(days=8)
    cared.scrub()
    assert cared.models() == ["a@1.0"]
    cared.later(days=8)
    cared.scrub()
    assert cared.models() == []


def test_what_was_never_verified_here_goes_before_the_place(cared: CaredStore) -> None:
    old = cared.bring("a", data=bytes(10 * PIECE))
    cared.scrub()
    cared.ledger.record(lambda db: index.set_begun(db, old.weights, 5)).result()
    new = cared.bring("b")
    cared.with_settings(scrub_bytes_per_s=1)
    needs = cared.ledger.read(index.needs)[new.manifest]
    while not all(cared.ledger.read(index.rows)[digest].blake3 for digest in needs):
        cared.care.scrub.step()
    assert cared.ledger.read(index.begun)[0] is not None, "the place is kept meanwhile"


def test_a_blob_that_vanishes_while_it_is_due_is_missing(cared: CaredStore) -> None:
    found = cared.bring("a")
    cared.store.link(found).unlink()
    cared.store.blobs.path(found.weights).unlink()
    cared.scrub()
    assert cared.models() == []


def test_what_came_back_is_read_at_once_for_models_wait_for_it(cared: CaredStore) -> None:
    found = cared.bring("a", data=bytes(10 * PIECE))
    cared.scrub()
    data = cared.store.blobs.path(found.weights).read_bytes()
    cared.store.link(found).unlink()
    cared.store.blobs.path(found.weights).unlink()
    cared.care.health.look()
    cared.store.blobs.add(data)
    cared.care.health.look()
    cared.with_settings(scrub_bytes_per_s=1)
    stepped = cared.care.scrub.step()
    assert (stepped.count, stepped.changed) == (0, True)
    assert cared.models() == ["a@1.0"]
