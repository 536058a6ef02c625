"""Blobs by digest, in an OCI image layout. Knows files and hashes, not models.

A blob appears under its name only by a rename, after its bytes were hashed while they were written
and fsynced. What is not yet proven lies in ``incoming/``, outside the layout.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from appliance.cache.copying import Progress, copy_hashed, hash_file
from appliance.core import wire
from appliance.core.ids import Digest, hex_of
from appliance.errors import CorruptError
from appliance.kit.files import fsync_folder, make_folder, translated, write_durably

_HEX = re.compile(r"[0-9a-f]{64}")

OpenAt = Callable[[int], contextlib.AbstractContextManager[BinaryIO]]
"""Returns a file's bytes from an offset on, for one reading."""


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
        """Return every blob, in order; what a crash left half written beside them is none."""
        names = (path.name for path in self._blobs.iterdir())
        return sorted(Digest(f"sha256:{name}") for name in names if _HEX.fullmatch(name))

    def stored_bytes(self) -> int:
        """Return the bytes of all blobs in the store."""
        with os.scandir(self._blobs) as found:
            return sum(entry.stat().st_size for entry in found)

    def receive(
        self, source: BinaryIO, digest: Digest, length: int, progress: Progress = lambda _: None
    ) -> None:
        """Copy one blob from a file that can be sought; see ``fetch``."""

        def at(offset: int) -> contextlib.nullcontext[BinaryIO]:
            source.seek(offset)
            return contextlib.nullcontext(source)

        self.fetch(at, digest, length, progress)

    def fetch(
        self, open_at: OpenAt, digest: Digest, length: int, progress: Progress = lambda _: None
    ) -> None:
        """Copy one blob into ``incoming/``, hashed in the same pass, and fsync it.

        What an earlier try left there is hashed again and gone on from.

        Args:
            open_at: Returns its bytes from an offset on, to be read once; at most one byte beyond
                ``length`` is read.
            digest: What they must hash to.
            length: How many they must be.
            progress: Told the number of bytes after each chunk, those of an earlier try too.

        Raises:
            CorruptError: other bytes than those that were signed; nothing is left behind.
            NoSpaceError, StateUnusableError: they could not be written. What was, stays.
            IncompleteError: the medium stopped giving bytes. What was copied stays.
        """
        part = self._part(digest)
        with translated(f"writing {part}"):
            try:
                if not self._fetch(part, open_at, digest, length, progress):
                    # What an earlier try left may be at fault, such as after a power cut.
                    part.unlink()
                    progress(-length)
                    self._fetch(part, open_at, digest, length, progress)
                part.chmod(0o444)
            except CorruptError:
                part.unlink(missing_ok=True)
                raise

    def take(self, source: BinaryIO, length: int, progress: Progress = lambda _: None) -> Digest:
        """Copy a file whose digest nobody knows yet into ``incoming/``, and return its digest.

        It is hashed in the same pass and fsynced; then it lies there like one that was fetched.

        Raises:
            CorruptError: it is shorter than ``length``.
            NoSpaceError, StateUnusableError: it could not be written; nothing is left behind.
        """
        part, hasher = self.incoming / "taken.part", hashlib.sha256()
        with translated(f"writing {part}"):
            try:
                with part.open("wb", buffering=0) as file:
                    count = copy_hashed(source, file.fileno(), length, hasher, progress)
                _check_whole(length - count)
                part.chmod(0o444)
                digest = Digest("sha256:" + hasher.hexdigest())
                part.rename(self._part(digest))
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        return digest

    def _fetch(
        self, part: Path, open_at: OpenAt, digest: Digest, length: int, progress: Progress
    ) -> bool:
        """Copy what is missing; return False if it is wrong and an earlier try had a share."""
        hasher = hashlib.sha256()
        with contextlib.suppress(FileNotFoundError):
            part.chmod(0o600)  # one that was complete could only be read
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "rb+", buffering=0) as file:
            kept = os.fstat(descriptor).st_size
            if kept > length:
                file.truncate(kept := 0)
            hash_file(file, kept, hasher, progress)
            with open_at(kept) as source:
                count = copy_hashed(source, descriptor, length - kept, hasher, progress)
                if count < length - kept:
                    left = length - kept - count
                    raise CorruptError(f"{digest} ends {left} bytes before its signed length")
                if source.read(1):
                    what = f"{digest} is longer than its signed length of {length} bytes"
                    raise CorruptError(what)
        if hasher.hexdigest() == hex_of(digest):
            return True
        if kept:
            return False
        raise CorruptError(
            f"{digest} holds other bytes than those that were signed",
            hint="the medium or the copy is damaged: copy the bundle again, or ask for another",
        )

    def kept(self, digest: Digest) -> int:
        """Return how many bytes of a blob an earlier try left in ``incoming/``."""
        try:
            return self._part(digest).stat().st_size
        except FileNotFoundError:
            return 0

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


def _check_whole(lacking: int) -> None:
    if lacking:
        raise CorruptError(f"the file became {lacking} bytes shorter while it was copied")
