"""A manifest is written as the ModelPack specification has it, and read back."""

from typing import Any

import pytest

from appliance.bundle import modelpack
from appliance.bundle.modelpack import Descriptor
from appliance.core import wire
from appliance.core.documents import BundleModel
from appliance.core.gguf import GgufHeader
from appliance.core.ids import Digest
from appliance.errors import MalformedError
from tests.helpers.signing import Draft, digest_of

HEADER = GgufHeader("llama", 8192, 30, 23040)
WEIGHTS = Descriptor(Digest(digest_of(b"weights")), 7, modelpack.WEIGHT_TYPE)
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
    data, config = modelpack.build(model(), "Q4_0", "x.gguf", WEIGHTS, HEADER)
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


def test_the_config_is_the_specification_s() -> None:
    _, data = modelpack.build(model(capabilities=["embeddings"]), "Q4_0", "x.gguf", WEIGHTS, HEADER)
    config = wire.loads(data, what="it")
    assert config["modelfs"] == {"type": "layers", "diffIds": [WEIGHTS.digest]}
    assert config["config"]["capabilities"] == {
        "inputTypes": ["text"],
        "outputTypes": ["embedding"],
    }
    assert config["descriptor"]["licenses"] == ["Apache-2.0"]


def test_what_the_header_does_not_say_is_not_known() -> None:
    header = GgufHeader(None, None, None, None)
    data, _ = modelpack.build(model(), "Q4_0", "x.gguf", WEIGHTS, header)
    found = read(data).variant
    assert (found.context_max, found.kv_bytes_per_token) == (None, None)


def test_the_signed_path_names_the_model_and_not_the_manifest() -> None:
    data, _ = modelpack.build(model(name="other"), "Q8_0", "x.gguf", WEIGHTS, HEADER)
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
    ],
)
def test_a_path_that_no_folder_should_be_named_after_is_malformed(path: str) -> None:
    with pytest.raises(MalformedError):
        read(wire.dumps(Draft().manifest), path)
