"""A stick that fails: a FUSE file system that shows a folder until it has given so many bytes.

Run as ``worn.py FOLDER MOUNT BYTES ERRNO``: once ``BYTES`` have been read from it, every reading
fails with ``ERRNO``, as on a bad block (EIO) or of a stick that was pulled (ENODEV).
"""

import errno
import sys
from pathlib import Path
from typing import Any

import mfusepy


class Worn(mfusepy.Operations):  # type: ignore[misc]
    """Read-only, and not for long."""

    use_ns = True

    def __init__(self, folder: Path, left: int, error: int) -> None:
        self._folder = folder
        self._left = left
        self._error = error

    def getattr(self, path: str, _fh: int | None = None) -> dict[str, Any]:
        found = self._at(path)
        try:
            seen = found.lstat()
        except FileNotFoundError as error:
            raise mfusepy.FuseOSError(errno.ENOENT) from error
        return {name: getattr(seen, name) for name in ("st_mode", "st_size", "st_nlink")}

    def readdir(self, path: str, _fh: int) -> list[str]:
        return [".", "..", *(entry.name for entry in self._at(path).iterdir())]

    def read(self, path: str, size: int, offset: int, _fh: int) -> bytes:
        if self._left <= 0:
            raise mfusepy.FuseOSError(self._error)
        with self._at(path).open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        self._left -= len(data)
        return data

    def _at(self, path: str) -> Path:
        return self._folder / path.lstrip("/")


if __name__ == "__main__":
    folder, mount, left, error = sys.argv[1:]
    worn = Worn(Path(folder), int(left), int(error))
    mfusepy.FUSE(worn, mount, foreground=True, ro=True, direct_io=True, nothreads=True)
