"""`bundle show` and `bundle diff` tell of a bundle what is so, and believe none of it."""

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle.look import diff as differ
from appliance.bundle.look.diff import diff, open_side
from appliance.bundle.look.show import NOT_CHECKED, Site, show
from appliance.bundle.make.against import read_receipt, thin
from appliance.cli import inspect
from appliance.core import wire
from appliance.errors import ApplianceError, IncompleteError, NotFoundError
from tests.helpers.clock import ScriptedClock
from tests.helpers.deltas import receipt
from tests.helpers.organisation import Node
from tests.helpers.signing import ISSUED, Draft, Signer, blob_path, digest_of, target
from tests.unit.bundle.test_against import NEW, OLD, OTHER, bundle

NOW = ISSUED + datetime.timedelta(days=1)


def text_of(found: dict[str, Any]) -> str:
    return "\n".join(inspect._bundle_lines(found))


def by_root(signer: Signer) -> Site:
    return Site(signer.root_file())


def roles(found: dict[str, Any]) -> dict[str, Any]:
    return {role["role"]: role for role in found["signatures"]["roles"]}


def test_without_a_root_nothing_is_said_to_be_signed(tmp_path: Path, signer: Signer) -> None:
    found = show(bundle(tmp_path / "b", signer), Site(None), NOW)
    assert found["signatures"]["checked"] is False
    assert found["signatures"]["verdict"] is None
    assert {role["met"] for role in found["signatures"]["roles"]} == {None}
    assert NOT_CHECKED in text_of(found)
    assert "not checked" in text_of(found)
    assert "good" not in text_of(found)


def test_with_a_root_it_says_who_signed_and_whether_that_is_enough(
    tmp_path: Path, signer: Signer
) -> None:
    found = show(bundle(tmp_path / "b", signer), by_root(signer), NOW)
    assert found["signatures"]["verdict"]["ok"] is True
    signed = {
        name: [key["public"] for key in role["signed"]] for name, role in roles(found).items()
    }
    assert sorted(signed.pop("root")) == sorted(key.public for key in signer.root)
    assert signed == {
        "timestamp": [signer.timestamp[0].public],
        "snapshot": [signer.targets[0].public],
        "targets": [signer.targets[0].public],
    }
    assert {role["met"] for role in found["signatures"]["roles"]} == {True}
    assert "signatures  good" in text_of(found)


def test_another_organisations_bundle_is_shown_as_refused(tmp_path: Path, signer: Signer) -> None:
    found = show(bundle(tmp_path / "b", Signer.new()), by_root(signer), NOW)
    verdict = found["signatures"]["verdict"]
    assert (verdict["ok"], verdict["code"]) == (False, "signature")
    assert roles(found)["targets"]["met"] is False
    assert roles(found)["targets"]["signed"] == []
    assert "REFUSED[signature]" in text_of(found)
    assert "NOT ENOUGH SIGNATURES: 0, 1 needed: nobody" in text_of(found)


def test_an_expired_bundle_is_shown_as_expired(tmp_path: Path, signer: Signer) -> None:
    folder = bundle(tmp_path / "b", signer)
    found = show(folder, by_root(signer), NOW + datetime.timedelta(days=300))
    assert found["signatures"]["verdict"]["code"] == "expired"


def test_a_clock_at_1970_is_not_believed(tmp_path: Path, signer: Signer) -> None:
    past = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    found = show(bundle(tmp_path / "b", signer), by_root(signer), past)
    assert found["signatures"]["verdict"]["clock_believed"] is False
    assert "this machine's clock is not believed" in text_of(found)


def test_roots_that_follow_are_gone_through_and_not_kept(tmp_path: Path, signer: Signer) -> None:
    later = signer.rotated("root", "targets")
    folder = bundle(tmp_path / "b", later)
    (folder / "tuf" / "2.root.json").write_bytes(later.root_file(2, by=signer.root))
    found = show(folder, by_root(signer), NOW)
    assert found["signatures"]["roots"] == {"trusted": 1, "newest": 2, "trouble": None}
    assert found["signatures"]["verdict"]["ok"] is True
    (folder / "tuf" / "2.root.json").write_bytes(later.root_file(2))
    found = show(folder, by_root(signer), NOW)
    assert found["signatures"]["roots"]["newest"] == 1
    assert "not signed by enough" in found["signatures"]["roots"]["trouble"]


def test_it_says_what_is_new_for_a_site(
    tmp_path: Path, signer: Signer, box: Node, clock: ScriptedClock
) -> None:
    old = bundle(tmp_path / "old", signer, OLD, "1.0.0")
    site = Site.of(box.state, None)
    assert show(old, site, clock.utc())["items"][0]["new"] is True
    box.importer.run(old, "a test")
    site = Site.of(box.state, None)
    found = show(old, site, clock.utc())
    assert found["items"][0]["new"] is False
    assert found["signatures"]["verdict"]["new"] is False
    assert found["bytes"]["new"] == 0
    assert "here already" in text_of(found)
    draft = Draft(NEW, version="1.1.0")
    new = draft.write(tmp_path / "new", signer, (2, 2, 2))
    found = show(new, site, clock.utc())
    assert found["items"][0]["new"] is True
    assert len(NEW) < found["bytes"]["new"] < len(NEW) + 2000
    thin(new, read_receipt(receipt([digest_of(OLD)])), [old])
    found = show(new, site, clock.utc())
    assert found["against"] == "receipt 7 of box-1"
    assert found["bytes"]["carried"] < len(NEW) * 0.25
    assert f"delta of 1.0 MiB to {digest_of(OLD)[:19]} (here)" in text_of(found)
    (box.state / "store" / "blobs" / "sha256" / digest_of(OLD)[7:]).unlink()
    assert f"{digest_of(OLD)[:19]} (NOT HERE)" in text_of(show(new, site, clock.utc()))


def test_it_says_what_lacks_what_is_short_and_what_is_revoked(
    tmp_path: Path, signer: Signer
) -> None:
    draft = Draft(OTHER)
    denied = wire.dumps(
        {"org": "acme", "epoch": 1, "digests": [{"digest": digest_of(OTHER), "why": "bad\x1b[2J"}]}
    )
    folder = draft.write(tmp_path / "b", signer, also={"trust/revoked.json": target(denied)})
    blob_path(folder, denied).write_bytes(denied)
    blob_path(folder, OTHER).write_bytes(OTHER[:-1])
    found = show(folder, by_root(signer), NOW)
    assert found["items"][0]["revoked"] is True
    assert found["items"][0]["blobs"][-1]["how"] == "another length"
    assert "ANOTHER LENGTH  REVOKED" in text_of(found)
    assert "bad\\x1b[2J" in text_of(found)
    blob_path(folder, OTHER).unlink()
    found = show(folder, by_root(signer), NOW)
    assert found["items"][0]["blobs"][-1]["how"] == "not carried"


def test_a_bundle_that_is_still_being_signed_can_be_looked_at(
    tmp_path: Path, signer: Signer
) -> None:
    folder = bundle(tmp_path / "b", signer)
    (folder / "tuf" / "timestamp.json").unlink()
    found = show(folder, by_root(signer), NOW)
    assert found["signatures"]["verdict"]["code"] == "incomplete"
    assert roles(found)["targets"]["met"] is True
    (folder / "tuf" / "1.snapshot.json").unlink()
    assert show(folder, by_root(signer), NOW)["items"]
    (folder / "tuf" / "1.targets.json").unlink()
    with pytest.raises(IncompleteError, match=r"lacks tuf/1\.targets\.json"):
        show(folder, by_root(signer), NOW)


def test_volumes_are_one_bundle(tmp_path: Path, signer: Signer) -> None:
    first, second = tmp_path / "b.vol1", tmp_path / "b.vol2"
    for folder in (first, second):
        bundle(folder, signer)
    parts = [NEW[:3_000_000], NEW[3_000_000:]]
    for number, (folder, part) in enumerate(zip((first, second), parts, strict=True)):
        blob_path(folder, NEW).unlink()
        blob_path(folder, NEW).with_suffix(f".{number:03}").write_bytes(part)
    found = show(second, by_root(signer), NOW)
    assert found["items"][0]["blobs"][-1]["how"] == "whole"
    (tmp_path / "b.vol1").rename(tmp_path / "other.vol1")
    found = show(second, by_root(signer), NOW)
    assert found["items"][0]["blobs"][-1]["how"] == "not carried"


EVIL = "\x1b]0;owned\x07\u202e\n\x9b"


def test_nothing_of_a_bundle_plays_with_the_terminal(tmp_path: Path, signer: Signer) -> None:
    draft = Draft()
    draft.path = f"models/acme/{EVIL}/1.0.0/Q4_0"
    draft.layer["annotations"] = {"org.cncf.model.filepath": EVIL}
    draft.manifest["annotations"] = {"org.opencontainers.image.licenses": EVIL}
    draft.release["targets"] = [draft.path, f"not/listed/{EVIL}"]
    draft.hint = {"name": "small", "version": "1.0.0", "against": {"node": EVIL, "seq": EVIL}}

    def edit(part: Any) -> None:
        part.unrecognized_fields["x-issued"] = EVIL

    folder = draft.write(tmp_path / "b", signer, edit={"timestamp": edit})
    for site in (Site(None), by_root(signer)):
        found = show(folder, site, NOW)
        assert "owned" in text_of(found)
        for text in (text_of(found), json.dumps(found, ensure_ascii=False)):
            assert all(line.isprintable() for line in text.split("\n"))
    lines = inspect._diff_text(diff(open_side(folder), open_side(folder)))
    assert all(line.isprintable() for line in lines.split("\n"))


@pytest.mark.parametrize("junk", [b"", b"[]", b"{}", b'{"signed":{}}', b"\xff", b"[" * 100_000])
@pytest.mark.parametrize("name", ["timestamp", "1.snapshot", "1.targets", "bundle"])
def test_junk_is_an_error_of_ours_or_said(
    tmp_path: Path, signer: Signer, name: str, junk: bytes
) -> None:
    folder = bundle(tmp_path / "b", signer)
    path = folder / "bundle.json" if name == "bundle" else folder / "tuf" / f"{name}.json"
    path.write_bytes(junk)
    for site in (Site(None), by_root(signer)):
        try:
            found = show(folder, site, NOW)
        except ApplianceError:
            continue
        assert found["signatures"]["verdict"] is None or not found["signatures"]["verdict"]["ok"]


def test_a_manifest_that_is_none_is_said_beside_the_rest(tmp_path: Path, signer: Signer) -> None:
    for changed in ({"layers": [1]}, {"layers": None, "config": {"size": 1, "digest": "x"}}):
        draft = Draft()
        draft.manifest.update(changed)
        folder = draft.write(tmp_path / str(len(str(changed))), signer)
        (item,) = show(folder, by_root(signer), NOW)["items"]
        assert "its manifest" in item["trouble"]
    draft = Draft()
    draft.release = {"targets": 1}
    found = show(draft.write(tmp_path / "b", signer), by_root(signer), NOW)
    assert "does not list what belongs to it" in text_of(found)


def test_a_site_needs_a_root(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no root at"):
        Site.of(None, tmp_path / "nowhere")
    with pytest.raises(NotFoundError, match="trusts no root"):
        Site.of(tmp_path, None)


def test_a_diff_of_two_bundles_is_by_thing_by_blob_and_by_chunk(
    tmp_path: Path, signer: Signer
) -> None:
    old = bundle(tmp_path / "old", signer, OLD, "1.0.0")
    new = bundle(tmp_path / "new", signer)
    other = Draft(OTHER, name="other").write(tmp_path / "other", signer)
    found = diff(open_side(old), open_side(new))
    (row,) = found["items"]
    assert (row["what"], row["before"]) == ("changed", "models/acme/small/1.0.0/Q4_0")
    assert len(NEW) <= row["by_blob"] <= len(NEW) + 2000
    assert 1 << 20 <= row["by_chunk"] <= (1 << 20) + 4000
    assert [row["what"] for row in diff(open_side(old), open_side(old))["items"]] == ["same"]
    found = diff(open_side(old), open_side(other))
    assert [row["what"] for row in found["items"]] == ["new", "gone"]
    assert found["items"][0]["by_chunk"] == found["items"][0]["by_blob"] > len(OTHER)
    assert "gone" in inspect._diff_text(found)


def test_a_diff_beside_a_receipt_goes_by_what_is_held(tmp_path: Path, signer: Signer) -> None:
    old = bundle(tmp_path / "old", signer, OLD, "1.0.0")
    new = bundle(tmp_path / "new", signer)
    path = tmp_path / "receipt.json"
    path.write_bytes(receipt([digest_of(OLD)]))
    (row,) = diff(open_side(path), open_side(new))["items"]
    assert (row["what"], row["by_chunk"]) == ("new", row["by_blob"])
    thin(new, read_receipt(path.read_bytes()), [old])
    (row,) = diff(open_side(path), open_side(new))["items"]
    assert row["by_blob"] > len(NEW)
    assert row["by_chunk"] < len(NEW) * 0.25
    held = [digest_of(data) for data in Draft(NEW, version="1.1.0").blobs.values()]
    path.write_bytes(receipt(held))
    (row,) = diff(open_side(path), open_side(new))["items"]
    assert (row["what"], row["by_blob"], row["by_chunk"]) == ("held", 0, 0)
    with pytest.raises(NotFoundError):
        open_side(tmp_path / "nowhere")


def test_paths_that_differ_in_their_version_alone_are_one_thing() -> None:
    thing = differ._thing
    assert thing("models/acme/a/1/Q4") == thing("models/acme/a/2/Q4") != thing("models/acme/a/1/Q8")
    assert thing("images/a/1") == thing("images/a/2") != thing("images/b/1")
    assert thing("files/deb/a/1") == thing("files/deb/a/2") != thing("files/wheel/a/1")
    assert thing("boms/demo/1/sbom") == thing("boms/demo/2/sbom") != thing("boms/demo/1/mlbom")
    assert thing("x") != thing("y")


def test_a_long_role_s_name_stands_by_itself() -> None:
    role = {"role": "publisher-contoso", "trouble": "cut"}
    assert inspect._role_lines(role) == ["  publisher-contoso not readable: cut"]
