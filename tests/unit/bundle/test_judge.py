"""Who may say what of a bundle: documents of trust, publishers, families and revocations."""

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle.media.medium import FolderMedium
from appliance.bundle.media.reader import BundleReader
from appliance.bundle.take.judge import Judge
from appliance.cache import catalog
from appliance.core import wire
from appliance.errors import DowngradeError, RevokedError
from appliance.ledger import meta
from appliance.trust.scope import MANIFEST_TYPE
from tests.helpers.clock import ScriptedClock
from tests.helpers.importing import Seen, imported, names, refused
from tests.helpers.organisation import Node
from tests.helpers.signing import (
    ISSUED,
    Draft,
    Publisher,
    Signer,
    digest_of,
    director,
    hub,
    revoked,
    target,
)

VENDOR = Publisher.new("vendor")


def newer() -> Draft:
    """Return a later version, with a manifest of its own over the same weights."""
    draft = Draft(version="2.0.0")
    draft.manifest["annotations"]["org.example.note"] = "newer"
    return draft


def vendors(version: str = "1.0.0") -> Draft:
    """Return a bundle whose model a publisher listed."""
    draft = Draft(version=version)
    draft.publisher = VENDOR
    draft.path = f"models/vendor/small/{version}/Q4_0"
    draft.release["targets"] = [draft.path]
    return draft


# --- publishers -----------------------------------------------------------------------------------


def test_a_publisher_s_model_is_imported_under_its_name(
    box: Node, signer: Signer, tmp_path: Path
) -> None:
    imported(box, vendors().write(tmp_path / "b", signer))
    (listed,) = (t for t in box.trust.listed().targets.values() if t.path.startswith("models/"))
    assert listed.role == "publisher-vendor"
    assert names(box) == ["small:1.0.0-Q4_0"]


def test_a_publisher_s_key_directs_nobody(box: Node, signer: Signer, tmp_path: Path) -> None:
    draft = vendors()
    keys = {"keys": [VENDOR.keys[0].public], "sync": ["bb" * 32]}
    draft.director = wire.dumps({"org": "acme", "epoch": 1, **keys, "sites": ["*"], "verbs": []})
    assert "key of the director" in str(refused(box, draft.write(tmp_path / "b", signer), 28))


@pytest.mark.parametrize("by", ["name", "bytes"])
def test_a_publisher_takes_nobody_s_place(
    box: Node, signer: Signer, tmp_path: Path, by: str
) -> None:
    ours, theirs = Draft(), vendors() if by == "name" else vendors("2.0.0")
    if by == "name":
        theirs.manifest["annotations"]["org.example.note"] = "theirs"
    imported(box, ours.write(tmp_path / "ours", signer))
    theirs.name = theirs.release["name"] = "other"
    theirs.hint = {"name": "other", "version": theirs.version}
    folder = theirs.write(tmp_path / "theirs", signer, (2, 2, 2), also=ours.listed())
    assert "would take the place of" in str(refused(box, folder, 28))
    (row,) = box.ledger.read(catalog.variants)
    assert row.path == ours.path


def test_a_publisher_s_list_may_be_missing_or_damaged(
    box: Node, signer: Signer, tmp_path: Path
) -> None:
    folder = vendors().write(tmp_path / "b", signer)
    path = folder / "tuf" / "1.publisher-vendor.json"
    good = path.read_bytes()
    path.write_bytes(good + b"\n")
    refused(box, folder, 26)
    path.unlink()
    refused(box, folder, 23)
    path.write_bytes(good)
    imported(box, folder)


def test_when_a_publisher_is_removed_its_model_is_no_longer_listed(
    box: Node, signer: Signer, tmp_path: Path
) -> None:
    draft = vendors()
    first = draft.write(tmp_path / "1", signer)
    imported(box, first)
    gone: dict[str, Any] = {"removed": draft.publishers(), "also": draft.listed()}
    imported(box, newer().write(tmp_path / "2", signer, (2, 2, 2), **gone))
    assert "is wanted, but no longer in the signed list" in str(refused(box, first, 22))
    (row,) = (v for v in box.ledger.read(catalog.variants) if v.version == "1.0.0")
    with pytest.raises(DowngradeError, match="not in the newest signed list"):
        box.trust.listed().check_variant(row)


def test_a_publisher_s_release_or_document_counts_for_nothing(
    box: Node, signer: Signer, tmp_path: Path
) -> None:
    for number, path in enumerate(["trust/revoked.json", "releases/small/1.0.0.json"]):
        evil = replace(VENDOR, listed={path: target(b"{}", MANIFEST_TYPE)})
        folder = Draft().write(tmp_path / str(number), signer, publishers=[evil])
        refused(box, folder, 28)


# --- documents of trust ---------------------------------------------------------------------------


def denied(epoch: int = 1, org: str = "acme") -> bytes:
    return revoked("sha256:" + "00" * 32, epoch=epoch, org=org)


DOCUMENTS: dict[str, Any] = {"director": director, "hub": hub, "revoked": denied}


def said(what: str, document: bytes | None, version: str = "1.0.0") -> Draft:
    draft = Draft(version=version)
    setattr(draft, what, document)
    return draft


@pytest.mark.parametrize("what", DOCUMENTS)
def test_an_epoch_never_goes_down_also_when_the_document_was_taken_back(
    box: Node, signer: Signer, tmp_path: Path, what: str
) -> None:
    make = DOCUMENTS[what]
    for number, document in enumerate((make(3), None), start=1):
        imported(box, said(what, document).write(tmp_path / str(number), signer, (number,) * 3))
    refused(box, said(what, make(2)).write(tmp_path / "3", signer, (3, 3, 3)), 22)
    imported(box, said(what, make(3)).write(tmp_path / "4", signer, (4, 4, 4)))


@pytest.mark.parametrize("what", DOCUMENTS)
def test_all_documents_are_of_one_organisation(
    box: Node, signer: Signer, tmp_path: Path, what: str
) -> None:
    document = DOCUMENTS[what](1, "other")
    other = said(what, document)
    if what == "director":
        other.hub = hub()
    refused(box, other.write(tmp_path / "1", signer), 28)
    imported(box, said("director", None).write(tmp_path / "2", signer))
    imported(box, said("hub", hub()).write(tmp_path / "3", signer, (2, 2, 2)))
    imported(box, said("director", None).write(tmp_path / "4", signer, (3, 3, 3)))
    alone = said("director", None)
    setattr(alone, what, document)
    refused(box, alone.write(tmp_path / "5", signer, (4, 4, 4)), 28)


@pytest.mark.parametrize("what", DOCUMENTS)
def test_a_document_that_makes_no_sense(
    box: Node, signer: Signer, tmp_path: Path, what: str
) -> None:
    refused(box, said(what, b"{}").write(tmp_path / "b", signer), 27)


@pytest.mark.parametrize("role", ["root", "targets", "timestamp"])
@pytest.mark.parametrize("use", ["keys", "sync"])
def test_a_director_s_key_holds_no_role(
    box: Node, signer: Signer, tmp_path: Path, role: str, use: str
) -> None:
    document = wire.loads(director(), what="it")
    document[use] = [getattr(signer, role)[0].public]
    refused(box, said("director", wire.dumps(document)).write(tmp_path / "b", signer), 28)


# --- families -------------------------------------------------------------------------------------


def test_what_is_wanted_is_of_every_family(
    box: Node, signer: Signer, tmp_path: Path, clock: ScriptedClock
) -> None:
    draft = Draft()
    also = {
        path: target(path.encode(), MANIFEST_TYPE)
        for path in ("images/vllm/1", "files/profile/vllm/1", "boms/small/1.0.0/sbom")
    }
    draft.release["targets"] = [draft.path, *also]
    folder = draft.write(tmp_path / "b", signer, also=also)
    judged = Judge(box.trust, box.ledger, clock).judge(BundleReader(FolderMedium(folder)))
    assert [t.path for t in judged.wanted] == [draft.path, *also]
    assert [t.path for t in judged.family("models")] == [draft.path]
    assert [t.path for t in judged.family("images")] == ["images/vllm/1"]


def test_looking_only_keeps_nothing(
    box: Node, signer: Signer, tmp_path: Path, clock: ScriptedClock
) -> None:
    new = signer.rotated("targets", "timestamp")
    folder = Draft().write(tmp_path / "b", new)
    (folder / "tuf" / "2.root.json").write_bytes(new.root_file(2, by=signer.root))
    before = Seen.of(box)
    judged = Judge(box.trust, box.ledger, clock).judge(BundleReader(FolderMedium(folder)), dry=True)
    assert judged.name == "small"
    assert Seen.of(box) == before


# --- revocations ----------------------------------------------------------------------------------


def test_a_revoked_manifest_is_not_imported(box: Node, signer: Signer, tmp_path: Path) -> None:
    draft = Draft()
    draft.revoked = revoked(digest_of(draft.blobs["manifest"]))
    error = refused(box, draft.write(tmp_path / "b", signer), 29)
    assert "is revoked: it leaks" in str(error)


@pytest.mark.parametrize("what", ["weights", "config"])
def test_a_manifest_with_a_revoked_blob_is_not_imported(
    box: Node, signer: Signer, tmp_path: Path, what: str
) -> None:
    draft = Draft()
    draft.revoked = revoked(digest_of(draft.blobs[what]))
    refused(box, draft.write(tmp_path / "b", signer), 29, commits=True)


def test_an_older_bundle_brings_nothing_that_was_revoked_since(
    box: Node, signer: Signer, tmp_path: Path
) -> None:
    old, new = Draft(), newer()
    old_folder = old.write(tmp_path / "1", signer)
    new.revoked = revoked(digest_of(old.blobs["manifest"]))
    imported(box, new.write(tmp_path / "2", signer, (2, 2, 2), also=old.listed()))
    refused(box, old_folder, 29)


def test_what_was_imported_and_is_revoked_may_not_start(
    box: Node, signer: Signer, tmp_path: Path
) -> None:
    old, new = Draft(), newer()
    imported(box, old.write(tmp_path / "1", signer))
    (row,) = box.ledger.read(catalog.variants)
    box.trust.listed().check_variant(row)
    new.revoked = revoked(row.weights)
    folder = new.write(tmp_path / "2", signer, (2, 2, 2), also=old.listed())
    refused(box, folder, 29, commits=True)  # it wants the same weights, and was signed later
    with pytest.raises(RevokedError):
        box.trust.listed().check_variant(row)


# --- a sync key in the wrong hands ----------------------------------------------------------------


def pushed(box: Node, signer: Signer, tmp_path: Path) -> None:
    """Have a thief of the sync key push the time as far as it can."""
    imported(box, Draft().write(tmp_path / "a", signer))
    trusted = box.trust.director()
    assert trusted is not None
    (stolen,) = trusted.sync_keys
    far = ISSUED + datetime.timedelta(days=4000)
    box.ledger.record(lambda db: meta.add_online_time(db, stolen, far)).result()


@pytest.mark.parametrize(
    ("epoch", "sync", "code"), [(2, "cc", None), (2, "bb", 21), (1, "cc", 21), (2, None, 21)]
)
def test_the_bundle_that_takes_a_stolen_sync_key_away_is_taken_in(
    box: Node, signer: Signer, tmp_path: Path, epoch: int, sync: str | None, code: int | None
) -> None:
    """It is new, yet expired at the time that the thief claims; nothing else gets past so."""
    pushed(box, signer, tmp_path)
    late = box.ledger.read(meta.floor)
    assert late is not None
    draft = Draft(version="2.0.0")
    draft.director = None if sync is None else director(epoch)
    if sync is not None:
        named = wire.loads(director(epoch), what="it")
        draft.director = wire.dumps({**named, "sync": [sync * 32]})
    issued = ISSUED + datetime.timedelta(days=20)
    folder = draft.write(tmp_path / "b", signer, (2, 2, 2), issued=issued)
    if code is not None:
        refused(box, folder, code)
        return
    imported(box, folder)
    assert box.ledger.read(meta.floor) == issued < late, "what the key claimed is forgotten"
