"""Images, files and bills of materials are read as strictly as models."""

from typing import Any

import pytest

from appliance.bundle.format import artifact, oci
from appliance.bundle.format.artifact import NamedBlob
from appliance.bundle.format.oci import Descriptor
from appliance.core import wire
from appliance.core.definitions import BundleFiles
from appliance.core.ids import Digest
from appliance.errors import MalformedError
from tests.helpers.signing import digest_of

BLOB = NamedBlob("k3s", Digest(digest_of(b"k3s")), 3)
FILES = BundleFiles.model_validate(
    {"kind": "k3s", "name": "k3s", "version": "1.33.1", "licence": "Apache-2.0",
     "files": [{"source": {"file": "k3s"}}]}
)  # fmt: skip
SUBJECT = Descriptor(Digest(digest_of(b"index")), 5, oci.INDEX_TYPE)
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
IMAGE = {
    "schemaVersion": 2,
    "mediaType": oci.MANIFEST_TYPE,
    "config": {"mediaType": oci.IMAGE_CONFIG_TYPE, "digest": digest_of(b"config"), "size": 6},
    "layers": [{"mediaType": LAYER, "digest": digest_of(b"layer"), "size": 5}],
}


def read(path: str, data: bytes) -> artifact.Artefact:
    return artifact.read(path, Digest(digest_of(data)), data)


def test_files_are_read() -> None:
    data = artifact.files_manifest(FILES, [BLOB])
    found = read("files/k3s/k3s/1.33.1", data)
    assert (found.family, found.kind, found.name, found.version) == (
        "files",
        "k3s",
        "k3s",
        "1.33.1",
    )
    assert (found.licence, found.files, found.subject) == ("Apache-2.0", (BLOB,), None)
    assert [blob.digest for blob in found.blobs] == [
        digest_of(data), digest_of(b"{}"), BLOB.digest,
    ]  # fmt: skip


def test_an_image_is_read() -> None:
    found = read("images/llama-server/1.0", wire.dumps(IMAGE))
    assert (found.family, found.kind, found.name, found.version) == (
        "images", None, "llama-server", "1.0",
    )  # fmt: skip
    assert [blob.size for blob in found.blobs[1:]] == [6, 5]


def test_a_bill_refers_to_the_release() -> None:
    data = artifact.bom_manifest(b"{}", "demo-sbom", SUBJECT)
    found = read("boms/demo/1.0.0/sbom", data)
    assert (found.kind, found.subject) == ("sbom", SUBJECT.digest)
    assert [file.name for file in found.files] == ["demo-sbom.cdx.json"]


@pytest.mark.parametrize(
    "path",
    [
        "images/a", "images/a/b/c", "files/script/a/1", "files/k3s/a", "boms/a/1/x", "other/a/1",
        "images/../1", "images/.a/1", "images//1", "files/deb/a b/1", "models/a/b/c/d", "",
    ],
)  # fmt: skip
def test_a_path_of_nothing_that_is_known(path: str) -> None:
    with pytest.raises(MalformedError):
        read(path, wire.dumps(IMAGE))


@pytest.mark.parametrize(
    "change",
    [
        {"manifests": []},
        {"layers": []},
        {"layers": None},
        {"layers": IMAGE["layers"] * 1025},  # type: ignore[operator]
        {"mediaType": "application/vnd.docker.distribution.manifest.v2+json"},
        {"config": None},
        {"config": {**IMAGE["config"], "mediaType": "application/octet-stream"}},  # type: ignore[dict-item]
        {"config": {**IMAGE["config"], "size": 5 << 20}},  # type: ignore[dict-item]
    ],
)
def test_an_image_of_another_form(change: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        read("images/a/1", wire.dumps({**IMAGE, **change}))


@pytest.mark.parametrize(
    "change",
    [
        {"urls": ["https://example.com"]},
        {"data": "e30="},
        {"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar"},
        {"mediaType": None},
        {"digest": "sha512:" + "ab" * 64},
        {"size": -1},
        {"size": True},
    ],
)
@pytest.mark.parametrize("family", ["images", "files"])
def test_a_layer_of_another_form(change: dict[str, Any], family: str) -> None:
    if family == "images":
        path, manifest = "images/a/1", wire.loads(wire.dumps(IMAGE), what="it")
    else:
        path = "files/k3s/k3s/1"
        manifest = wire.loads(artifact.files_manifest(FILES, [BLOB]), what="it")
    manifest["layers"][0].update(change)
    with pytest.raises(MalformedError):
        read(path, wire.dumps(manifest))


@pytest.mark.parametrize("name", ["", ".x", "a/b", "../x", "a b", None, 1])
def test_a_file_with_no_plain_name(name: object) -> None:
    manifest = wire.loads(artifact.files_manifest(FILES, [BLOB]), what="it")
    manifest["layers"][0]["annotations"] = {oci.TITLE: name}
    with pytest.raises(MalformedError):
        read("files/k3s/k3s/1", wire.dumps(manifest))


def test_two_files_of_one_name_and_files_of_another_kind() -> None:
    twice = [BLOB, NamedBlob("K3S", BLOB.digest, BLOB.size)]
    with pytest.raises(MalformedError):
        read("files/k3s/k3s/1", artifact.files_manifest(FILES, twice))
    with pytest.raises(MalformedError):
        read("files/deb/k3s/1", artifact.files_manifest(FILES, [BLOB]))
    with pytest.raises(MalformedError):
        read("boms/a/1/sbom", artifact.files_manifest(FILES, [BLOB]))
    without = wire.loads(artifact.bom_manifest(b"{}", "x", SUBJECT), what="it")
    del without["subject"]
    with pytest.raises(MalformedError):
        read("boms/a/1/sbom", wire.dumps(without))
