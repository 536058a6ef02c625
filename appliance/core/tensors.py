"""A file of weights as the pieces that two versions of it may have in common.

Cut where the header's entries and the tensors begin, and every 4 MiB from the start of a tensor:
then a longer header moves the tensors and changes none of them, and a fine-tune changes those that
it touched. Files of another kind are cut every 4 MiB. What that saves was measured:
`docs/how-to/deltas.md`.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

from appliance.core import gguf, safetensors
from appliance.errors import MalformedError

PIECE = 4 << 20
"""No piece is longer."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of a file."""

    offset: int
    length: int


def pieces(stream: BinaryIO, size: int) -> list[Piece]:
    """Return the pieces of a file, in order and without a gap.

    A file that looks like weights and is not is cut like any other file: how it is cut decides what
    a delta costs, never whether it is right.

    Args:
        stream: Stands at the beginning of the file; only its header is read.
        size: The file's length.
    """
    starts = [*(cut for cut in _cuts(stream, size) if cut < size), size]
    return [piece for begin, end in pairwise(starts) for piece in _divided(begin, end)]


def _cuts(stream: BinaryIO, size: int) -> list[int]:
    with suppress(MalformedError):
        return gguf.read_layout(stream, size).cuts()
    stream.seek(0)
    with suppress(MalformedError):
        return safetensors.read_cuts(stream, size)
    return [0]


def _divided(begin: int, end: int) -> Iterator[Piece]:
    for offset in range(begin, end, PIECE):
        yield Piece(offset, min(PIECE, end - offset))
