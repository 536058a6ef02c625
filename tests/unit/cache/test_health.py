"""What the store loses is noticed, taken out, asked for again, and healed by what comes."""

from pathlib import Path

import pytest

from appliance.cache import index
from appliance.cache.index import BlobState
from appliance.cache.store import ModelStore
from appliance.core.ids import Digest, hex_of
from appliance.core.model import Variant
from appliance.ledger.streams import Stream
from tests.helpers.models import digest_of
from tests.helpers.signing import flip
from tests.helpers.stores import CaredStore

pytestmark = pytest.mark.slow


def wanted(cared: CaredStore) -> list[tuple[Digest, BlobState, tuple[str, ...]]]:
    return [(w.digest, w.state, w.models) for w in cared.care.health.wanted()]


def weights(cared: CaredStore, found: Variant) -> Path:
    return cared.store.blobs.path(found.weights)


def bring_again(cared: CaredStore, data: bytes, *, tells: bool) -> None:
    """Put a blob into the store as an import does; a later release's import also says so."""
    digest = cared.store.blobs.add(data)
    if tells:
        cared.ledger.record(lambda db: index.admitted(db, {digest: len(data)})).result()


def test_what_is_whole_stays_as_it_is(cared: CaredStore) -> None:
    cared.bring("a")
    assert cared.scrub() == cared.used_bytes()
    assert not cared.care.health.look()
    assert (cared.models(), wanted(cared)) == (["a@1.0"], [])
    rows = cared.ledger.read(index.rows)
    assert rows.keys() == cared.store.sizes().keys()
    assert all(row.is_ok and row.blake3 and row.verified_at for row in rows.values())


@pytest.mark.parametrize("how", ["told", "found"])
def test_a_damaged_blob_is_taken_out_wanted_and_healed(cared: CaredStore, how: str) -> None:
    found, other = cared.bring("a"), cared.bring("b")
    data = weights(cared, found).read_bytes()
    flip(weights(cared, found))
    cared.scrub()
    assert cared.models() == ["b@1.0"]
    assert not weights(cared, found).exists()
    assert not cared.store.link(found).exists(), "no engine opens it under its other name"
    assert (cared.state / "quarantine" / hex_of(found.weights)).is_file()
    assert wanted(cared) == [(found.weights, BlobState.DAMAGED, (found.reference,))]
    (event,), (record,) = cared.facts(Stream.EVENTS), cared.facts(Stream.AUDIT)
    assert event == record
    assert (event[0], event[1]["models"]) == ("blob-damaged", [found.reference])
    assert not cared.care.health.look(), "it is told once"

    bring_again(cared, data, tells=how == "told")
    cared.care.health.look()
    assert (cared.models() == ["b@1.0"]) == (how == "found"), (
        "without a word it must be verified first"
    )
    cared.scrub()
    assert (cared.models(), wanted(cared)) == (["a@1.0", "b@1.0"], [])
    assert cared.store.weights(found).read_bytes() == data
    assert cared.is_whole()
    assert cared.store.weights(other).exists()


def test_what_comes_back_damaged_is_not_believed(cared: CaredStore) -> None:
    found = cared.bring("a")
    weights(cared, found).unlink()
    cared.store.link(found).unlink()
    cared.care.health.look()
    weights(cared, found).write_bytes(b"something else")
    cared.care.health.look()
    assert cared.models() == []
    cared.scrub()
    assert cared.models() == []
    assert wanted(cared) == [(found.weights, BlobState.DAMAGED, (found.reference,))]


def test_a_missing_blob_is_wanted_like_a_damaged_one(cared: CaredStore) -> None:
    found = cared.bring("a", also=b"a second layer")
    second = Digest("sha256:" + digest_of("a second layer").removeprefix("sha256:"))
    cared.store.blobs.path(second).unlink()
    assert cared.care.health.look()
    assert cared.models() == []
    assert wanted(cared) == [(second, BlobState.MISSING, (found.reference,))]
    assert [kind for kind, _ in cared.facts(Stream.EVENTS)] == ["blob-missing"]
    assert not cared.care.health.look()


def test_weights_that_engines_still_have_a_name_for_are_brought_back(cared: CaredStore) -> None:
    found = cared.bring("a")
    weights(cared, found).unlink()
    assert not cared.care.health.look()
    assert weights(cared, found).samefile(cared.store.link(found))
    assert (cared.models(), wanted(cared)) == (["a@1.0"], [])


def test_a_damaged_link_is_not_brought_back(cared: CaredStore) -> None:
    found = cared.bring("a")
    flip(cared.store.link(found))
    weights(cared, found).unlink()
    assert cared.care.health.look()
    assert not weights(cared, found).exists()


def test_a_lost_manifest_is_wanted_and_what_it_named_is_known(cared: CaredStore) -> None:
    found = cared.bring("a")
    data = cared.store.blobs.path(found.manifest).read_bytes()
    cared.store.blobs.path(found.manifest).unlink()
    cared.care.health.look()
    assert wanted(cared) == [(found.manifest, BlobState.MISSING, (found.reference,))]
    assert cared.models() == []
    cared.store.publish_index([found])  # what a start does: no error
    bring_again(cared, data, tells=True)
    cared.care.health.look()
    assert cared.models() == ["a@1.0"]
    assert len(cared.ledger.read(index.needs)[found.manifest]) == 3


def test_a_blob_that_two_share_stops_both(cared: CaredStore) -> None:
    one, two = cared.bring("a", also=b"shared"), cared.bring("b", also=b"shared")
    cared.bring("c")
    flip(cared.store.blobs.path(digest_of("shared")))
    cared.scrub()
    assert cared.models() == ["c@1.0"]
    assert wanted(cared)[0][2] == (one.reference, two.reference)


def test_a_crash_between_the_move_and_the_ledger_is_made_good(cared: CaredStore) -> None:
    found = cared.bring("a")
    cared.care.health.quarantine.take(found.weights, [found], cared.now)
    cared.ledger.close()
    cared.open()
    assert cared.care.health.look()
    assert wanted(cared) == [(found.weights, BlobState.DAMAGED, (found.reference,))]
    assert cared.models() == []


def test_what_nobody_needs_is_forgotten_when_it_goes(cared: CaredStore) -> None:
    digest = cared.store.blobs.add(b"a stray blob")
    cared.care.health.look()
    cared.store.blobs.path(digest).unlink()
    assert not cared.care.health.look()
    assert digest not in cared.ledger.read(index.rows)
    assert cared.facts(Stream.EVENTS) == []


def test_somebody_else_may_condemn_a_blob(cared: CaredStore) -> None:
    found = cared.bring("a")
    cared.care.health.condemn(found.weights, "a delta against it came out wrong")
    assert cared.models() == []
    assert cared.facts(Stream.AUDIT)[-1][1]["why"] == "a delta against it came out wrong"


def test_what_an_import_brings_while_the_folder_is_read_is_not_lost(
    cared: CaredStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, learn = ModelStore.sizes, cared.care.inventory.learn

    def meanwhile(store: ModelStore) -> dict[Digest, int]:
        found = sizes(store)
        monkeypatch.setattr(ModelStore, "sizes", sizes)
        cared.bring("a")  # on the thread of an import, and somebody lists the store
        learn()
        return found

    monkeypatch.setattr(ModelStore, "sizes", meanwhile)
    assert not cared.care.health.look()
    assert (cared.models(), wanted(cared), cared.facts(Stream.AUDIT)) == (["a@1.0"], [], [])
