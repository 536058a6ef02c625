"""Is this file still what its name says? Read once, and without disturbing the page cache.

The name, a SHA-256, is what signatures vouch for, so it alone condemns. BLAKE3 is several times
faster and is kept for each piece of 64 MiB, so that a later look is cheap and may go on where an
earlier one ended. What was not in the page cache before is not in it afterwards; what engines have
there stays.
"""

import errno
import hashlib
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from appliance.core.ids import Digest, hex_of
from appliance.errors import StateUnusableError

PIECE = 64 << 20
_CHUNK = 1 << 20
_HASH = 32
_DAMAGE = {errno.EIO, errno.EUCLEAN, errno.EBADMSG}
"""What a disk or a file system says of bytes that it has lost."""
_NO_CACHE_QUERY = {errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look at a blob found: its BLAKE3 by pieces, or None and why it is not the blob."""

    blake3: bytes | None
    why: str = ""
    is_there: bool = True


Verifying = Generator[int, None, Verdict]
"""Yields the number of bytes after each chunk, and returns the verdict."""


def verify(
    path: Path, digest: Digest, blake3: bytes | None = None, first_piece: int = 0
) -> Verifying:
    """Look at one blob.

    Args:
        path: Its file.
        digest: What its bytes must hash to.
        blake3: What an earlier look found; without it the SHA-256 is computed.
        first_piece: Where an earlier look by BLAKE3 ended.

    Raises:
        StateUnusableError: it cannot be opened or read, for a reason that is not its own.
    """
    try:
        while True:
            with _opened(path) as reader:
                verdict = yield from _looked(reader, digest, blake3, first_piece)
                if verdict.blake3 is not None or reader.is_still(path):
                    return verdict
            blake3 = None  # somebody else condemned that file, and an import brought another
    except FileNotFoundError:
        return Verdict(None, "it is not in the store any more", is_there=False)
    except OSError as error:
        if error.errno not in _DAMAGE:
            raise StateUnusableError(f"{path} cannot be read: {error.strerror}") from error
        return _unreadable(error)


def _looked(reader: "_Reader", digest: Digest, blake3: bytes | None, first_piece: int) -> Verifying:
    try:
        return (yield from _look(reader, digest, blake3, first_piece))
    except OSError as error:
        if error.errno not in _DAMAGE:
            raise
        return _unreadable(error)


def _unreadable(error: OSError) -> Verdict:
    return Verdict(None, f"it cannot be read: {error.strerror}")


def finish(verifying: Verifying) -> Verdict:
    """Return the verdict without a pause."""
    while True:
        try:
            next(verifying)
        except StopIteration as end:
            verdict: Verdict = end.value
            return verdict


def _look(reader: "_Reader", digest: Digest, blake3: bytes | None, first_piece: int) -> Verifying:
    if blake3 is not None and len(blake3) == _HASH * reader.pieces:
        if (yield from _is_unchanged(reader, blake3, first_piece)):
            return Verdict(blake3)
    else:
        found, index = yield from _hash(reader)
        if found == hex_of(digest):
            return Verdict(index)
    reader.forget()  # perhaps memory is what is wrong: look once more, at the disk
    found, index = yield from _hash(reader)
    if found == hex_of(digest):
        return Verdict(index)
    return Verdict(None, f"its bytes hash to sha256:{found}")


def _is_unchanged(reader: "_Reader", blake3: bytes, first_piece: int) -> Generator[int, None, bool]:
    from blake3 import blake3 as new_blake3  # noqa: PLC0415 - most commands do without it

    for number in range(first_piece, reader.pieces):
        hasher = new_blake3()
        for chunk in reader.piece(number):
            hasher.update(chunk)
            yield len(chunk)
        if hasher.digest() != blake3[_HASH * number : _HASH * (number + 1)]:
            return False
    return True


def _hash(reader: "_Reader") -> Generator[int, None, tuple[str, bytes]]:
    from blake3 import blake3 as new_blake3  # noqa: PLC0415

    whole, index = hashlib.sha256(), b""
    for number in range(reader.pieces):
        hasher = new_blake3()
        for chunk in reader.piece(number):
            hasher.update(chunk)
            whole.update(chunk)
            yield len(chunk)
        index += hasher.digest()
    return whole.hexdigest(), index


@contextmanager
def _opened(path: Path) -> Iterator["_Reader"]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        yield _Reader(descriptor)
    finally:
        os.close(descriptor)


class _Reader:
    """Reads a file in pieces and leaves the page cache as it was."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = memoryview(bytearray(_CHUNK))
        self._size = os.fstat(descriptor).st_size
        # No readahead: what it brings in would look as if somebody else had wanted it.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    @property
    def pieces(self) -> int:
        """How many pieces there are; an empty file has one."""
        return max(1, -(-self._size // PIECE))

    def piece(self, number: int) -> Iterator[memoryview]:
        """Yield the chunks of one piece; each is overwritten by the next."""
        offset, end = number * PIECE, min((number + 1) * PIECE, self._size)
        while offset < end:
            chunk = self._read(offset, min(_CHUNK, end - offset))
            if not chunk:
                return  # it was cut short meanwhile: the hash will tell
            yield chunk
            offset += len(chunk)

    def is_still(self, path: Path) -> bool:
        """Whether the file that is read is the one of that name."""
        return os.path.samestat(os.fstat(self._descriptor), path.lstat())

    def forget(self) -> None:
        """Drop what the page cache has of the file, apart from what somebody has mapped."""
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def _read(self, offset: int, count: int) -> memoryview:
        view = self._buffer[:count]
        cached = self._read_cached(view, offset)
        if cached == count:
            return view
        got = max(0, cached)
        while got < count and (more := os.preadv(self._descriptor, [view[got:]], offset + got)):
            got += more
        if cached >= 0:
            start = offset + cached
            os.posix_fadvise(self._descriptor, start, got - cached, os.POSIX_FADV_DONTNEED)
        return view[:got]

    def _read_cached(self, view: memoryview, offset: int) -> int:
        """Return how many bytes the page cache gave at once; -1 where nobody can ask it.

        Where it gave fewer, the kernel has begun to bring in the rest, which is read next.
        """
        try:
            return os.preadv(self._descriptor, [view], offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in _NO_CACHE_QUERY:
                raise
            return 0 if error.errno == errno.EAGAIN else -1
