"""Other tools read a bundle: skopeo, oras (its Python client) and whoever knows ModelPack.

Not here: the Go program ``oras``, and ``kit``, which no package of this system has. What they would
see is held to schemas instead: the layout by oras-py, a model's config by ModelPack's own.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from appliance.bundle.make import build as builder
from appliance.core.ids import Digest, hex_of
from appliance.trust.repository import Repository
from tests.conftest import need_tool
from tests.fakes.registry import FakeRegistry
from tests.helpers.gguf import write_small_llama
from tests.helpers.images import write_image
from tests.helpers.signing import ISSUED

pytestmark = pytest.mark.integration

TEXT = """\
apiVersion: edge-appliance.dev/v1alpha1
kind: BundleDefinition
metadata: {name: all}
spec:
  version: 1.0.0
  models:
    - name: small
      version: 1.2.3
      publisher: acme
      licence: Apache-2.0
      card: {file: card.md}
      provenance: {source: "https://example.com/small", commit: abc, authors: [Acme]}
      parameters: {temperature: 0.7}
      variants: [{name: Q4_0, source: {file: q4.gguf}}]
  images:
    - {name: llama-server, version: "1.0", source: {layout: image}}
  files:
    - {kind: k3s, name: k3s, version: 1.33.1, files: [{source: {file: k3s}}]}
"""
REFERENCES = [
    "small:1.2.3-Q4_0", "images/llama-server:1.0", "files/k3s/k3s:1.33.1", "boms/all:1.0.0-mlbom",
    "boms/all:1.0.0-sbom", "releases/all:1.0.0",
]  # fmt: skip

# The CNCF model-spec's schema of a model's config, v1, written out by hand from
# https://github.com/modelpack/model-spec/blob/main/schema/config-schema.json
_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_MODALITIES = {
    "type": "array",
    "items": {"enum": ["text", "image", "audio", "video", "embedding", "other"]},
}


def _closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False,
            "required": list(required)}  # fmt: skip


CONFIG_SCHEMA = _closed(
    {
        "descriptor": _closed(
            {
                **dict.fromkeys(
                    ("createdAt", "family", "name", "docURL", "sourceURL", "version", "revision",
                     "vendor", "title", "description"), _TEXT,
                ),
                "authors": _TEXTS, "datasetsURL": _TEXTS, "licenses": _TEXTS,
            }
        ),
        "config": _closed(
            {
                **dict.fromkeys(
                    ("architecture", "format", "paramSize", "precision", "quantization"), _TEXT
                ),
                "capabilities": _closed(
                    {"inputTypes": _MODALITIES, "outputTypes": _MODALITIES, "languages": _TEXTS,
                     "knowledgeCutoff": _TEXT, "reasoning": {"type": "boolean"},
                     "toolUsage": {"type": "boolean"}, "reward": {"type": "boolean"}}
                ),
            }
        ),
        "modelfs": _closed(
            {"type": {"enum": ["layers"]}, "diffIds": {**_TEXTS, "minItems": 1}}, "type", "diffIds"
        ),
    },
    "descriptor", "config", "modelfs",
)  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tools")
    write_small_llama(folder / "q4.gguf")
    (folder / "card.md").write_text("# small")
    (folder / "k3s").write_text("a binary")
    (folder / "all.yaml").write_text(TEXT)
    write_image(folder / "image")
    definition = builder.read_definition(folder / "all.yaml")
    builder.lock(definition, folder / "cache")
    keys = Repository.init_solo(folder / "keys", "acme", ISSUED)
    return builder.build(definition, folder / "bundle", keys, folder / "cache", ISSUED).folder


def blob(bundle: Path, digest: str) -> bytes:
    return (bundle / "blobs" / "sha256" / hex_of(Digest(digest))).read_bytes()


@pytest.mark.parametrize("reference", REFERENCES)
def test_skopeo_shows_every_manifest(bundle: Path, reference: str) -> None:
    skopeo = need_tool("skopeo")
    entries = json.loads((bundle / "index.json").read_bytes())["manifests"]
    name = "org.opencontainers.image.ref.name"
    (entry,) = [e for e in entries if e["annotations"][name] == reference]
    done = subprocess.run(
        [skopeo, "inspect", "--raw", f"oci:{bundle}:{reference}"], capture_output=True, check=True
    )
    assert done.stdout == blob(bundle, entry["digest"])


def test_skopeo_takes_an_image_out(bundle: Path, tmp_path: Path) -> None:
    skopeo = need_tool("skopeo")
    source = f"oci:{bundle}:images/llama-server:1.0"
    done = subprocess.run([skopeo, "inspect", source], capture_output=True, check=True)
    found = json.loads(done.stdout)
    assert (found["Os"], found["Architecture"], len(found["Layers"])) == ("linux", "amd64", 1)
    subprocess.run(
        [skopeo, "copy", "--insecure-policy", source, f"dir:{tmp_path / 'out'}"],
        capture_output=True, check=True,
    )  # fmt: skip
    assert (tmp_path / "out" / "manifest.json").is_file()


def test_oras_s_python_client_takes_the_layout_and_pushes_it(bundle: Path) -> None:
    from oras.layout import NewLayout  # noqa: PLC0415 - slow
    from oras.provider import Registry  # noqa: PLC0415

    fake = FakeRegistry()
    with fake.serving():
        layout = NewLayout(str(bundle))
        for number, reference in enumerate(REFERENCES[:3]):
            client = Registry(hostname=fake.host, insecure=True)
            layout.push_to_registry(client, f"{fake.host}/acme/it:{number}", reference)
    entries = json.loads((bundle / "index.json").read_bytes())["manifests"]
    for number, entry in enumerate(entries[:3]):
        assert fake.manifests["acme/it", str(number)][1] == blob(bundle, entry["digest"])
        for layer in json.loads(blob(bundle, entry["digest"]))["layers"]:
            assert fake.blobs[layer["digest"]] == blob(bundle, layer["digest"])


def test_a_model_is_what_the_modelpack_specification_says(bundle: Path) -> None:
    entries = json.loads((bundle / "index.json").read_bytes())["manifests"]
    manifest = json.loads(blob(bundle, entries[0]["digest"]))
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    assert [layer["mediaType"] for layer in manifest["layers"]] == [
        "application/vnd.cncf.model.weight.v1.raw", "application/vnd.cncf.model.doc.v1.raw",
    ]  # fmt: skip
    assert all(layer["annotations"]["org.cncf.model.filepath"] for layer in manifest["layers"])
    config = json.loads(blob(bundle, manifest["config"]["digest"]))
    jsonschema.validate(config, CONFIG_SCHEMA)
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in manifest["layers"]]


def test_a_bill_is_found_by_what_it_refers_to(bundle: Path) -> None:
    """As registries answer when they are asked for referrers."""
    fake = FakeRegistry()
    fake.put_layout(bundle, "acme/all", "1.0.0")
    entries = json.loads((bundle / "index.json").read_bytes())["manifests"]
    release = entries[-1]
    referring = [
        reference
        for (_, reference), (_, data) in fake.manifests.items()
        if ":" in reference
        and (json.loads(data).get("subject") or {}).get("digest") == release["digest"]
    ]
    assert len(referring) == 2
