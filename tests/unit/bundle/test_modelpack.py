"""A manifest is written as the ModelPack specification has it, and read back."""

from typing import Any

import pytest

from appliance.bundle.format import modelpack
from appliance.bundle.format.content import Facts
from appliance.core import wire
from appliance.core.definitions import BundleModel
from appliance.core.ids import Digest
from appliance.core.model import FileKind, ModelFile
from appliance.errors import MalformedError
from tests.helpers.signing import Draft, digest_of

FACTS = Facts("gguf", "llama", 8192, 23040)


def file(path: str, kind: FileKind = FileKind.WEIGHT, size: int = 7) -> ModelFile:
    return ModelFile(path, Digest(digest_of(path.encode())), size, kind)


WEIGHTS = file("x.gguf")
PATH = "models/acme/small/1.0.0/Q4_0"


def model(**changes: Any) -> BundleModel:
    given = {
        "name": "small",
        "version": "1.0.0",
        "publisher": "acme",
        "licence": "Apache-2.0",
        "variants": [{"name": "Q4_0", "source": {"file": "x.gguf"}}],
        **changes,
    }
    return BundleModel.model_validate(given)


def read(data: bytes, path: str = PATH) -> modelpack.Pack:
    return modelpack.read(path, Digest(digest_of(data)), data)


def test_what_was_built_is_read() -> None:
    data, config = modelpack.build(model(), "Q4_0", [WEIGHTS], FACTS)
    pack = read(data)
    found = pack.variant
    assert (found.model, found.version, found.name, found.publisher) == (
        "small", "1.0.0", "Q4_0", "acme",
    )  # fmt: skip
    assert (found.licence, found.file, found.format) == ("Apache-2.0", "x.gguf", "gguf")
    assert (found.context_max, found.kv_bytes_per_token) == (8192, 23040)
    assert found.capabilities == ("chat", "completions")
    assert (found.weights, found.weights_bytes) == (WEIGHTS.digest, 7)
    assert [(blob.digest, blob.size) for blob in pack.blobs] == [
        (digest_of(data), len(data)),
        (digest_of(config), len(config)),
        (WEIGHTS.digest, 7),
    ]


MANY = [
    file("model-00002-of-00002.safetensors"),
    file("model-00001-of-00002.safetensors"),
    file("tokenizer/tokenizer.json", FileKind.CONFIG),
    file("config.json", FileKind.CONFIG),
    file("LICENSE", FileKind.DOC),
    file("README.md", FileKind.DOC),
]


def test_a_model_of_many_files_is_read() -> None:
    data, _ = modelpack.build(model(), "BF16", MANY, Facts("safetensors", "llama", None, None))
    pack = read(data)
    found = pack.variant
    assert (found.format, found.weights_bytes) == ("safetensors", 14)
    assert (found.file, found.weights) == (MANY[1].path, MANY[1].digest)
    assert set(found.files) == set(MANY)
    assert {blob.digest for blob in pack.blobs[2:]} == {one.digest for one in MANY}
    types = [layer["mediaType"] for layer in wire.loads(data, what="it")["layers"]]
    assert types == [
        *["application/vnd.cncf.model.weight.v1.raw"] * 2,
        *["application/vnd.cncf.model.weight.config.v1.raw"] * 2,
        *["application/vnd.cncf.model.doc.v1.raw"] * 2,
    ]


def test_the_same_files_give_the_same_manifest_in_any_order() -> None:
    facts = Facts("safetensors", None, None, None)
    assert modelpack.build(model(), "Q", MANY, facts) == modelpack.build(
        model(), "Q", MANY[::-1], facts
    )


@pytest.mark.parametrize(
    "files",
    [
        [WEIGHTS, file("X.GGUF")],
        [WEIGHTS, file("a.safetensors")],
        [file("config.json", FileKind.CONFIG)],
        [WEIGHTS, file("x.gguf/config.json", FileKind.CONFIG)],
        [file("pytorch_model.bin")],
        [WEIGHTS, file("evil.pkl", FileKind.CONFIG)],
        [WEIGHTS, file("modeling.py", FileKind.CONFIG)],
        [WEIGHTS, file("x.so", FileKind.DOC)],
        [WEIGHTS, file("a/../../b.json", FileKind.CONFIG)],
        [WEIGHTS, file("a/.hidden/b.json", FileKind.CONFIG)],
        [WEIGHTS, file("/".join("abcdefghi") + "/b.json", FileKind.CONFIG)],
        [WEIGHTS, file("tokenizer.json", FileKind.CONFIG, size=(64 << 20) + 1)],
        [WEIGHTS, file("README.md", FileKind.DOC, size=(16 << 20) + 1)],
        [file(f"{number}.gguf") for number in range(1025)],
    ],
)
def test_files_that_no_model_has_are_malformed(files: list[ModelFile]) -> None:
    data, _ = modelpack.build(model(), "Q4_0", files, FACTS)
    with pytest.raises(MalformedError):
        read(data)


def test_what_a_site_signed_itself_is_read() -> None:
    data, _ = modelpack.build(model(publisher="local"), "Q4_0", [WEIGHTS], FACTS)
    found = read(data, "local/small/1.0.0/Q4_0").variant
    assert (found.publisher, found.path) == ("local", "local/small/1.0.0/Q4_0")


def test_provenance_and_sampling_travel_along() -> None:
    given = model(
        provenance={
            "source": "https://example.com/small", "commit": "abc", "authors": ["A"],
            "family": "llama", "convertedBy": "us", "convertedFrom": "small in BF16",
        },
        parameters={"temperature": 0.2, "stop": ["###"]},
    )  # fmt: skip
    data, config = modelpack.build(given, "Q4_0", [WEIGHTS], FACTS)
    described = wire.loads(config, what="it")["descriptor"]
    assert described == {
        "name": "small", "version": "1.0.0", "vendor": "acme", "licenses": ["Apache-2.0"],
        "authors": ["A"], "family": "llama", "sourceURL": "https://example.com/small",
        "revision": "abc",
    }  # fmt: skip
    notes = wire.loads(data, what="it")["annotations"]
    assert notes["dev.edge-appliance.model.converted-by"] == "us"
    assert notes["dev.edge-appliance.model.parameters"] == '{"stop":["###"],"temperature":0.2}'


def test_the_config_is_the_specification_s() -> None:
    _, data = modelpack.build(model(capabilities=["embeddings"]), "Q4_0", [WEIGHTS], FACTS)
    config = wire.loads(data, what="it")
    assert config["modelfs"] == {"type": "layers", "diffIds": [WEIGHTS.digest]}
    assert config["config"]["capabilities"] == {
        "inputTypes": ["text"],
        "outputTypes": ["embedding"],
    }
    assert config["descriptor"]["licenses"] == ["Apache-2.0"]


def test_what_the_header_does_not_say_is_not_known() -> None:
    facts = Facts("gguf", None, None, None)
    data, _ = modelpack.build(model(), "Q4_0", [WEIGHTS], facts)
    found = read(data).variant
    assert (found.context_max, found.kv_bytes_per_token) == (None, None)


def test_the_signed_path_names_the_model_and_not_the_manifest() -> None:
    data, _ = modelpack.build(model(name="other"), "Q8_0", [WEIGHTS], FACTS)
    assert read(data).variant.reference == "small:1.0.0-Q4_0"


@pytest.mark.parametrize(
    "path",
    [
        "models/acme/small/1.0.0",
        "models/acme/small/1.0.0/Q4_0/more",
        "images/acme/small/1.0.0/Q4_0",
        "models/acme/../../Q4_0",
        "models/acme/small/../Q4_0",
        "models/acme//1.0.0/Q4_0",
        "models/acme/small/1.0.0/",
        "models/acme/small/1.0.0/.hidden",
        "models/acme/small/1.0.0/Q4 0",
        "models/acme/small/1.0.0/Q4_0\n",
        "models/local/small/1.0.0/Q4_0",
        "local/small/1.0.0",
        "local/acme/small/1.0.0/Q4_0",
    ],
)
def test_a_path_that_no_folder_should_be_named_after_is_malformed(path: str) -> None:
    with pytest.raises(MalformedError):
        read(wire.dumps(Draft().manifest), path)
