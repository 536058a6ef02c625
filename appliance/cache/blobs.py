"""Blobs by digest, in an OCI image layout. Knows files and hashes, not models.

A blob appears under its name only by a rename, after its bytes were hashed while they were written
and fsynced. What is not yet proven lies in ``incoming/``, outside the layout.
"""

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from appliance.core import wire
from appliance.core.ids import Digest, hex_of
from appliance.errors import CorruptError
from appliance.kit.files import fsync_folder, make_folder, translated, write_durably

CHUNK = 4 << 20
Progress = Callable[[int], None]


class BlobStore:
    """The folders ``store/`` and ``incoming/`` of one node; or, without ``incoming``, a bundle."""

    def __init__(self, folder: Path, incoming: Path | None = None) -> None:
        self.folder = folder
        self.incoming = incoming or folder / "blobs"
        self._blobs = folder / "blobs" / "sha256"

    def init(self) -> None:
        """Make the folders of an empty layout; harmless when they are there."""
        make_folder(self._blobs)
        make_folder(self.incoming)
        if not (self.folder / "oci-layout").exists():
            write_durably(self.folder / "oci-layout", wire.dumps({"imageLayoutVersion": "1.0.0"}))
        if not (self.folder / "index.json").exists():
            self.write_index([])

    def path(self, digest: Digest) -> Path:
        """Return where the blob is, or would be."""
        return self._blobs / hex_of(digest)

    def has(self, digest: Digest) -> bool:
        """Whether the blob is there; it was proven when it came in."""
        return self.path(digest).is_file()

    def all(self) -> list[Digest]:
        """Return every blob, in order."""
        return sorted(Digest(f"sha256:{path.name}") for path in self._blobs.iterdir())

    def receive(
        self, source: BinaryIO, digest: Digest, length: int, progress: Progress = lambda _: None
    ) -> None:
        """Copy one blob into ``incoming/``, hashed in the same pass, and fsync it.

        Args:
            source: Where its bytes come from; read once, at most one byte beyond ``length``.
            digest: What they must hash to.
            length: How many they must be.
            progress: Told the number of bytes after each chunk.

        Raises:
            CorruptError: other bytes than those that were signed; nothing is left behind.
            NoSpaceError, StateUnusableError: they could not be written.
        """
        target = self._part(digest)
        with translated(f"writing {target}"):
            try:
                target.unlink(missing_ok=True)  # a killed import left it, read-only by then
                with target.open("xb") as file:
                    self._copy(source, file, digest, length, progress)
                    file.flush()
                    os.fsync(file.fileno())
                target.chmod(0o444)
            except BaseException:
                target.unlink(missing_ok=True)
                raise

    def open_received(self, digest: Digest) -> BinaryIO:
        """Open a blob that was received and is not admitted yet, or one that is in the store."""
        part = self._part(digest)
        return (part if part.exists() else self.path(digest)).open("rb")

    def add(self, data: bytes) -> Digest:
        """Put bytes that we made ourselves into the store at once."""
        digest = Digest("sha256:" + hashlib.sha256(data).hexdigest())
        write_durably(self.path(digest), data, mode=0o444)
        return digest

    def admit(self, digests: Iterable[Digest]) -> None:
        """Rename received blobs into the store and make that durable."""
        with translated(f"moving blobs into {self._blobs}"):
            for digest in digests:
                self._part(digest).rename(self.path(digest))
            fsync_folder(self._blobs)
            fsync_folder(self.incoming)

    def discard(self, digests: Iterable[Digest]) -> None:
        """Forget what was received and refused."""
        for digest in digests:
            with contextlib.suppress(FileNotFoundError):
                self._part(digest).unlink()

    def write_index(self, manifests: list[dict[str, object]]) -> None:
        """Replace ``index.json``, which other tools find models by."""
        index = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests,
        }
        write_durably(self.folder / "index.json", wire.dumps(index))

    def _part(self, digest: Digest) -> Path:
        return self.incoming / f"{hex_of(digest)}.part"

    def _copy(
        self, source: BinaryIO, file: BinaryIO, digest: Digest, length: int, progress: Progress
    ) -> None:
        hasher = hashlib.sha256()
        left = length
        while left:
            chunk = read_some(source, min(CHUNK, left), what=digest)
            if not chunk:
                raise CorruptError(f"{digest} ends {left} bytes before its signed length")
            hasher.update(chunk)
            file.write(chunk)
            left -= len(chunk)
            progress(len(chunk))
        if read_some(source, 1, what=digest):
            raise CorruptError(f"{digest} is longer than its signed length of {length} bytes")
        if hasher.hexdigest() != hex_of(digest):
            raise CorruptError(
                f"{digest} holds other bytes than those that were signed",
                hint="the medium or the copy is damaged: copy the bundle again, or ask for another",
            )


def read_some(source: BinaryIO, count: int, *, what: str) -> bytes:
    """Read from a medium that may be failing, as sticks do.

    Raises:
        CorruptError: it would not give its bytes; that is no fault of the disk they go to.
    """
    try:
        return source.read(count)
    except OSError as error:
        raise CorruptError(
            f"{what} cannot be read: {error.strerror}",
            hint="the medium is damaged: copy the bundle again, or ask for another",
        ) from error


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading that must be a regular file, not a link, a pipe or a device.

    Raises:
        FileNotFoundError: not there.
        CorruptError: there, but something else.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CorruptError(f"{path.name} in the bundle cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CorruptError(f"{path.name} in the bundle is not a regular file")
    return os.fdopen(descriptor, "rb")
