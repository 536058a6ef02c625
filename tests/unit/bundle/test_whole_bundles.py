"""Bundles of everything: models of many files, images, packages, settings, and their bills."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from appliance.bundle.format import artifact, modelpack
from appliance.bundle.make import build as builder
from appliance.bundle.make import locking
from appliance.bundle.make.build import Built
from appliance.cache import artefacts, catalog
from appliance.core.ids import Digest, hex_of
from appliance.errors import BadDocumentError, CorruptError, MalformedError
from appliance.node import site
from appliance.trust.repository import Repository
from tests.fakes.registry import FakeRegistry
from tests.helpers.clock import ScriptedClock
from tests.helpers.gguf import safetensors_of, write_small_llama
from tests.helpers.images import write_image
from tests.helpers.organisation import Node
from tests.helpers.signing import ISSUED, digest_of

pytestmark = pytest.mark.slow


TEXT = """\
apiVersion: edge-appliance.dev/v1alpha1
kind: BundleDefinition
metadata: {name: all}
spec:
  version: 2.0.0
  models:
    - name: small
      version: 1.2.3
      publisher: acme
      licence: Apache-2.0
      licenceText: {file: apache.txt}
      card: {file: card.md}
      provenance:
        source: https://example.com/small
        commit: 0123abcd
        authors: [Acme Research]
        convertedBy: acme, llama.cpp b1
        convertedFrom: small in BF16
      parameters: {temperature: 0.7, topP: 0.9, stop: ["</s>"]}
      variants:
        - {name: Q4_0, source: {file: q4.gguf}}
        - name: BF16
          files:
            - {source: {file: one.safetensors}, path: model-00001-of-00002.safetensors}
            - {source: {file: two.safetensors}, path: model-00002-of-00002.safetensors}
            - {source: {file: config.json}}
            - {source: {file: tokenizer.json}}
  images:
    - name: llama-server
      version: "1.0"
      licence: MIT AND Apache-2.0
      source: {layout: image, reference: "it:1.0"}
  files:
    - kind: k3s
      name: k3s
      version: 1.33.1
      licence: Apache-2.0
      files: [{source: {file: k3s}}, {source: {file: images.tar.zst}, path: k3s-airgap.tar.zst}]
    - {kind: deb, name: toolkit, version: "1.17", files: [{source: {file: toolkit.deb}}]}
    - {kind: wheel, name: tool, version: "1", files: [{source: {file: tool-1-py3-none-any.whl}}]}
    - {kind: site, name: here, version: "1", files: [{source: {file: site.yaml}}]}
    - {kind: profile, name: engine, version: "1", files: [{source: {file: engine.yaml}}]}
"""
SITE = """\
apiVersion: edge-appliance.dev/v1alpha1
kind: Site
metadata: {name: here}
spec: {timeZone: Europe/Zurich}
"""


@dataclass
class Shop:
    """A folder with sources, a definition of all of them, and the keys to sign with."""

    folder: Path
    repository: Repository

    def define(self, text: str = TEXT) -> builder.Definition:
        (self.folder / "all.yaml").write_text(text)
        return builder.read_definition(self.folder / "all.yaml")

    def build(self, text: str = TEXT, name: str = "bundle") -> Built:
        definition = self.define(text)
        builder.lock(definition, self.folder / "cache")
        return builder.build(
            definition, self.folder / name, self.repository, self.folder / "cache", ISSUED
        )


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    write_small_llama(tmp_path / "q4.gguf")
    (tmp_path / "one.safetensors").write_bytes(safetensors_of({"a": b"one"}))
    (tmp_path / "two.safetensors").write_bytes(safetensors_of({"b": b"two"}))
    config = {"max_position_embeddings": 2048, "model_type": "llama", "num_hidden_layers": 2,
              "num_attention_heads": 4, "hidden_size": 64}  # fmt: skip
    texts = {
        "config.json": json.dumps(config), "tokenizer.json": "{}", "apache.txt": "Apache License",
        "card.md": "# small", "k3s": "\x7fELF k3s", "images.tar.zst": "images", "site.yaml": SITE,
        "toolkit.deb": "!<arch>\ndebian-binary   0", "tool-1-py3-none-any.whl": "PK\x03\x04 wheel",
        "engine.yaml": "kind: engine",
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    write_image(tmp_path / "image")
    return Shop(tmp_path, Repository.init_solo(tmp_path / "keys", "acme", ISSUED))


@pytest.fixture
def node(shop: Shop) -> Iterator[Node]:
    root = shop.repository.roots[0].read_bytes()
    made = Node.create(shop.folder / "node", root, ScriptedClock(utc=ISSUED))
    (shop.folder / "node" / "reserve").unlink()
    yield made
    made.close()


def blob(built: Built, digest: str) -> bytes:
    return (built.folder / "blobs" / "sha256" / hex_of(Digest(digest))).read_bytes()


def signed(built: Built) -> dict[str, Any]:
    found = json.loads((built.folder / "tuf" / "1.targets.json").read_bytes())
    targets: dict[str, Any] = found["signed"]["targets"]
    return targets


def manifest(built: Built, path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        blob(built, "sha256:" + signed(built)[path]["hashes"]["sha256"])
    )
    return found


def bill(built: Built, which: str) -> dict[str, Any]:
    (layer,) = manifest(built, f"boms/all/2.0.0/{which}")["layers"]
    data = blob(built, layer["digest"]).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data) is None
    found: dict[str, Any] = json.loads(data)
    wrong = json.dumps({**found, "components": [{"type": "model", "name": "x"}]})
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(wrong) is not None
    return found


def test_all_of_it_is_signed_by_path(shop: Shop) -> None:
    built = shop.build()
    assert set(signed(built)) == {
        "models/acme/small/1.2.3/Q4_0", "models/acme/small/1.2.3/BF16", "images/llama-server/1.0",
        "files/k3s/k3s/1.33.1", "files/deb/toolkit/1.17", "files/wheel/tool/1",
        "files/site/here/1", "files/profile/engine/1", "boms/all/2.0.0/mlbom",
        "boms/all/2.0.0/sbom", "releases/all/2.0.0.json",
    }  # fmt: skip
    for path, target in signed(built).items():
        data = blob(built, "sha256:" + target["hashes"]["sha256"])
        digest = Digest(digest_of(data))
        if path.startswith("models/"):
            modelpack.read(path, digest, data)
        elif not path.startswith("releases/"):
            for found in artifact.read(path, digest, data).blobs[1:]:
                assert len(blob(built, found.digest)) == found.size


def test_a_node_takes_the_models_in_with_all_their_files(shop: Shop, node: Node) -> None:
    found = node.importer.run(shop.build().folder, "a test")
    assert set(found.added) == {"small:1.2.3-BF16", "small:1.2.3-Q4_0"}
    rows = {row.name: row for row in node.ledger.read(catalog.variants)}
    assert (rows["BF16"].format, rows["BF16"].context_max) == ("safetensors", 2048)
    link = node.store.weights(rows["BF16"])
    assert sorted(path.name for path in link.parent.iterdir()) == [
        "LICENSE", "README.md", "config.json", "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors", "tokenizer.json",
    ]  # fmt: skip
    assert link.name == "model-00001-of-00002.safetensors"
    assert (node.store.weights(rows["Q4_0"]).parent / "LICENSE").read_text() == "Apache License"


def test_a_node_takes_everything_else_in_too(shop: Shop, node: Node) -> None:
    found = node.importer.run(shop.build().folder, "a test")
    assert found.others == (
        "images/llama-server/1.0", "files/k3s/k3s/1.33.1", "files/deb/toolkit/1.17",
        "files/wheel/tool/1", "files/site/here/1", "files/profile/engine/1",
        "boms/all/2.0.0/mlbom", "boms/all/2.0.0/sbom",
    )  # fmt: skip
    held = {one.path: one for one in node.ledger.read(artefacts.everything)}
    assert set(held) == set(found.others)
    k3s = held["files/k3s/k3s/1.33.1"]
    assert [file.name for file in k3s.files] == ["k3s", "k3s-airgap.tar.zst"]
    assert node.store.blobs.path(k3s.files[0].digest).read_text() == "\x7fELF k3s"
    assert all(node.store.blobs.has(digest) for one in held.values() for digest in one.blobs)
    here = node.ledger.read(site.in_force)
    assert here is not None
    assert here.spec.time_zone == "Europe/Zurich"
    index = json.loads((node.state / "store" / "index.json").read_text())
    names = {e["annotations"]["org.opencontainers.image.ref.name"] for e in index["manifests"]}
    assert names == {"small:1.2.3-BF16", "small:1.2.3-Q4_0", *found.others}


@pytest.mark.parametrize("text", [b"kind: Site", b"\xff", b"[" * 1000])
def test_a_site_document_that_is_none_is_refused_by_the_node(shop: Shop, text: bytes) -> None:
    """Ours would not build it; somebody else might."""
    built = shop.build()
    path = "files/site/here/1"
    digest = Digest("sha256:" + signed(built)[path]["hashes"]["sha256"])
    found = artifact.read(path, digest, blob(built, digest))
    with pytest.raises(MalformedError, match=r"site\.yaml is no Site"):
        artifact.held(found, lambda _: io.BytesIO(text))


def test_the_release_is_an_index_that_the_bills_refer_to(shop: Shop) -> None:
    built = shop.build()
    release = json.loads(
        blob(built, "sha256:" + signed(built)["releases/all/2.0.0.json"]["hashes"]["sha256"])
    )
    index = json.loads(blob(built, release["index"]))
    assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
    wanted = {
        "sha256:" + signed(built)[path]["hashes"]["sha256"]
        for path in release["targets"]
        if not path.startswith("boms/")
    }
    assert {entry["digest"] for entry in index["manifests"]} == wanted
    for which in ("mlbom", "sbom"):
        found = manifest(built, f"boms/all/2.0.0/{which}")
        assert found["artifactType"] == "application/vnd.cyclonedx+json"
        assert found["subject"]["digest"] == release["index"]
    entries = json.loads((built.folder / "index.json").read_bytes())["manifests"]
    kinds = [entry.get("artifactType") for entry in entries]
    assert kinds.count("application/vnd.cyclonedx+json") == 2


def test_the_bill_of_models_says_what_they_are_and_where_they_come_from(shop: Shop) -> None:
    found = bill(shop.build(), "mlbom")
    one = next(c for c in found["components"] if c["version"] == "1.2.3-Q4_0")
    assert (one["type"], one["name"], one["publisher"]) == (
        "machine-learning-model", "small", "acme",
    )  # fmt: skip
    weights = digest_of((shop.folder / "q4.gguf").read_bytes())
    assert one["hashes"] == [{"alg": "SHA-256", "content": weights.removeprefix("sha256:")}]
    assert one["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert one["authors"] == [{"name": "Acme Research"}]
    assert one["externalReferences"] == [
        {"type": "distribution", "url": "https://example.com/small", "comment": "revision 0123abcd"}
    ]
    assert one["pedigree"]["ancestors"][0]["name"] == "small in BF16"
    card = one["modelCard"]
    assert card["modelParameters"]["task"] == "text-generation"
    assert card["modelParameters"]["modelArchitecture"] == "llama"
    assert {"name": "edge-appliance:sampling:topP", "value": "0.9"} in card["properties"]
    assert [file["name"] for file in one["components"]] == ["q4.gguf", "LICENSE", "README.md"]


def test_the_bill_of_software_says_the_rest(shop: Shop) -> None:
    found = bill(shop.build(), "sbom")
    kinds = {c["name"]: c["type"] for c in found["components"]}
    assert kinds == {
        "llama-server": "container", "k3s": "application", "toolkit": "application",
        "tool": "library", "here": "data", "engine": "data",
    }  # fmt: skip
    image = next(c for c in found["components"] if c["name"] == "llama-server")
    assert image["licenses"] == [{"expression": "MIT AND Apache-2.0"}]
    assert image["purl"].startswith("pkg:oci/llama-server@sha256%3A")
    k3s = next(c for c in found["components"] if c["name"] == "k3s")
    assert [file["name"] for file in k3s["components"]] == ["k3s", "k3s-airgap.tar.zst"]
    assert found["dependencies"][0]["ref"] == "releases/all/2.0.0"
    assert len(found["dependencies"][0]["dependsOn"]) == 6


def test_the_same_sources_give_the_same_artefacts(shop: Shop) -> None:
    first, again = shop.build(), shop.build(name="again")
    assert (first.folder / "index.json").read_bytes() == (again.folder / "index.json").read_bytes()


def test_images_come_from_a_registry_and_are_locked_by_digest(shop: Shop) -> None:
    registry = FakeRegistry(token="let me in")
    write_image(shop.folder / "several", index=True)
    registry.put_layout(shop.folder / "several", "acme/it", "1.0")
    with registry.serving():
        reference = f"{registry.host}/acme/it:1.0"
        text = TEXT.replace('{layout: image, reference: "it:1.0"}', f"{{oci: '{reference}'}}")
        definition = shop.define(text)
        builder.lock(definition, shop.folder / "cache")
        locked = locking.read_locked(definition).images
        ((name, entry),) = locked.items()
        assert name == f"{reference} (linux/amd64)"
        registry.manifests.pop(("acme/it", "1.0"))  # a tag that went, or names another by now
        built = builder.build(
            definition, shop.folder / "b", shop.repository, shop.folder / "cache", ISSUED
        )
        assert signed(built)["images/llama-server/1.0"]["hashes"]["sha256"] == hex_of(
            Digest(entry.digest)
        )


def test_an_image_that_is_not_locked_or_is_another_is_not_built(shop: Shop) -> None:
    definition = shop.define()
    builder.lock(definition, shop.folder / "cache")
    lock = definition.lock_path.read_text()
    definition.lock_path.write_text(lock[: lock.index("  images:")])
    with pytest.raises(BadDocumentError, match=r"does not lock image:it:1\.0"):
        builder.build(definition, shop.folder / "b", shop.repository, shop.folder / "cache", ISSUED)
    definition.lock_path.write_text(lock)
    for path in (shop.folder / "image" / "blobs" / "sha256").iterdir():
        path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(CorruptError):
        builder.build(definition, shop.folder / "b", shop.repository, shop.folder / "cache", ISSUED)


@pytest.mark.parametrize(
    ("file", "data", "error"),
    [
        ("q4.gguf", b"\x80\x04\x95 a pickle", MalformedError),
        ("tokenizer.json", b"PK\x03\x04 a zip", MalformedError),
        ("config.json", b"\x80\x02 a pickle", MalformedError),
        ("toolkit.deb", b"no package", MalformedError),
        ("tool-1-py3-none-any.whl", b"no wheel", MalformedError),
        ("site.yaml", b"kind: Site", BadDocumentError),
    ],
)
def test_what_is_something_else_is_not_even_locked(
    shop: Shop, file: str, data: bytes, error: type[Exception]
) -> None:
    (shop.folder / file).write_bytes(data)
    with pytest.raises(error):
        builder.lock(shop.define(), shop.folder / "cache")
    assert not (shop.folder / "all.lock.yaml").exists()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("publisher: acme", "publisher: local", "kept for what a site signs"),
        ("name: tool, version", "name: tool, kind2: x, version", "unknown field"),
        ("name: BF16", "name: Q4_0", "stands twice"),
        ("kind: deb", "kind: script", "is not allowed"),
        ("{layout: image,", "{layout: image, oci: a.b/c:1,", "exactly one of oci, layout"),
        ("{file: q4.gguf}}", "{file: q4.gguf}, files: [{source: {file: x}}]}", "exactly one of"),
        ("path: k3s-airgap.tar.zst", "path: ../k3s", "is not allowed"),
    ],
)
def test_a_definition_that_makes_no_sense_is_refused(
    shop: Shop, old: str, new: str, says: str
) -> None:
    assert old in TEXT
    with pytest.raises(BadDocumentError, match=says):
        shop.define(TEXT.replace(old, new, 1))


def test_a_bundle_of_nothing_is_refused(shop: Shop) -> None:
    with pytest.raises(BadDocumentError, match="a bundle ships something"):
        shop.define(TEXT[: TEXT.index("  models:")])
