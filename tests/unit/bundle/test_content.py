"""Weights are GGUF or safetensors; what Python unpickles is refused, whatever its name says."""

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import pytest

from appliance.bundle.format import content
from appliance.bundle.format.content import Facts
from appliance.core.ids import Digest
from appliance.core.model import FileKind, ModelFile
from appliance.errors import MalformedError
from tests.helpers.gguf import safetensors_of, small_llama
from tests.helpers.signing import digest_of

CONFIG = {
    "model_type": "qwen2", "max_position_embeddings": 32768, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "hidden_size": 896,
}  # fmt: skip


def torch_zip() -> bytes:
    """Return a zip around a pickle, as ``torch.save`` writes one."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
    return data.getvalue()


def look(path: Path, name: str, data: bytes) -> Facts:
    path.write_bytes(data)
    with path.open("rb") as file:
        return content.look(name, content.kind_of(name), file)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.gguf", FileKind.WEIGHT),
        ("a/model-00001-of-00002.safetensors", FileKind.WEIGHT),
        ("tokenizer.json", FileKind.CONFIG),
        ("tokenizer.model", FileKind.CONFIG),
        ("merges.txt", FileKind.CONFIG),
        ("chat_template.jinja", FileKind.CONFIG),
        ("LICENSE", FileKind.DOC),
        ("LICENCE.txt", FileKind.DOC),
        ("README.md", FileKind.DOC),
        ("CARD.MD", FileKind.DOC),
    ],
)
def test_a_file_s_name_says_what_it_is_for(name: str, kind: FileKind) -> None:
    assert content.kind_of(name) is kind


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "x.pt", "x.PTH", "x.ckpt", "x.pkl", "x.npy", "x.npz", "x.h5", "x.joblib"],
)
def test_names_of_pickles_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(MalformedError, match="runs code when it is opened") as caught:
        content.kind_of(name)
    assert caught.value.exit_code == 27
    assert "convert it" in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["modeling.py", "lib.so", "x.plan", "x.engine", "run", "x.sh"])
def test_what_is_executed_belongs_to_no_model(name: str) -> None:
    with pytest.raises(MalformedError):
        content.kind_of(name)


@pytest.mark.parametrize("name", ["model.gguf", "model.safetensors", "config.json", "README.md"])
@pytest.mark.parametrize(
    "data",
    [
        *(pickle.dumps({"a": [1]}, protocol=protocol) for protocol in (2, 3, 4, 5)),
        torch_zip(),
        b"\x93NUMPY\x01\0" + b"\0" * 100,
        b"\x89HDF\r\n\x1a\n" + b"\0" * 100,
        b"\x7fELF" + b"\0" * 100,
        b"\x1f\x8b\x08" + b"\0" * 100,
    ],
)
def test_a_pickle_is_a_pickle_whatever_its_name_says(
    tmp_path: Path, name: str, data: bytes
) -> None:
    with pytest.raises(MalformedError, match="whatever its name says"):
        look(tmp_path / "it", name, data)


def test_a_header_whose_length_begins_like_a_pickle_is_none(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}).encode()
    header += b" " * (0x0280 - len(header))
    data = struct.pack("<Q", len(header)) + header + b"xx"
    assert data.startswith(b"\x80\x02")
    assert look(tmp_path / "it", "model.safetensors", data).format == "safetensors"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("model.gguf", safetensors_of({"a": b"xyz"})),
        ("model.safetensors", small_llama()),
        ("model.safetensors", safetensors_of({"a": b"xyz"}) + b"PK\x03\x04 appended"),
        ("README.md", small_llama()),
        ("model.gguf", b""),
        ("model.safetensors", b""),
    ],
)
def test_content_of_another_kind_is_refused(tmp_path: Path, name: str, data: bytes) -> None:
    with pytest.raises(MalformedError):
        look(tmp_path / "it", name, data)


def test_a_document_has_its_most_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(content.CAPS, FileKind.DOC, 10)
    look(tmp_path / "it", "README.md", b"x" * 10)
    with pytest.raises(MalformedError, match="more than"):
        look(tmp_path / "it", "README.md", b"x" * 11)


class Folder:
    """Files of a model by digest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, name: str, data: bytes) -> ModelFile:
        digest = Digest(digest_of(data))
        (self.folder / digest).write_bytes(data)
        return ModelFile(name, digest, len(data), content.kind_of(name))

    def open(self, digest: Digest) -> io.BufferedReader:
        return (self.folder / digest).open("rb")


def test_the_facts_of_gguf_are_in_its_first_shard(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    files = [
        folder.put("m-00002-of-00002.gguf", b"GGUF" + struct.pack("<IQQ", 3, 0, 0)),
        folder.put("m-00001-of-00002.gguf", small_llama()),
    ]
    assert content.facts(files, folder.open) == Facts("gguf", "llama", 8192, 23040)


def test_the_facts_of_safetensors_are_in_config_json(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    weights = folder.put("model.safetensors", safetensors_of({"a": b"xyz"}))
    assert content.facts([weights], folder.open) == Facts("safetensors", None, None, None)
    config = folder.put("config.json", json.dumps(CONFIG).encode())
    found = content.facts([weights, config], folder.open)
    assert found == Facts("safetensors", "qwen2", 32768, 24 * 2 * 64 * 2 * 2)


@pytest.mark.parametrize(
    "text", ['{"max_position_embeddings": Infinity}', "[]", "junk", '{"hidden_size": true}', "{}"]
)
def test_a_config_that_says_nothing_leaves_it_unknown(tmp_path: Path, text: str) -> None:
    folder = Folder(tmp_path)
    weights = folder.put("model.safetensors", safetensors_of({"a": b"xyz"}))
    found = content.facts([weights, folder.put("config.json", text.encode())], folder.open)
    assert (found.context_max, found.kv_bytes_per_token) == (None, None)


def test_a_file_of_another_length_is_refused(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    file = folder.put("model.gguf", small_llama())
    lie = ModelFile(file.path, file.digest, 1, file.kind)
    with pytest.raises(MalformedError, match="not 1"):
        content.facts([lie], folder.open)
