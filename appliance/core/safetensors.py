"""The header of a safetensors file: which tensors it holds, and where.

Follows https://huggingface.co/docs/safetensors: eight bytes of length, that much JSON, then the
tensors without a gap. The file may be hostile: the header is bounded, tensors neither overlap nor
leave room for anything that no tensor accounts for, and each is as long as its shape and type say.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from appliance.core import wire
from appliance.errors import MalformedError

MAX_HEADER_BYTES = 8 << 20
_LENGTH_BYTES = 8
_MAX_TENSORS = 65_536
_MAX_DIMENSIONS = 8
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor; ``begin`` and ``end`` count from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """What the header says; the tensors are in the order of their bytes."""

    tensors: tuple[Tensor, ...]
    metadata: Mapping[str, str]

    @property
    def parameters(self) -> int:
        """How many values all tensors hold."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)


def read_header(stream: BinaryIO, size: int) -> SafetensorsHeader:
    """Read the header of the safetensors file that ``stream`` stands at the beginning of.

    Args:
        stream: The file.
        size: Its length.

    Raises:
        MalformedError: it is not a safetensors file, or its header is cut or out of bounds.
    """
    data = _exactly(stream, _LENGTH_BYTES)
    length = int(struct.unpack("<Q", data)[0])
    if length > MAX_HEADER_BYTES:
        raise MalformedError(f"safetensors header claims {length} bytes")
    text = _exactly(stream, length)
    if not text.startswith(b"{"):
        raise MalformedError("not a safetensors file: its header does not begin with {")
    found = wire.loads(text, what="the safetensors header")
    metadata = found.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise MalformedError("safetensors metadata is not a mapping of texts")
    if len(found) > _MAX_TENSORS:
        raise MalformedError(f"safetensors header lists more than {_MAX_TENSORS} tensors")
    first = _LENGTH_BYTES + length
    tensors = sorted(
        (_tensor(name, entry, first) for name, entry in found.items()),
        key=lambda tensor: (tensor.begin, tensor.end),
    )
    _check_gapless(tensors, first, size)
    return SafetensorsHeader(tuple(tensors), metadata)


def read_cuts(stream: BinaryIO, size: int) -> list[int]:
    """Return where the parts of a safetensors file begin, in order: the header, each tensor.

    Raises:
        MalformedError: as ``read_header``.
    """
    return sorted({0, *(tensor.begin for tensor in read_header(stream, size).tensors)})


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise MalformedError("safetensors header ends before its stated length")
    return data


def _tensor(name: str, entry: Any, first: int) -> Tensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedError(f"safetensors header: {name[:80]!r} is not described") from error
    numbers: list[Any] = shape if isinstance(shape, list) else [None]
    if len(numbers) > _MAX_DIMENSIONS or not all(_whole(n) for n in (*numbers, begin, end)):
        raise MalformedError(f"safetensors header: {name[:80]!r} has no shape or place")
    bits = _BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise MalformedError(f"safetensors header: {name[:80]!r} is of type {str(dtype)[:20]!r}")
    if math.prod(numbers) * bits != (end - begin) * 8:
        raise MalformedError(f"safetensors header: {name[:80]!r} is not as long as its shape says")
    return Tensor(name, dtype, tuple(numbers), first + begin, first + end)


def _whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0


def _check_gapless(tensors: list[Tensor], first: int, size: int) -> None:
    at = first
    for tensor in tensors:
        if tensor.begin != at:
            raise MalformedError(
                f"safetensors header: a gap or overlap before {tensor.name[:80]!r}"
            )
        at = tensor.end
    if at != size:
        raise MalformedError(f"safetensors header accounts for {at} bytes of {size}")
