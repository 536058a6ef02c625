"""Rebuilding a blob from a delta, on the node: step 12 of an import.

What comes out is read like any other blob of a bundle: copied, hashed and compared with what is
signed (step 11), so nothing here needs to be believed. Bytes go from the bases to the reader in
bounded pieces; nothing is written here. They pass through this process on purpose (no
``copy_file_range``): they have to be hashed anyway, and ext4 would share nothing.
"""

import errno
import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from appliance.bundle.format.delta import Recipe, Sized, Step
from appliance.cache.blobs import OpenAt
from appliance.core.ids import Digest, hex_of
from appliance.core.plain import plain
from appliance.errors import CorruptError, IncompleteError

_WHOLE_HINT = "ask for the whole bundle, or export a new receipt here and have one built against it"


def recipe_path(digest: Digest) -> str:
    """Return where a bundle has the recipe of a blob, if it has one."""
    return f"deltas/{hex_of(digest)}.json"


def literal_path(digest: Digest) -> str:
    """Return where a bundle has what is new in that blob."""
    return f"deltas/{hex_of(digest)}.bin"


def require_bases(
    recipe: Recipe, has: Callable[[Digest], bool], against: str | None = None
) -> None:
    """Say which blob is not here before anything is copied.

    Args:
        recipe: What is to be done.
        has: Whether the store, or the medium, has a blob.
        against: What ``made_against`` says of the bundle.

    Raises:
        IncompleteError: names the first base that is missing.
    """
    for base in recipe.bases:
        if not has(base.digest):
            raise IncompleteError(
                f"{recipe.output.digest} is a delta to {base.digest}, which is not here"
                f"{_because(against)}",
                hint=f"bring the bundle that has {base.digest[:19]}…, or {_WHOLE_HINT}",
            )


def left_out(digest: Digest, against: str | None) -> IncompleteError:
    """Return the error for a blob that is neither here nor in the bundle, whole or as a delta."""
    return IncompleteError(
        f"the bundle lacks {digest}{_because(against)}",
        hint=_WHOLE_HINT if against else "copy all of the bundle's folder",
    )


def made_against(hint: Mapping[str, Any]) -> str | None:
    """Return in words which receipt a bundle was made against, going by its unsigned hint."""
    against = hint.get("against")
    if not isinstance(against, dict):
        return None
    return f"receipt {plain(against.get('seq'), 20)} of {plain(against.get('node'), 63)}"


def _because(against: str | None) -> str:
    return "" if against is None else f": it was left out, for {against} says that it is there"


@contextmanager
def rebuilt(
    recipe: Recipe, bases: Mapping[Digest, Path], open_new: OpenAt, done: int = 0
) -> Iterator[BinaryIO]:
    """Yield the blob as a file to read once, from its byte ``done`` on.

    ``functools.partial(rebuilt, recipe, bases, open_new)`` is what ``BlobStore.fetch`` takes.

    Args:
        recipe: As ``delta.parse`` checked it.
        bases: Where each of its bases is: in the store, or on the medium.
        open_new: Returns what is new from an offset on, to be read forward once.
        done: How much of the output an interrupted import has already.

    Raises (also while reading):
        CorruptError: a base cannot be read, or has another length than the recipe says.
        IncompleteError: what is new ends too early.
    """
    with ExitStack() as opened:
        files = [opened.enter_context(_open(base, bases[base.digest])) for base in recipe.bases]
        offset = recipe.new_offset(done)
        new = None if offset == recipe.new_bytes else opened.enter_context(open_new(offset))
        yield cast("BinaryIO", _Rebuilt(recipe, files, new, done))


def damaged(bases: Mapping[Digest, Path]) -> list[Digest]:
    """Return those whose bytes are not what their names say; ask when a rebuilt blob is wrong.

    A wrong blob alone accuses nobody: recipe and literals are unsigned, and whoever made a stick
    could otherwise have every good base of a node put away.
    """
    return [digest for digest, path in bases.items() if not _sound(digest, path)]


def _sound(digest: Digest, path: Path) -> bool:
    try:
        with _regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == hex_of(digest)
    except OSError:
        return False


def _open(base: Sized, path: Path) -> io.FileIO:
    try:
        file = _regular(path)
    except OSError as error:
        raise CorruptError(f"the base {base.digest} cannot be read: {error.strerror}") from error
    size = os.fstat(file.fileno()).st_size
    if size != base.size:
        file.close()
        raise CorruptError(
            f"the delta says {base.digest} has {base.size} bytes, it has {size} here"
        )
    return file


def _regular(path: Path) -> io.FileIO:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return io.FileIO(descriptor)


class _Rebuilt(io.RawIOBase):
    """The steps, one after the other, as one file."""

    def __init__(
        self, recipe: Recipe, bases: Sequence[io.FileIO], new: BinaryIO | None, done: int
    ) -> None:
        self._steps = recipe.after(done)
        self._step: Step | None = next(self._steps, None)
        self._bases = bases
        self._new = new
        self._what = recipe.output.digest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        step = self._step
        if step is None:
            return 0
        room = memoryview(buffer).cast("B")[: step.length]
        count = self._copied(step, room) if step.base is not None else self._fresh(room)
        if count < step.length:
            self._step = Step(step.base, step.offset + count, step.length - count)
        else:
            self._step = next(self._steps, None)
        return count

    def _copied(self, step: Step, room: memoryview) -> int:
        assert step.base is not None
        try:
            count = os.preadv(self._bases[step.base].fileno(), [room], step.offset)
        except OSError as error:
            raise CorruptError(
                f"a base of {self._what} cannot be read: {error.strerror}"
            ) from error
        if not count:
            raise CorruptError(f"a base of {self._what} became shorter while it was read")
        return count

    def _fresh(self, room: memoryview) -> int:
        assert self._new is not None
        try:
            data = self._new.read(len(room))
        except OSError as error:
            raise IncompleteError(
                f"what is new in {self._what} cannot be read: {error.strerror}"
            ) from error
        if not data:
            raise IncompleteError(
                f"what is new in {self._what} ends too early",
                hint="copy all of the bundle's folder",
            )
        room[: len(data)] = data
        return len(data)
