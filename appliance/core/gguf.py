"""The header of a GGUF file: what sizing needs to know about a model, and where its parts begin.

Follows the GGUF specification, versions 2 and 3 (little-endian). The file may be hostile: every
count is bounded, nothing is allocated on its word, and at most ``MAX_HEADER_BYTES`` are read.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from appliance.core.wire import MAX_INTEGER
from appliance.errors import MalformedError

MAX_HEADER_BYTES = 64 << 20
_MAX_ENTRIES = 65_536
_MAX_STRING = 16 << 20
_MAX_ARRAY = 4_000_000
_MAX_DIMENSIONS = 8
_F16_BYTES = 2
_ALIGNMENT = 32

_SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9

Value = int | float | bool | str | None


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What the header says; ``None`` where it does not.

    ``kv_bytes_per_token`` is for keys and values in f16 over all layers: the product
    ``layers * kv_heads * (key_size + value_size) * 2`` bytes.
    """

    architecture: str | None
    context_length: int | None
    layers: int | None
    kv_bytes_per_token: int | None


def read_header(stream: BinaryIO) -> GgufHeader:
    """Read the metadata of the GGUF file that ``stream`` stands at the beginning of.

    Raises:
        MalformedError: it is not a GGUF file, or its header is cut or out of bounds.
    """
    reader, _, entries = _begin(stream)
    return _header({key: value for key, value, _ in _entries(reader, entries)})


@dataclass(frozen=True, slots=True)
class GgufLayout:
    """Where the parts of a file are, from its start.

    ``entries`` are the ends of the metadata's entries, ``table`` that of the table of tensors;
    ``tensors`` are names and beginnings, in the order of the table.
    """

    entries: tuple[int, ...]
    table: int
    tensors: tuple[tuple[str, int], ...]

    def cuts(self) -> list[int]:
        """Return where the parts begin, in order.

        What fills up behind the table is a part of its own: it changes with any entry's length.
        """
        return sorted({0, *self.entries, self.table, *(begin for _, begin in self.tensors)})


def read_layout(stream: BinaryIO, size: int) -> GgufLayout:
    """Return where the parts of a GGUF file are.

    Args:
        stream: Stands at the beginning of the file; read up to the first tensor, at most.
        size: The file's length.

    Raises:
        MalformedError: as ``read_header``, or a tensor would begin beyond the end.
    """
    reader, tensors, entries = _begin(stream)
    ends, alignment = [reader.position], _ALIGNMENT
    for key, value, end in _entries(reader, entries):
        ends.append(end)
        if key == "general.alignment" and isinstance(value, int):
            alignment = value
    if not 1 <= alignment <= MAX_HEADER_BYTES:
        raise MalformedError(f"GGUF header claims an alignment of {alignment} bytes")
    listed = [_tensor(reader) for _ in range(tensors)]
    data = -(-reader.position // alignment) * alignment
    if any(data + offset > size for _, offset in listed):
        raise MalformedError("GGUF header claims a tensor beyond the end of the file")
    placed = tuple((name, data + offset) for name, offset in listed)
    return GgufLayout(tuple(ends), reader.position, placed)


def _begin(stream: BinaryIO) -> tuple["_Reader", int, int]:
    """Return a reader behind the fixed part, and how many tensors and entries it announces."""
    reader = _Reader(stream)
    if reader.take(4) != b"GGUF":
        raise MalformedError("not a GGUF file: it does not begin with GGUF")
    version = reader.number("I")
    if version not in (2, 3):
        raise MalformedError(f"GGUF version {version} is not one this release reads (2, 3)")
    tensors, entries = int(reader.number("Q")), int(reader.number("Q"))
    for count, what in ((tensors, "tensors"), (entries, "entries")):
        if count > _MAX_ENTRIES:
            raise MalformedError(f"GGUF header claims {count} {what}, more than {_MAX_ENTRIES}")
    return reader, tensors, entries


def _entries(reader: "_Reader", count: int) -> Iterator[tuple[str, Value, int]]:
    """Yield each entry of the metadata and where it ends."""
    for _ in range(count):
        key = reader.string()
        value = reader.value(int(reader.number("I")))
        yield key, value, reader.position


def _tensor(reader: "_Reader") -> tuple[str, int]:
    """Return a tensor's name, and where its bytes are, from the first tensor's."""
    name = reader.string()
    dimensions = int(reader.number("I"))
    if dimensions > _MAX_DIMENSIONS:
        raise MalformedError(f"GGUF header claims a tensor of {dimensions} dimensions")
    reader.take(8 * dimensions)
    reader.number("I")  # the type of its values
    return name, int(reader.number("Q"))


class _Reader:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = MAX_HEADER_BYTES

    @property
    def position(self) -> int:
        return MAX_HEADER_BYTES - self._left

    def take(self, count: int) -> bytes:
        if count > self._left:
            raise MalformedError(f"GGUF header is larger than {MAX_HEADER_BYTES} bytes")
        data = self._stream.read(count)
        if len(data) != count:
            raise MalformedError("GGUF header ends in the middle of an entry")
        self._left -= count
        return data

    def number(self, code: str) -> int | float:
        value: int | float = struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]
        return value

    def string(self) -> str:
        length = int(self.number("Q"))
        if length > _MAX_STRING:
            raise MalformedError(f"GGUF header claims a text of {length} bytes")
        return self.take(length).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Value:
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            self._skip_array()
            return None
        raise MalformedError(f"GGUF header holds a value of unknown type {kind}")

    def _skip_array(self) -> None:
        kind, count = int(self.number("I")), int(self.number("Q"))
        if count > _MAX_ARRAY:
            raise MalformedError(f"GGUF header claims a list of {count} values")
        if kind in _SCALARS:
            self.take(count * struct.calcsize("<" + _SCALARS[kind]))
        elif kind == _STRING:
            for _ in range(count):
                self.string()
        else:
            raise MalformedError(f"GGUF header holds a list of type {kind}")


def _header(found: dict[str, Value]) -> GgufHeader:
    architecture = found.get("general.architecture")
    prefix = architecture if isinstance(architecture, str) else ""

    def whole(name: str) -> int | None:
        value = found.get(f"{prefix}.{name}")
        if not isinstance(value, int) or isinstance(value, bool):
            return None
        return value if 0 < value < 2**31 else None

    layers, heads = whole("block_count"), whole("attention.head_count")
    kv_heads = whole("attention.head_count_kv") or heads
    width = whole("embedding_length")
    key_size = whole("attention.key_length")
    if key_size is None and width is not None and heads is not None:
        key_size = width // heads or None  # a cache of 0 bytes would be a guess, and a low one
    value_size = whole("attention.value_length") or key_size
    sizes = (layers, kv_heads, key_size, value_size)
    per_token = None if None in sizes else _kv_bytes(*(size or 0 for size in sizes))
    return GgufHeader(prefix or None, whole("context_length"), layers, per_token)


def _kv_bytes(layers: int, kv_heads: int, key_size: int, value_size: int) -> int | None:
    found = layers * kv_heads * (key_size + value_size) * _F16_BYTES
    return found if found < MAX_INTEGER else None  # more can be said neither in JSON nor in SQLite
