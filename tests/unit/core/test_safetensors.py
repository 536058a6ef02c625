"""A safetensors header is read for what it says; a hostile one is refused before it costs much."""

import io
import struct

import pytest

from appliance.core import safetensors, wire
from appliance.core.safetensors import MAX_HEADER_BYTES, SafetensorsHeader, Tensor
from appliance.errors import MalformedError
from tests.helpers.gguf import safetensors_of


def read(data: bytes) -> SafetensorsHeader:
    return safetensors.read_header(io.BytesIO(data), len(data))


def file_of(header: object, body: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else wire.dumps(header)
    return struct.pack("<Q", len(text)) + text + bytes(body)


def one(**changed: object) -> dict[str, object]:
    return {"a": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12], **changed}}


def test_it_says_which_tensors_there_are_and_where() -> None:
    data = file_of({"b": {"dtype": "F32", "shape": [], "data_offsets": [12, 16]}, **one()}, 16)
    start = len(data) - 16
    found = read(data)
    assert found.tensors == (
        Tensor("a", "F16", (2, 3), start, start + 12),
        Tensor("b", "F32", (), start + 12, start + 16),
    )
    assert found.parameters == 7
    cuts = safetensors.read_cuts(io.BytesIO(data), len(data))
    assert cuts == [0, start, start + 12]


def test_metadata_is_a_mapping_of_texts() -> None:
    assert read(safetensors_of({"a": b"xyz"}, made="here")).metadata == {"made": "here"}
    assert read(safetensors_of({})).tensors == ()
    with pytest.raises(MalformedError, match="mapping of texts"):
        read(file_of({"__metadata__": {"a": 1}}))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "ends before"),
        (bytes(7), "ends before"),
        (struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{}", "claims 8388609 bytes"),
        (struct.pack("<Q", 2**64 - 1), "claims 18446744073709551615 bytes"),
        (struct.pack("<Q", 100) + b"{}", "ends before"),
        (file_of(b"[]"), "does not begin with {"),
        (file_of(b'{"a":1,"a":1}'), "stands twice"),
        (file_of(b'{"a":' + b"[" * 100_000), "strict JSON"),
        (file_of({"a": 1}), "is not described"),
        (file_of({"a": None}), "is not described"),
        (file_of(one(data_offsets=[0]), 12), "is not described"),
        (file_of(one(shape="6"), 12), "no shape or place"),
        (file_of(one(shape=[True, 6]), 12), "no shape or place"),
        (file_of(one(shape=[-2, -3]), 12), "no shape or place"),
        (file_of(one(shape=[1] * 9), 2), "no shape or place"),
        (file_of(one(data_offsets=[0, 12.0]), 12), "no shape or place"),
        (file_of(one(data_offsets=[-12, 0]), 12), "no shape or place"),
        (file_of(one(dtype="PICKLE"), 12), "is of type"),
        (file_of(one(dtype=[]), 12), "is of type"),
        (file_of(one(shape=[2, 4]), 12), "not as long as its shape"),
        (file_of(one(shape=[2**52, 2**52]), 12), "not as long as its shape"),
        (file_of(one(), 13), "accounts for"),
        (file_of(one(), 11), "accounts for"),
        (file_of(one(data_offsets=[1, 13]), 13), "gap or overlap"),
        (file_of({**one(), "b": one()["a"]}, 12), "gap or overlap"),
    ],
)
def test_a_hostile_header_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(MalformedError, match=says):
        read(data)


@pytest.mark.slow
def test_more_tensors_than_any_model_has_are_refused() -> None:
    entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    with pytest.raises(MalformedError, match="more than 65536 tensors"):
        read(file_of({str(number): entry for number in range(65_537)}))
