"""Controllers as they lie in a node's store, listed by its trusted metadata."""

from dataclasses import replace
from pathlib import Path

import pytest

from appliance.cache.blobs import BlobStore
from appliance.core import wire
from appliance.core.ids import Digest
from appliance.errors import (
    DowngradeError,
    MalformedError,
    NotFoundError,
    RevokedError,
    ScopeError,
)
from appliance.trust.documents import Revocation, Revoked
from appliance.trust.listed import Listed
from appliance.trust.metadata import SignedTarget
from appliance.trust.scope import MANIFEST_TYPE, TOP
from appliance.trust.store import TrustStore
from appliance.wiring.software import TITLE, StoredControllers

PATH = "files/controller/appliance/1.2.0"


class Stored(TrustStore):
    """A trust store in whose set in force these are listed."""

    def __init__(self, folder: Path, *targets: SignedTarget) -> None:
        super().__init__(folder / "tuf")
        self.set = Listed({target.path: target for target in targets})

    def listed(self) -> Listed:
        return self.set


def controllers(
    tmp_path: Path, *layers: object, path: str = PATH, role: str = TOP
) -> StoredControllers:
    """Return controllers of which one, with these layers, came."""
    blobs = BlobStore(tmp_path / "store")
    blobs.init()
    manifest = blobs.add(wire.dumps({"layers": list(layers)}))
    target = SignedTarget(path, manifest, 9, MANIFEST_TYPE, role)
    return StoredControllers(Stored(tmp_path, target), blobs)


def layer(name: str, blob: Digest) -> dict[str, object]:
    return {"digest": blob, "annotations": {TITLE: name}}


def test_what_is_listed_and_here_is_found_with_its_files(tmp_path: Path) -> None:
    blob = BlobStore(tmp_path / "store")
    blob.init()
    wheel = blob.add(b"a wheel")
    found = controllers(tmp_path, layer("a.whl", wheel))
    assert list(found.listed()) == [PATH]
    found.require(PATH, found.listed()[PATH])
    assert found.files_of(PATH) == [("a.whl", blob.path(wheel))]


@pytest.mark.parametrize(
    ("path", "role"),
    [("files/wheel/appliance/1.2.0", TOP), (PATH, "publisher-acme"), (f"{PATH}/x", TOP)],
)
def test_others_are_not_controllers(tmp_path: Path, path: str, role: str) -> None:
    found = controllers(tmp_path, path=path, role=role)
    assert found.listed() == {}
    with pytest.raises(NotFoundError, match="did not come"):
        found.files_of(path)


def test_what_a_publisher_signed_must_not_run(tmp_path: Path) -> None:
    found = controllers(tmp_path, role="publisher-acme")
    with pytest.raises(ScopeError):
        found.require(PATH, found.trust.listed().targets[PATH].digest)


def test_another_digest_or_one_that_is_revoked_in_part_must_not_run(tmp_path: Path) -> None:
    found = controllers(tmp_path)
    manifest, wheel = found.listed()[PATH], Digest("sha256:" + "0" * 64)
    found.require(PATH, manifest, wheel)
    with pytest.raises(DowngradeError):
        found.require(PATH, wheel)
    with pytest.raises(DowngradeError):
        found.require(f"{PATH}1", manifest)
    assert isinstance(found.trust, Stored)
    for denied in (manifest, wheel):
        entry = Revocation(denied, "a hole", stop=False)
        found.trust.set = replace(found.trust.set, revoked=Revoked(digests={denied: entry}))
        with pytest.raises(RevokedError, match="a hole"):
            found.require(PATH, manifest, wheel)


def test_one_that_is_not_whole_is_not_here(tmp_path: Path) -> None:
    found = controllers(tmp_path, layer("a.whl", Digest("sha256:" + "0" * 64)))
    with pytest.raises(NotFoundError, match=r"a\.whl is not in the store"):
        found.files_of(PATH)


ONE = layer("a.whl", Digest("sha256:" + "0" * 64))


@pytest.mark.parametrize("layers", [["x"], [{}], [{**ONE, "digest": "x"}], [ONE, ONE]])
def test_a_manifest_that_does_not_name_its_files_is_malformed(
    tmp_path: Path, layers: list[object]
) -> None:
    with pytest.raises(MalformedError):
        controllers(tmp_path, *layers).files_of(PATH)
