"""Taking a bundle in, all of it: what is added, what is kept, and what goes on after that."""

import datetime
import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle.media.queue import Step
from appliance.cache import catalog
from appliance.core import wire
from appliance.errors import NoSpaceError
from appliance.ledger import budgets, meta
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream
from appliance.trust.remembered import rederive
from appliance.trust.store import TrustStore
from tests.helpers.clock import ScriptedClock
from tests.helpers.gguf import small_llama
from tests.helpers.importing import Seen, audit, contents, imported, names, refused
from tests.helpers.organisation import Node
from tests.helpers.signing import (
    ISSUED,
    Draft,
    Signer,
    blob_path,
    digest_of,
    director,
    target,
)

DAY = datetime.timedelta(days=1)
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


def floor_of(node: Node) -> datetime.datetime | None:
    return node.ledger.read(meta.floor)


def other(version: str = "2.0.0", body: bytes = b"other weights") -> Draft:
    return Draft(small_llama(body), version=version)


# --- a good bundle --------------------------------------------------------------------------------


def test_all_of_a_good_bundle_is_taken_in(box: Node, signer: Signer, tmp_path: Path) -> None:
    draft, told = Draft(), list[Step]()
    found = box.importer.run(draft.write(tmp_path / "b", signer), "a test", told.append)
    size = sum(len(draft.blobs[what]) for what in ("manifest", "config", "weights"))
    assert (found.name, found.version, found.copied_bytes) == ("small", "1.0.0", size)
    assert found.models == found.added == ("small:1.0.0-Q4_0",)
    assert [told[0].doing, told[-1]] == [
        "checking signatures",
        Step("writing the catalogue", size, size),
    ]
    (row,) = box.ledger.read(catalog.variants)
    assert (row.publisher, row.manifest, row.weights) == (
        "acme",
        digest_of(draft.blobs["manifest"]),
        digest_of(draft.weights),
    )
    assert (row.context_max, row.kv_bytes_per_token, row.licence) == (8192, 23040, "MIT")
    kept = {what: draft.blobs[what] for what in ("manifest", "config", "weights")}
    assert {box.store.blobs.path(d).read_bytes() for d in box.store.blobs.all()} == {*kept.values()}
    assert box.store.weights(row).read_bytes() == draft.weights
    index = wire.loads((box.state / "store" / "index.json").read_bytes(), what="it")
    assert [entry["digest"] for entry in index["manifests"]] == [row.manifest]
    assert [path.name for path in (box.state / "incoming").iterdir()] == [".lock"]
    assert floor_of(box) == ISSUED
    assert audit(box)[-1]["body"] == {
        "by": "a test",
        "bundle": "small",
        "version": "1.0.0",
        "models": {"small:1.0.0-Q4_0": row.manifest},
        "others": {},
    }
    who = box.trust.director()
    assert who is not None
    assert who.epoch == 1


def test_importing_it_again_copies_and_changes_nothing(
    box: Node, signer: Signer, tmp_path: Path
) -> None:
    folder = Draft().write(tmp_path / "b", signer)
    imported(box, folder)
    before = Seen.of(box)
    inodes = {path: path.stat().st_ino for path in (box.state / "store" / "blobs").rglob("*")}
    assert imported(box, folder) == ((), 0)
    assert Seen.of(box) == before
    assert {path: path.stat().st_ino for path in inodes} == inodes


def test_what_is_here_already_is_not_copied_again(
    box: Node, signer: Signer, tmp_path: Path
) -> None:
    first = Draft()
    imported(box, first.write(tmp_path / "1", signer))
    second = Draft(version="2.0.0")  # other names for the same weights
    second.manifest["annotations"]["org.opencontainers.image.title"] = "small"
    folder = second.write(tmp_path / "2", signer, (2, 2, 2), also=first.listed())
    second.file(folder, "weights").unlink()
    size = len(second.blobs["manifest"])
    assert imported(box, folder) == (("small:2.0.0-Q4_0",), size)


def test_two_variants_may_share_their_weights(box: Node, signer: Signer, tmp_path: Path) -> None:
    draft = Draft()
    twin = wire.dumps({**draft.manifest, "annotations": {
        **draft.manifest["annotations"], "org.opencontainers.image.title": "twin",
    }})  # fmt: skip
    path = "models/acme/twin/1.0.0/Q4_0"
    draft.release["targets"] = [draft.path, path, path]
    folder = draft.write(tmp_path / "b", signer, also={path: target(twin, MANIFEST_TYPE)})
    blob_path(folder, twin).write_bytes(twin)
    added, copied = imported(box, folder)
    assert added == ("small:1.0.0-Q4_0", "twin:1.0.0-Q4_0")
    assert copied == sum(map(len, (draft.weights, draft.config, draft.blobs["manifest"], twin)))


def test_what_other_tools_need_and_we_do_not_may_be_missing(
    box: Node, signer: Signer, tmp_path: Path
) -> None:
    folder = Draft().write(tmp_path / "b", signer)
    assert not (folder / "index.json").exists()
    assert not (folder / "tuf" / "1.root.json").exists()
    assert imported(box, folder)[0]


# --- sticks in any order --------------------------------------------------------------------------


def test_an_older_bundle_is_welcome_while_it_is_listed(
    box: Node, signer: Signer, tmp_path: Path
) -> None:
    old, new = Draft(), other()
    new.director = director(2)
    old_folder = old.write(tmp_path / "old", signer)
    new_folder = new.write(
        tmp_path / "new", signer, (2, 2, 2), also=old.listed(), issued=ISSUED + DAY
    )
    imported(box, new_folder)
    before = contents(box.trust.folder)
    assert imported(box, old_folder)[0] == ("small:1.0.0-Q4_0",)
    assert contents(box.trust.folder) == before  # its metadata is ignored
    assert floor_of(box) == ISSUED + DAY
    assert names(box) == ["small:1.0.0-Q4_0", "small:2.0.0-Q4_0"]


def test_what_is_wanted_but_not_listed_any_more_is_a_downgrade(
    box: Node, signer: Signer, tmp_path: Path
) -> None:
    old, new = Draft(), other()
    old_folder = old.write(tmp_path / "old", signer)
    imported(box, new.write(tmp_path / "new", signer, (2, 2, 2)))
    assert "small 1.0.0 is not in the newest" in str(refused(box, old_folder, 22))
    # The release is listed, the model in it is not:
    also = {k: v for k, v in old.listed().items() if k.startswith("releases/")}
    imported(box, other("3.0.0").write(tmp_path / "newer", signer, (3, 3, 3), also=also))
    assert "wanted, but no longer" in str(refused(box, old_folder, 22))


@pytest.mark.parametrize("versions", [(2, 1, 2), (2, 2, 1), (2, 1, 1)])
def test_newer_metadata_with_an_older_part_is_a_downgrade(
    box: Node, signer: Signer, tmp_path: Path, versions: tuple[int, int, int]
) -> None:
    imported(box, Draft().write(tmp_path / "1", signer, (1, 2, 2)))
    refused(box, other().write(tmp_path / "2", signer, versions), 22)


@pytest.mark.parametrize("versions", [(1, 1, 1), (2, 1, 2), (2, 2, 1)])
def test_one_version_with_two_contents_is_equivocation(
    box: Node, signer: Signer, tmp_path: Path, versions: tuple[int, int, int]
) -> None:
    imported(box, Draft().write(tmp_path / "1", signer))
    refused(box, other().write(tmp_path / "2", signer, versions), 31)


def test_a_name_that_is_listed_with_other_bytes_replaces_the_old(
    box: Node, signer: Signer, tmp_path: Path
) -> None:
    first, second = Draft(), other("1.0.0")
    first_folder = first.write(tmp_path / "1", signer)
    imported(box, first_folder)
    imported(box, second.write(tmp_path / "2", signer, (2, 2, 2)))
    (row,) = box.ledger.read(catalog.variants)
    assert row.weights == digest_of(second.weights)
    assert box.store.weights(row).read_bytes() == second.weights
    refused(box, first_folder, 23)  # its bytes are not the ones that the newest list names


# --- roots ----------------------------------------------------------------------------------------


def test_a_verified_root_is_kept_when_the_rest_is_refused(
    box: Node, signer: Signer, tmp_path: Path
) -> None:
    folder = Draft().write(tmp_path / "b", signer)
    new = signer.rotated("targets", "timestamp")
    second = new.root_file(2, by=signer.root)
    (folder / "tuf" / "2.root.json").write_bytes(second)
    (folder / "tuf" / "3.root.json").write_bytes(Signer.new().root_file(3))
    before = Seen.of(box)
    with pytest.raises(Exception, match="root is not signed by enough"):
        box.importer.run(folder, "a test")
    (folder / "tuf" / "3.root.json").unlink()
    refused(box, folder, 20)  # root 2 says that these keys may sign no more
    after = Seen.of(box)
    assert after.files.pop("tuf/roots/2.root.json") == second
    assert replace(after, floor=before.floor) == before
    assert after.floor == ISSUED  # a root is signed offline, and says what time it was
    assert box.trust.root() == second
    assert imported(box, Draft().write(tmp_path / "new", new))[0]


def test_new_keys_may_begin_below_the_version_that_stolen_ones_signed(
    box: Node, signer: Signer, tmp_path: Path
) -> None:
    high = Draft().write(tmp_path / "high", signer, (10**8, 10**8, 10**8))
    imported(box, high)
    new = signer.rotated("targets", "timestamp")
    folder = Draft().write(tmp_path / "new", new)
    (folder / "tuf" / "2.root.json").write_bytes(new.root_file(2, by=signer.root))
    assert imported(box, folder) == ((), 0)
    roles = box.trust.roles()
    assert roles is not None
    assert roles.timestamp == (folder / "tuf" / "timestamp.json").read_bytes()
    refused(box, high, 20)


def test_a_root_of_strangers_changes_nothing(box: Node, signer: Signer, tmp_path: Path) -> None:
    for number, data in enumerate((Signer.new().root_file(2), b"junk", b" " * ((512 << 10) + 1))):
        folder = Draft().write(tmp_path / str(number), signer)
        (folder / "tuf" / "2.root.json").write_bytes(data)
        refused(box, folder, 20 if number == 0 else 27)


# --- time -----------------------------------------------------------------------------------------


def test_the_floor_only_rises(box: Node, signer: Signer, tmp_path: Path) -> None:
    for version, days in ((1, 0), (2, 5), (3, 2), (4, 5), (5, 6)):
        before = floor_of(box)
        how: Any = {"issued": ISSUED + days * DAY}
        folder = Draft().write(tmp_path / str(version), signer, (version,) * 3, **how)
        imported(box, folder)
        after = floor_of(box)
        assert after is not None
        assert after == max(before or ISSUED, ISSUED + days * DAY)
    assert floor_of(box) == ISSUED + 6 * DAY


@pytest.mark.parametrize("year", [1970, 2026, 2038, 9999])
def test_a_clock_that_is_wrong_by_years_leaves_it_to_the_floor(
    box: Node, signer: Signer, tmp_path: Path, clock: ScriptedClock, year: int
) -> None:
    clock.time = datetime.datetime(year, 1, 1, tzinfo=datetime.UTC)
    far = ISSUED + 300 * DAY
    first, last = Draft(), other()
    # Judged at the time of this release's build, both are in time …
    assert imported(box, first.write(tmp_path / "1", signer))[0]
    assert imported(
        box, last.write(tmp_path / "2", signer, (2, 2, 2), also=first.listed(), issued=far)
    )[0]
    assert floor_of(box) == far
    # … and with the floor that the second raised, the first's signatures have expired.
    stale = first.write(tmp_path / "3", signer, (3, 3, 3), also=last.listed())
    refused(box, stale, 21)
    assert floor_of(box) == far


def test_the_floor_is_rederived_from_the_metadata_in_force(
    box: Node, signer: Signer, tmp_path: Path
) -> None:
    """The power may go between the metadata's rename and the ledger's transaction."""
    rederive(box.trust, box.ledger)
    assert floor_of(box) == ISSUED
    imported(box, Draft().write(tmp_path / "b", signer))
    fresh = Ledger(tmp_path / "fresh.db")
    try:
        rederive(box.trust, fresh)
        assert (
            fresh.read(meta.floor),
            fresh.read(lambda db: meta.epoch(db, "director")),
        ) == (ISSUED, 1)
        rederive(TrustStore(tmp_path / "nothing"), fresh)
        assert (
            fresh.read(meta.floor),
            fresh.read(lambda db: meta.epoch(db, "director")),
        ) == (ISSUED, 1)
    finally:
        fresh.close()


def test_what_the_ledger_had_no_room_for_it_hears_with_the_next_import(
    box: Node, signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, record = Draft().write(tmp_path / "b", signer), box.ledger.record

    def full(*_: Any) -> Any:
        monkeypatch.setattr(box.ledger, "record", record)
        raise NoSpaceError("no space left")

    monkeypatch.setattr(box.ledger, "record", full)
    with pytest.raises(NoSpaceError):
        imported(box, folder)
    imported(box, folder)
    roles = box.trust.roles()
    assert roles is not None
    mark = hashlib.sha256(roles.timestamp).hexdigest()
    assert box.ledger.read(meta.metadata_hash) == mark
    assert box.ledger.read(lambda db: meta.epoch(db, "director")) == 1


def test_a_full_audit_log_stops_imports_before_they_begin_and_nothing_else(
    box: Node, signer: Signer, tmp_path: Path
) -> None:
    folder = Draft().write(tmp_path / "b", signer)
    box.ledger.record(partial(budgets.begin, limits={Stream.AUDIT: 1000})).result()
    box.ledger.note(*[Fact(Stream.AUDIT, "apply", "", {"text": "x" * 100})] * 10).result()
    before = Seen.of(box)
    for _ in range(3):
        with pytest.raises(NoSpaceError, match="the audit log holds"):
            box.importer.run(folder, "a test")
    assert Seen.of(box) == before
    assert len(audit(box)) == 10, "a refusal writes nothing either: there is no room"
    assert box.importer.run(folder, "a test", dry=True).models == ("small:1.0.0-Q4_0",)
    box.ledger.record(partial(budgets.begin, limits={Stream.AUDIT: 1_000_000})).result()
    assert imported(box, folder)[0] == ("small:1.0.0-Q4_0",)
