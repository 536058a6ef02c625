"""Weights are cut where two versions of a file are likely to part."""

import io
import struct

import pytest

from appliance.core import gguf
from appliance.core.tensors import PIECE, Piece, pieces
from appliance.errors import MalformedError
from tests.helpers.gguf import llama_of, safetensors_of, small_llama

TENSORS = {"a": b"a" * 1000, "b": b"b" * (PIECE + 5), "c": b"c" * 64}


def cut(data: bytes) -> list[Piece]:
    found = pieces(io.BytesIO(data), len(data))
    assert sum(piece.length for piece in found) == len(data)
    at = 0
    for piece in found:
        assert piece.offset == at
        assert 0 < piece.length <= PIECE
        at += piece.length
    return found


@pytest.mark.parametrize("alignment", [32, 4096])
def test_a_gguf_file_is_cut_at_entries_and_tensors(alignment: int) -> None:
    data = llama_of(TENSORS, alignment=alignment, note="x" * 5000)
    starts = [piece.offset for piece in cut(data)]
    a, b, c = (data.index(letter * 64) for letter in (b"a", b"b", b"c"))
    assert a % alignment == 0
    assert starts[-4:] == [a, b, b + PIECE, c]
    note = data.index(b"note") - 8
    assert note in starts
    assert data.index(b"x" * 5000) + 5000 in starts


def test_a_safetensors_file_is_cut_at_tensors() -> None:
    data = safetensors_of(TENSORS)
    a, b, c = (data.index(letter * 64) for letter in (b"a", b"b", b"c"))
    assert [piece.offset for piece in cut(data)] == [0, a, b, b + PIECE, c]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"anything else",
        bytes(PIECE + 1),
        b"GGUF" + bytes(100),
        small_llama()[:60],
        llama_of(TENSORS)[:2000],
        safetensors_of(TENSORS)[:-1],
        struct.pack("<Q", 3) + b"{,}" + bytes(9),
    ],
)
def test_what_is_not_quite_weights_is_cut_like_any_file(data: bytes) -> None:
    assert [piece.offset for piece in cut(data)][:1] == [0][: len(data)]


@pytest.mark.parametrize(
    ("edited", "says"),
    [
        ((struct.pack("<IQIQ", 1, 64, 24, 64), struct.pack("<IQIQ", 9, 64, 24, 64)), "dimensions"),
        ((struct.pack("<IQIQ", 1, 64, 24, 64), struct.pack("<IQIQ", 1, 64, 24, 2**63)), "beyond"),
        ((struct.pack("<II", 4, 32), struct.pack("<II", 4, 0)), "alignment of 0"),
        ((struct.pack("<II", 4, 32), struct.pack("<II", 4, 2**31)), "alignment of"),
        ((struct.pack("<IQ", 3, 2), struct.pack("<IQ", 3, 2**40)), "claims 1099511627776 tensors"),
        ((struct.pack("<IQ", 3, 2), struct.pack("<IQ", 3, 60_000)), "GGUF header"),
    ],
)
def test_a_hostile_table_of_tensors_is_refused(edited: tuple[bytes, bytes], says: str) -> None:
    data = llama_of({"a": bytes(64), "b": bytes(64)})
    assert edited[0] in data
    data = data.replace(*edited)
    with pytest.raises(MalformedError, match=says):
        gguf.read_layout(io.BytesIO(data), len(data))
