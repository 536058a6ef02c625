"""What leaves the store, in which order it is written down and removed, and what a crash leaves."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.cache import catalog, index, pins, sweep
from appliance.cache.collect import Collected
from appliance.cache.pins import SitePin
from appliance.cache.store import ModelStore
from appliance.core import wire
from appliance.core.ids import Digest
from appliance.core.model import Variant
from appliance.errors import LockedError
from appliance.kit.files import locked
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream
from appliance.planner.retain import DiskBudget, PinKind
from tests.helpers.models import digest_of
from tests.helpers.stores import CaredStore

pytestmark = pytest.mark.slow

DAY_S = 86400


def gc(cared: CaredStore) -> list[str]:
    """Collect; return what left, as people call it."""
    return gone(cared.care.collector.collect("me"))


def gone(found: Collected | None) -> list[str]:
    assert found is not None
    left = [e.reference.partition(":")[0] for e in found.retention.evictions]
    return [*left, *(leftover.path.name for leftover in found.leftovers)]


def over_by(cared: CaredStore, count: int) -> None:
    cared.budget = DiskBudget(cared.used_bytes() - count)


def date(path: Path, cared: CaredStore, days: float) -> None:
    at = cared.now.timestamp() - days * DAY_S
    os.utime(path, (at, at))


def test_over_its_budget_the_store_lets_go_of_what_nobody_holds(cared: CaredStore) -> None:
    for name in "abc":
        cared.bring(name)
        cared.later(days=1)
    held = cared.bring("d")
    cared.pin(held)
    assert gc(cared) == []
    over_by(cared, 1)
    assert gc(cared) == ["a"]
    assert cared.models() == ["b@1.0", "c@1.0", "d@1.0"]
    assert cared.used_bytes() <= (cared.budget.store_bytes or 0)
    assert not (cared.state / "models" / "a").exists()
    index_json = wire.loads((cared.state / "store" / "index.json").read_bytes(), what="it")
    assert len(index_json["manifests"]) == 3
    (evict,) = [body for kind, body in cared.facts(Stream.AUDIT) if kind == "evict"]
    assert (evict["by"], evict["variant"]) == ("me", "a:1.0-Q4_0")
    assert gc(cared) == []
    cared.budget = DiskBudget(0)
    assert gc(cared) == ["b", "c"]
    assert cared.models() == ["d@1.0"]
    assert cared.store.sizes().keys() == cared.ledger.read(index.needs)[held.manifest].keys()
    assert cared.ledger.read(index.rows).keys() == cared.store.sizes().keys()


def test_below_the_floor_variants_leave_although_there_is_no_budget(cared: CaredStore) -> None:
    cared.bring("a")
    cared.budget = DiskBudget(None, 1 << 60)
    assert gc(cared) == ["a"]


def test_a_shared_blob_stays_with_the_one_who_is_left(cared: CaredStore) -> None:
    cared.bring("a", also=b"shared" * 100)
    cared.later(days=1)
    other = cared.bring("b", also=b"shared" * 100)
    over_by(cared, 1)
    assert gc(cared) == ["a"]
    assert cared.store.blobs.has(digest_of("shared" * 100))
    assert cared.store.sizes().keys() == cared.ledger.read(index.needs)[other.manifest].keys()


def test_what_runs_although_its_row_was_replaced_keeps_its_blobs(cared: CaredStore) -> None:
    old = cared.bring("a", data=b"old weights")
    cared.pin(old, PinKind.RUNNING)
    cared.bring("a", data=b"new weights")
    assert gc(cared) == []
    assert cared.store.blobs.has(old.weights)
    cared.pins.clear()
    assert len(gc(cared)) == 2, "its manifest and its weights"
    assert not cared.store.blobs.has(old.weights)


def test_blobs_without_a_row_wait_for_their_import_to_come_again(cared: CaredStore) -> None:
    stray = cared.store.blobs.add(b"a crash between rename and commit")
    path = cared.store.blobs.path(stray)
    cared.now = cared.now.fromtimestamp(path.stat().st_ctime, cared.now.tzinfo)
    cared.later(days=29)
    assert gone(cared.care.collector.tend()) == []
    cared.later(days=2)
    assert gone(cared.care.collector.tend()) == [path.name]
    assert cared.facts(Stream.AUDIT)[-1][1]["files"] == [f"store/blobs/sha256/{path.name}"]


@pytest.mark.parametrize("how", ["a person asks", "there is no room"])
def test_they_go_at_once_when(cared: CaredStore, how: str) -> None:
    kept = cared.bring("a")
    cared.store.blobs.add(b"a crash between rename and commit")
    if how == "there is no room":
        over_by(cared, 1)
        assert len(gone(cared.care.collector.tend())) == 1
    else:
        assert len(gc(cared)) == 1
    assert cared.store.sizes().keys() == cared.ledger.read(index.needs)[kept.manifest].keys()


def test_while_an_import_runs_nothing_is_removed(cared: CaredStore) -> None:
    cared.store.blobs.add(b"renamed, and not in the catalogue yet")
    with locked(cared.state / "incoming" / ".lock", what="a test"):
        with pytest.raises(LockedError):
            gc(cared)
        assert cared.care.collector.tend() is None
        assert len(cared.store.sizes()) == 1
    assert len(gc(cared)) == 1


def test_old_leftovers_go_and_young_ones_stay(cared: CaredStore) -> None:
    old: list[Path] = []
    young: list[Path] = []
    (cared.state / "quarantine").mkdir()
    for folder in ("incoming", "quarantine"):
        for names, days in ((old, 31), (young, 29)):
            path = cared.state / folder / f"{days}.part"
            path.write_bytes(b"x")
            date(path, cared, days)
            names.append(path)
    crashed = cared.store.folder / ".0123.99-1.new"
    crashed.write_bytes(b"x")
    date(crashed, cared, 31)
    lock = cared.state / "incoming" / ".lock"
    lock.touch()
    date(lock, cared, 99)
    cared.care.collector.tend()
    assert not any(path.exists() for path in [*old, crashed])
    assert all(path.exists() for path in [*young, lock])


def test_a_folder_of_an_import_is_as_old_as_its_newest_file(cared: CaredStore) -> None:
    folder = cared.state / "incoming" / "staging"
    folder.mkdir()
    (folder / "part").write_bytes(b"x")
    date(folder / "part", cared, 1)
    date(folder, cared, 99)
    cared.care.collector.tend()
    assert folder.exists()
    date(folder / "part", cared, 31)
    date(folder, cared, 31)
    cared.care.collector.tend()
    assert not folder.exists()


def test_links_that_no_variant_stands_for_are_removed(cared: CaredStore) -> None:
    cared.bring("a")
    stray = cared.state / "models" / "gone" / "1.0" / "Q4_0" / "model.gguf"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"weights")
    cared.care.collector.tend()
    assert not (cared.state / "models" / "gone").exists()
    assert cared.is_whole()


# --- make_room: what an import calls -------------------------------------------------------------


def room(cared: CaredStore, lacking: int, *keep: Variant) -> int:
    with locked(cared.state / "incoming" / ".lock", what="a test"):
        blobs = {blob for found in keep for blob in cared.ledger.read(index.needs)[found.manifest]}
        return cared.care.collector.make_room(lacking, blobs)


def test_room_is_made_for_what_comes(cared: CaredStore) -> None:
    cared.bring("a")
    cared.later(days=1)
    cared.bring("b")
    before = cared.used_bytes()
    freed = room(cared, 1)
    assert freed == before - cared.used_bytes() > 0
    assert cared.models() == ["b@1.0"]


def test_what_lies_about_goes_before_any_variant(cared: CaredStore) -> None:
    cared.bring("a")
    cared.store.blobs.add(b"a crash between rename and commit")
    assert room(cared, 10) == 33
    assert cared.models() == ["a@1.0"]


def test_an_import_that_cannot_succeed_costs_nothing(cared: CaredStore) -> None:
    cared.bring("a")
    cared.pin(cared.bring("b"))
    assert room(cared, cared.used_bytes()) == 0
    assert cared.models() == ["a@1.0", "b@1.0"]


def test_what_the_import_relies_on_stays(cared: CaredStore) -> None:
    kept = cared.bring("a")
    cared.later(days=1)
    cared.bring("b")
    stray = cared.store.blobs.add(b"of an earlier try")
    part = cared.state / "incoming" / "part"
    part.write_bytes(b"x")
    date(part, cared, 99)
    with locked(cared.state / "incoming" / ".lock", what="a test"):
        needs = cared.ledger.read(index.needs)[kept.manifest]
        cared.care.collector.make_room(1, [*needs, stray])
    assert cared.store.blobs.has(stray)
    assert needs.keys() <= cared.store.sizes().keys()
    assert part.exists(), "it may be what is resumed now"
    assert cared.models() == ["a@1.0"], "what frees nothing is left alone"


def test_a_pin_that_comes_between_the_decision_and_the_deed_holds(
    cared: CaredStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = cared.bring("a")
    over_by(cared, 1)
    record = Ledger.record

    def pinned_first(ledger: Ledger, effect: Any, *facts: Fact) -> Any:
        if any(fact.kind == "evict" for fact in facts):
            pin = SitePin(found.manifest, "we need it", "me", "now")
            record(ledger, lambda db: pins.set_pin(db, pin)).result()
        return record(ledger, effect, *facts)

    monkeypatch.setattr(Ledger, "record", pinned_first)
    assert gc(cared) == []
    assert cared.models() == ["a@1.0"]
    assert cared.is_whole()
    assert [kind for kind, _ in cared.facts(Stream.AUDIT)] == []


# --- crashes -------------------------------------------------------------------------------------


class KilledError(BaseException):
    """The process is gone."""


def killed_at(number: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Have the process die at its nth effect on disk or ledger; return how to count them."""
    seen = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def effect(*args: Any, **kwargs: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == number:
                raise KilledError
            return call(*args, **kwargs)

        return effect

    for owner, name in (
        (Ledger, "record"), (Path, "unlink"), (Path, "rmdir"), (Path, "rename"), (os, "fsync"),
        (os, "utime"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    return lambda: seen


def crowded(folder: Path) -> tuple[CaredStore, Variant]:
    folder.mkdir()
    cared = CaredStore(folder)
    cared.bring("a", also=b"shared" * 99)
    cared.later(days=1)
    cared.bring("b", also=b"shared" * 99)
    held = cared.bring("c", also=b"shared" * 99)
    cared.pin(held)
    cared.store.blobs.add(b"a crash between rename and commit")
    over_by(cared, 500)
    return cared, held


def collected(cared: CaredStore) -> None:
    cared.care.collector.collect("me")


def damaged(cared: CaredStore) -> None:
    for variant in cared.ledger.read(catalog.everything):
        if variant.model == "a":
            path = cared.store.blobs.path(variant.weights)
            if path.exists():
                path.chmod(0o644)
                path.write_bytes(b"bits have flipped")
    cared.scrub()


@pytest.mark.parametrize("work", [collected, damaged])
def test_a_crash_anywhere_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[CaredStore], None]
) -> None:
    whole, _ = crowded(tmp_path / "whole")
    work(whole)
    wanted = (whole.models(), whole.care.health.wanted(), whole.store.sizes())
    whole.ledger.close()
    number = 0
    while True:
        number += 1
        cared, held = crowded(tmp_path / str(number))
        with monkeypatch.context() as patch:
            count = killed_at(number, patch)
            try:
                work(cared)
            except KilledError:
                count = None  # type: ignore[assignment]
        cared.ledger.close()
        cared.open()
        cared.care.health.look()
        assert cared.is_whole(), f"killed at effect {number}"
        needs = cared.ledger.read(index.needs)[held.manifest]
        assert needs.keys() <= cared.store.sizes().keys(), "a pinned blob stays"
        cared.scrub()
        if work is collected:
            work(cared)
        found = (cared.models(), cared.care.health.wanted(), cared.store.sizes())
        assert found == wanted, f"killed at effect {number}"
        assert not list(sweep.stray_links(cared.store, links(cared)))
        cared.ledger.close()
        if count is not None:
            assert count() < number
            break
    assert number > 5


def links(cared: CaredStore) -> set[Path]:
    return {cared.store.link(variant) for variant in cared.ledger.read(catalog.everything)}


def test_what_is_healed_while_room_is_made_keeps_its_blobs(
    cared: CaredStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, sizes = cared.bring("a"), ModelStore.sizes

    def meanwhile(store: ModelStore) -> dict[Digest, int]:
        heal = partial(index.healed, digest=found.manifest, blake3=b"", at="now")
        cared.ledger.record(heal).result()  # on the thread of the scrub
        return sizes(store)

    monkeypatch.setattr(ModelStore, "sizes", meanwhile)
    assert gc(cared) == []
    assert cared.store.blobs.has(found.weights)
