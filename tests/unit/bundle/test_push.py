"""Pushing: only what is missing, gone on with after cuts, never seen half, kept by the registry."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.bundle.make import push as pushing
from appliance.bundle.make.push import Pushed, Pusher
from appliance.bundle.media.registry import Reference
from appliance.bundle.media.registry_medium import RegistryMedium
from appliance.core import wire
from appliance.core.ids import Digest
from appliance.errors import (
    CorruptError,
    NotFoundError,
    PeerUnreachableError,
    UsageError,
)
from appliance.kit.remote import CutError
from appliance.kit.throttle import Pace, Throttle
from appliance.kit.weblink import Link, Url
from tests.fakes.oci_registry import INDEX, Registry
from tests.helpers.signing import Draft, Signer, blob_path, digest_of, flip

LINK = Link(timeout_s=5, tries=3, sleep=lambda _: None)
BELOW = "/v2/fleet/small"
BIG = os.urandom(300_000)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as made:
        yield made


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushing, "PIECE", 64 << 10)


@pytest.fixture
def draft() -> Draft:
    return Draft()


@pytest.fixture
def folder(draft: Draft, tmp_path: Path, signer: Signer) -> Path:
    made = draft.write(tmp_path / "bundle", signer)
    manifest = draft.blobs["manifest"]
    entry = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest_of(manifest),
        "size": len(manifest),
    }
    (made / "index.json").write_bytes(wire.dumps({"schemaVersion": 2, "manifests": [entry]}))
    blob_path(made, BIG).write_bytes(BIG)
    return made


def push(registry: Registry, folder: Path, tag: str = "1.0.0") -> Pushed:
    return Pusher(Reference.parse(registry.reference(tag=tag)), LINK).push(folder)


def readable(registry: Registry, folder: Path) -> bool:
    """Whether all of the folder can be read from the registry."""
    medium = RegistryMedium(Reference.parse(registry.reference()), LINK)
    paths = [p for p in folder.rglob("*") if p.is_file()]
    try:
        return all(
            medium.read(str(p.relative_to(folder)), 1 << 20) == p.read_bytes() for p in paths
        )
    finally:
        medium.close()


def test_what_was_pushed_is_all_there_and_stays(registry: Registry, folder: Path) -> None:
    found = push(registry, folder)
    registry.collect()
    assert readable(registry, folder)
    assert found.digest == digest_of(registry.files[f"{BELOW}/manifests/1.0.0"])
    assert found.files == len([p for p in folder.rglob("*") if p.is_file()])


def test_the_second_push_sends_nothing(registry: Registry, folder: Path) -> None:
    first = push(registry, folder)
    assert first.sent_bytes > len(BIG)
    again = push(registry, folder, "1.0.1")
    assert (again.sent_bytes, again.digest) == (0, first.digest)


def test_other_tools_find_the_models(registry: Registry, folder: Path, draft: Draft) -> None:
    push(registry, folder)
    index = json.loads(registry.files[f"{BELOW}/manifests/1.0.0"])
    assert index["mediaType"] == INDEX
    _, model = index["manifests"]
    assert registry.files[f"{BELOW}/manifests/{model['digest']}"] == draft.blobs["manifest"]


def test_a_model_that_is_not_all_here_is_left_out_of_the_index(
    registry: Registry, folder: Path, draft: Draft
) -> None:
    blob_path(folder, draft.weights).unlink()  # as in a delta
    push(registry, folder)
    assert len(json.loads(registry.files[f"{BELOW}/manifests/1.0.0"])["manifests"]) == 1
    assert readable(registry, folder)


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"[]",
        b'{"manifests": 7}',
        b'{"manifests": [7]}',
        b'{"manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json"}]}',
    ],
)
def test_an_index_that_is_none_is_a_file_like_others(
    registry: Registry, folder: Path, index: bytes
) -> None:
    (folder / "index.json").write_bytes(index)
    push(registry, folder)
    assert readable(registry, folder)


@pytest.mark.parametrize("cuts", [[0], [10_000], [60_000, 1_000], [0, 0]])
def test_after_a_cut_it_goes_on_from_where_the_registry_is(
    registry: Registry, folder: Path, cuts: list[int]
) -> None:
    registry.cuts = list(cuts)
    push(registry, folder)
    assert readable(registry, folder)
    assert registry.uploads == {}


def test_a_registry_that_forgets_an_upload_gets_it_anew(
    registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, forgotten = Pusher._begin, set[str]()

    def forgetting(self: Pusher) -> pushing._Session:
        session = began(self)
        if not forgotten:
            forgotten.update(registry.uploads)
            registry.uploads.clear()
        return session

    monkeypatch.setattr(Pusher, "_begin", forgetting)
    push(registry, folder)
    assert forgotten
    assert readable(registry, folder)


def test_a_cut_while_something_small_is_sent_is_made_good(
    registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    completed, cut = Pusher._complete, set[str]()

    def cutting(self: Pusher, url: Url, digest: Digest, rest: bytes) -> None:
        if digest not in cut:
            cut.add(digest)
            raise CutError("the link broke")
        completed(self, url, digest, rest)

    monkeypatch.setattr(Pusher, "_complete", cutting)
    push(registry, folder)
    assert digest_of(b"{}") in cut
    assert readable(registry, folder)


def test_a_link_that_always_breaks_is_given_up_and_no_tag_is_set(
    registry: Registry, folder: Path
) -> None:
    registry.cuts = [10] * 99
    with pytest.raises(PeerUnreachableError):
        push(registry, folder)
    assert not [path for path in registry.files if path.endswith("/1.0.0")]
    registry.cuts = []
    push(registry, folder)
    assert readable(registry, folder)


def test_a_damaged_blob_is_not_pushed(registry: Registry, folder: Path) -> None:
    flip(blob_path(folder, BIG))
    with pytest.raises(CorruptError, match="does not hold the bytes"):
        push(registry, folder)
    assert f"{BELOW}/manifests/1.0.0" not in registry.files


def test_links_in_the_folder_are_left_out(registry: Registry, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    (folder / "tuf" / "link").symlink_to(tmp_path / "secret")
    push(registry, folder)
    assert b"mine" not in registry.files.values()


def test_where_no_tag_or_no_bundle_is(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="holds no bundle"):
        push(registry, tmp_path)
    pinned = registry.reference().removesuffix(":1.0.0") + "@sha256:" + "0" * 64
    with pytest.raises(UsageError, match="no tag"):
        Pusher(Reference.parse(pinned))


def test_progress_and_rate(registry: Registry, folder: Path) -> None:
    waited, told = [0.0], list[tuple[int, int]]()

    def sleep(seconds: float) -> None:
        waited[0] += seconds

    pace = Pace(Throttle(100_000, monotonic=lambda: waited[0], sleep=sleep))
    reference = Reference.parse(registry.reference())
    Pusher(reference, LINK, None, pace, lambda _, done, total: told.append((done, total))).push(
        folder
    )
    assert waited[0] > 2.8
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == told[-1][1]
