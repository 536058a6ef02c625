"""What a bundle is read from: a folder on a stick, or a server. Nothing on it is believed.

A medium that stops giving bytes *interrupts* an import: what was copied stays, and a later import
goes on from there. It is never the fault of the disk that the bytes go to.
"""

import errno
import io
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from appliance.errors import (
    CorruptError,
    IncompleteError,
    InterruptedImportError,
    MalformedError,
    NotFoundError,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_HINT = "check the medium, copy all of the bundle again, then import again: it goes on from here"


class Medium(Protocol):
    """Files by their path inside the bundle, with ``/`` between folders."""

    name: str
    """What people call it: a path, a URL without secrets, a stick by label and serial."""

    def read(self, path: str, cap: int) -> bytes:
        """Return a small file, whole.

        Raises:
            IncompleteError: it is not there, or the medium stopped giving bytes.
            MalformedError: it is larger than ``cap`` bytes; no more than that was read.
            CorruptError: it is not a regular file.
        """

    def open(self, path: str, offset: int = 0) -> BinaryIO:
        """Return a file for one reading from ``offset`` on, unbuffered.

        Raises:
            IncompleteError: as ``read``; reading may raise it too.
            CorruptError: it is not a regular file.
        """

    def size(self, path: str) -> int | None:
        """Return a file's size in bytes as the medium claims it; None when there is none.

        Raises:
            IncompleteError: the medium does not say; that must not pass for "there is none".
        """


class FolderMedium:
    """A folder: on a stick, on a disk, on a mounted share."""

    def __init__(self, folder: Path) -> None:
        """Look at a folder.

        Raises:
            NotFoundError: there is none.
        """
        self.name = str(folder)
        self.folder = folder
        if not folder.is_dir():
            raise NotFoundError(f"there is no bundle at {folder}", hint="name the bundle's folder")

    def read(self, path: str, cap: int) -> bytes:
        """Return a small file; see ``Medium``."""
        with self.open(path) as file:
            data = read_at_most(file, cap + 1)
        if len(data) > cap:
            raise MalformedError(f"{path} in the bundle is larger than {cap} bytes")
        return data

    def open(self, path: str, offset: int = 0) -> BinaryIO:
        """Open a regular file, never through a link at its end; see ``Medium``."""
        try:
            descriptor = os.open(
                self.folder / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            )
        except (FileNotFoundError, NotADirectoryError) as error:
            if not self.folder.is_dir():  # pulled, and unmounted: no fault of the bundle
                raise interrupted(path, error) from error
            raise IncompleteError(
                f"the bundle lacks {path}", hint="copy all of the bundle's folder"
            ) from error
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
                raise CorruptError(f"{path} in the bundle is not a regular file") from error
            raise interrupted(path, error) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise CorruptError(f"{path} in the bundle is not a regular file")
        os.lseek(descriptor, offset, os.SEEK_SET)
        return cast("BinaryIO", _Raw(descriptor, path))

    def size(self, path: str) -> int | None:
        """Return the size; see ``Medium``."""
        try:
            found = (self.folder / path).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                return None
            raise interrupted(path, error) from error
        return found.st_size if stat.S_ISREG(found.st_mode) else None


def read_into(file: io.FileIO, _path: str, buffer: "WriteableBuffer") -> int | None:
    """Read some bytes: the one place where a medium may fail, and where tests have it fail."""
    return file.readinto(buffer)


class _Raw(io.RawIOBase):
    """A file whose errors are the medium's; unbuffered, so that nothing read before one is lost."""

    def __init__(self, descriptor: int, path: str) -> None:
        super().__init__()
        self._file = io.FileIO(descriptor, "rb")
        self._path = path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.fileno()

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: "WriteableBuffer", /) -> int | None:
        try:
            return read_into(self._file, self._path, buffer)
        except OSError as error:
            raise interrupted(self._path, error) from error

    def close(self) -> None:
        self._file.close()
        super().close()


def interrupted(path: str, error: OSError) -> InterruptedImportError:
    """Return what to say of a medium that stopped giving bytes."""
    why = error.strerror or str(error)
    return InterruptedImportError(f"{path} in the bundle cannot be read: {why}", hint=_HINT)


def read_at_most(file: BinaryIO, count: int) -> bytes:
    """Return up to ``count`` bytes, fewer only at the end of the file."""
    pieces = []
    while count and (piece := file.read(count)):
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)
