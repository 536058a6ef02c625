"""Controllers as they lie in a node's store, listed by its trusted metadata."""

import datetime
from pathlib import Path

import pytest

from appliance.cache.blobs import BlobStore
from appliance.core import wire
from appliance.core.ids import Digest
from appliance.errors import DowngradeError, MalformedError, NotFoundError, RevokedError
from appliance.trust.metadata import RoleSet
from appliance.trust.repository import NewTarget, Repository
from appliance.trust.store import TrustStore
from appliance.wiring.software import TITLE, StoredControllers

PATH = "files/controller/appliance/1.2.0"


class Stored(TrustStore):
    """A trust store whose metadata in force is what was just signed."""

    def __init__(self, folder: Path, *targets: NewTarget) -> None:
        super().__init__(folder / "tuf")
        now = datetime.datetime.now(datetime.UTC)
        files = Repository.init_solo(folder / "keys", "acme", now).publish(list(targets), now).files
        names = ("timestamp.json", "1.snapshot.json", "1.targets.json")
        self._roles = RoleSet(*(files[name] for name in names))

    def roles(self) -> RoleSet:
        return self._roles


def controllers(tmp_path: Path, *layers: object, path: str = PATH) -> StoredControllers:
    """Return controllers of which one, with these layers, came."""
    blobs = BlobStore(tmp_path / "store")
    blobs.init()
    manifest = blobs.add(wire.dumps({"layers": list(layers)}))
    return StoredControllers(Stored(tmp_path, NewTarget(path, manifest, 9, "any")), blobs)


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


def test_other_artefacts_are_not_controllers(tmp_path: Path) -> None:
    found = controllers(tmp_path, path="files/wheel/appliance/1.2.0")
    assert found.listed() == {}
    with pytest.raises(NotFoundError, match="did not come"):
        found.files_of("files/wheel/appliance/1.2.0")


def test_another_digest_or_a_revoked_one_must_not_run(tmp_path: Path) -> None:
    found = controllers(tmp_path)
    manifest = found.listed()[PATH]
    with pytest.raises(DowngradeError):
        found.require(PATH, Digest("sha256:" + "0" * 64))
    with pytest.raises(DowngradeError):
        found.require(f"{PATH}1", manifest)
    revoked = StoredControllers(found.trust, found.blobs, {manifest: "a hole"}.get)
    with pytest.raises(RevokedError, match="a hole"):
        revoked.require(PATH, manifest)


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
