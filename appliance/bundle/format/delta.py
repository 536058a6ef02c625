"""A delta: a blob as ranges of blobs that the receiver holds, and what is new. Pure.

The recipe, and the bytes that are new, travel unsigned: they are hints about how to come by a
blob. What is rebuilt is believed only when the whole of it has the signed digest, so a hostile
recipe costs time, and at most the time of copying the blob. To that end it is small, has few steps,
and its steps make up exactly the signed length; all of that is known before a byte is written.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from appliance.core import tensors, wire
from appliance.core.ids import Digest, digest
from appliance.errors import MalformedError

VERSION = 1
MAX_RECIPE_BYTES = 2 << 20
MAX_STEPS = 32_768
MAX_BASES = 8
_LEAST_COPY = 1024
"""Copying less than this costs more, in steps and seeks, than sending it again."""
_NEW = "new"


@dataclass(frozen=True, slots=True)
class Sized:
    """A blob by its digest, and its length."""

    digest: Digest
    size: int

    def to_wire(self) -> dict[str, Any]:
        return {"digest": self.digest, "size": self.size}


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a file, and the SHA-256 of its bytes."""

    offset: int
    length: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Step:
    """The next ``length`` bytes of the output: of a base, or, without one, of what is new."""

    base: int | None
    offset: int
    length: int

    def to_wire(self) -> list[Any]:
        return [_NEW if self.base is None else self.base, self.offset, self.length]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a blob comes about. What is new lies in its file in the order in which it is used."""

    output: Sized
    bases: tuple[Sized, ...]
    steps: tuple[Step, ...]

    @property
    def new_bytes(self) -> int:
        """The length of what is new."""
        return sum(step.length for step in self.steps if step.base is None)

    def after(self, done: int) -> Iterator[Step]:
        """Yield what is left to do when the first ``done`` bytes of the output are there."""
        for step in self.steps:
            if done < step.length:
                yield Step(step.base, step.offset + done, step.length - done)
            done = max(0, done - step.length)

    def new_offset(self, done: int) -> int:
        """Return where to go on reading what is new, after ``done`` bytes of the output."""
        rest = (step.offset for step in self.after(done) if step.base is None)
        return next(rest, self.new_bytes)

    def to_bytes(self) -> bytes:
        """Return the recipe as canonical JSON."""
        return wire.dumps(
            {
                "version": VERSION,
                "output": self.output.to_wire(),
                "base": [base.to_wire() for base in self.bases],
                "steps": [step.to_wire() for step in self.steps],
            }
        )


def chunks(stream: BinaryIO, size: int) -> tuple[list[Chunk], Digest]:
    """Read a file once; return its chunks, and the digest of the whole.

    Args:
        stream: The file, at its beginning.
        size: Its length.

    Raises:
        MalformedError: it ends before that.
    """
    pieces = tensors.pieces(stream, size)
    stream.seek(0)
    found, whole = [], hashlib.sha256()
    for piece in pieces:
        data = stream.read(piece.length)
        if len(data) != piece.length:
            raise MalformedError(f"a file of {size} bytes ends after {piece.offset + len(data)}")
        whole.update(data)
        found.append(Chunk(piece.offset, piece.length, hashlib.sha256(data).digest()))
    return found, Digest(f"sha256:{whole.hexdigest()}")


def likeness(new: Sequence[tensors.Piece], old: Sequence[tensors.Piece]) -> int:
    """Return how many bytes two files could share at most, going by the lengths of their pieces.

    Known from headers alone: it tells which of many files are worth reading as a base.
    """
    left: dict[int, int] = {}
    for piece in old:
        left[piece.length] = left.get(piece.length, 0) + 1
    shared = 0
    for piece in new:
        if left.get(piece.length, 0):
            left[piece.length] -= 1
            shared += piece.length
    return shared


def recipe(
    output: Sized, new: Sequence[Chunk], bases: Sequence[tuple[Sized, Sequence[Chunk]]]
) -> Recipe:
    """Return how to make the output of what the bases have; a base that gives nothing is left out.

    Args:
        output: What is to be made.
        new: Its chunks.
        bases: What may be taken from, at most ``MAX_BASES``, each with its chunks.
    """
    found = _merged(_found(new, [of for _, of in bases]))
    runs = list(_merged(_without_crumbs(found)))
    used = sorted({run.base for run in runs if run.base is not None})
    steps, fresh = [], 0
    for run in runs:
        if run.base is None:
            steps.append(Step(None, fresh, run.length))
            fresh += run.length
        else:
            steps.append(Step(used.index(run.base), run.offset, run.length))
    return Recipe(output, tuple(bases[index][0] for index in used), tuple(steps))


def _found(new: Sequence[Chunk], bases: Sequence[Sequence[Chunk]]) -> Iterator[Step]:
    """Yield where each chunk is, best right behind the one before: fewer steps, and no seek."""
    first: dict[bytes, tuple[int, int]] = {}
    at: dict[tuple[int, int], bytes] = {}
    for base, of in enumerate(bases):
        for chunk in of:
            first.setdefault(chunk.sha256, (base, chunk.offset))
            at[base, chunk.offset] = chunk.sha256
    behind: tuple[int, int] | None = None
    for chunk in new:
        adjoins = behind is not None and at.get(behind) == chunk.sha256
        place = behind if adjoins else first.get(chunk.sha256)
        if place is None:
            yield Step(None, 0, chunk.length)
            behind = None
        else:
            yield Step(*place, chunk.length)
            behind = (place[0], place[1] + chunk.length)


def _merged(steps: Iterator[Step]) -> Iterator[Step]:
    held: Step | None = None
    for step in steps:
        if held is not None and _adjoin(held, step):
            held = Step(held.base, held.offset, held.length + step.length)
            continue
        if held is not None:
            yield held
        held = step
    if held is not None:
        yield held


def _adjoin(one: Step, other: Step) -> bool:
    if one.base is None:
        return other.base is None
    return one.base == other.base and one.offset + one.length == other.offset


def _without_crumbs(steps: Iterator[Step]) -> Iterator[Step]:
    for step in steps:
        yield Step(None, 0, step.length) if step.length < _LEAST_COPY else step


def parse(data: bytes, output: Sized) -> Recipe:
    """Read a recipe that nobody signed.

    Args:
        data: The recipe as it arrived.
        output: What it must make: the digest and the length that are signed.

    Raises:
        MalformedError: too large, not of this form, for another blob, a step reaches beyond its
            base, what is new is not used in order, or the steps do not add up to the signed length.
    """
    what = f"the delta for {output.digest}"
    if len(data) > MAX_RECIPE_BYTES:
        raise MalformedError(f"{what} is larger than {MAX_RECIPE_BYTES} bytes")
    found = wire.loads(data, what=what)
    if found.get("version") != VERSION:
        raise MalformedError(f"{what} is not of version {VERSION}")
    if _sized(found.get("output"), what) != output:
        raise MalformedError(f"{what} makes another blob, or one of another length")
    bases = tuple(_sized(base, what) for base in _listed(found.get("base"), MAX_BASES, what))
    steps = tuple(_step(step, what) for step in _listed(found.get("steps"), MAX_STEPS, what))
    _check(steps, bases, output, what)
    return Recipe(output, bases, steps)


def _check(steps: Sequence[Step], bases: Sequence[Sized], output: Sized, what: str) -> None:
    made = fresh = 0
    for step in steps:
        made += step.length
        if step.base is None:
            if step.offset != fresh:
                raise MalformedError(f"{what} does not use what is new in order")
            fresh += step.length
        elif step.base >= len(bases) or step.offset + step.length > bases[step.base].size:
            raise MalformedError(f"{what} takes from beyond the end of a base")
    if made != output.size:
        raise MalformedError(f"{what} makes {made} bytes, {output.size} are signed")


def _listed(found: object, most: int, what: str) -> list[Any]:
    if not isinstance(found, list) or len(found) > most:
        raise MalformedError(f"{what} has not a list of at most {most} bases or steps")
    return found


def _sized(found: object, what: str) -> Sized:
    if not isinstance(found, dict) or not _whole(found.get("size")):
        raise MalformedError(f"{what} names a blob without its length")
    try:
        return Sized(digest(str(found.get("digest"))), int(found["size"]))
    except ValueError as error:
        raise MalformedError(f"{what} names a blob by what is not a digest") from error


def _step(found: object, what: str) -> Step:
    if not isinstance(found, list) or len(found) != 3:
        raise MalformedError(f"{what} has a step that is not [base, offset, length]")
    base, offset, length = found
    if not _whole(offset) or not _whole(length) or not length:
        raise MalformedError(f"{what} has a step without an offset and a length")
    if base != _NEW and not _whole(base):
        raise MalformedError(f"{what} has a step of no base")
    return Step(None if base == _NEW else base, offset, length)


def _whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0
