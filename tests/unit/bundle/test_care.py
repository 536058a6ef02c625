"""Imports and the care of the store: what one brings the other keeps, and brings again."""

from pathlib import Path

from appliance.cache import catalog
from appliance.core.ids import Digest
from tests.helpers.importing import imported, names
from tests.helpers.organisation import Node
from tests.helpers.signing import Draft, Signer, digest_of, flip
from tests.helpers.stores import care_of


def test_an_import_of_the_same_bundle_heals_what_the_disk_lost(
    box: Node, signer: Signer, tmp_path: Path
) -> None:
    draft = Draft()
    folder = draft.write(tmp_path / "b", signer)
    imported(box, folder)
    care = care_of(box)
    care.verify(None, lambda *_: None)
    weights = box.store.blobs.path(Digest(digest_of(draft.weights)))
    flip(weights)
    assert len(care.verify(None, lambda *_: None)["bad"]) == 1
    assert names(box) == []
    assert [w.digest for w in care.health.wanted()] == [digest_of(draft.weights)]
    assert imported(box, folder)[1] == len(draft.weights)
    care.verify(None, lambda *_: None)
    assert names(box) == ["small:1.0.0-Q4_0"]
    assert care.health.wanted() == []
    assert weights.read_bytes() == draft.weights


def test_what_was_imported_is_known_with_all_its_blobs_and_staged(
    box: Node, signer: Signer, tmp_path: Path
) -> None:
    draft = Draft()
    imported(box, draft.write(tmp_path / "b", signer))
    care = care_of(box)
    found = care.collector.plan()
    assert (found.leftovers, found.retention.evictions) == ((), ())
    (kept,) = found.retention.kept
    assert kept.why.startswith("staged: here since")
    (listed,) = care.listing()
    assert listed["bytes"] == sum(box.store.sizes().values())
    assert box.ledger.read(catalog.digests) == {kept.manifest}
