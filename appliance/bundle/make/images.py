"""Container images from where they are: an OCI registry, or a local OCI layout."""

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from appliance.bundle.format import artifact, oci
from appliance.bundle.format.oci import MAX_MANIFEST_BYTES, Descriptor
from appliance.bundle.make import from_registry
from appliance.bundle.make.fetched import CHUNK
from appliance.bundle.media.medium import FolderMedium
from appliance.core import wire
from appliance.core.definitions import ImageSource, LockedImage
from appliance.core.ids import Digest, digest, hex_of
from appliance.errors import CorruptError, MalformedError, NotFoundError
from appliance.kit.files import make_folder, translated

_ANY = "images/any/0"
_DOCKER = "application/vnd.docker."


@dataclass(frozen=True, slots=True)
class FetchedImage:
    """An image that was fetched and looked at; ``paths`` has the blobs beside the manifest."""

    manifest: bytes
    blobs: tuple[Descriptor, ...]
    paths: Mapping[Digest, Path]

    @property
    def digest(self) -> Digest:
        return self.blobs[0].digest

    @property
    def size(self) -> int:
        """The bytes of all blobs."""
        return sum(blob.size for blob in self.blobs)


class Shelf(Protocol):
    """Where manifests and blobs are read from; what comes is held to its digest."""

    def root(self) -> bytes:
        """Return the manifest or index that was named."""

    def document(self, wanted: Digest) -> bytes:
        """Return a manifest by its digest."""

    def fetch(self, blob: Descriptor, target: Path) -> None:
        """Write a blob to ``target``."""


def describe(source: ImageSource) -> str:
    """Return a source in words."""
    named = f":{source.reference}" if source.reference else ""
    return f"{source.oci or source.layout}{named} ({source.platform})"


def fetch(
    source: ImageSource, base: Path, cache: Path, locked: LockedImage | None = None
) -> FetchedImage:
    """Return the image that ``source`` names; its blobs are kept in ``cache`` by digest.

    Args:
        source: A registry reference, or a layout's folder.
        base: What a layout's folder is relative to.
        cache: Where blobs are kept.
        locked: What ``bundle lock`` saw; without it, the image that is there now.

    Raises:
        CorruptError, MalformedError: it is not what was locked, or not an OCI image.
        NotFoundError, PeerUnreachableError: as their names say.
    """
    shelf: Shelf
    if source.oci is not None:
        shelf = from_registry.Registry(source.oci)
    else:
        shelf = Layout(base / str(source.layout), source.reference)
    data = _for_platform(shelf, source) if locked is None else shelf.document(Digest(locked.digest))
    if _DOCKER.encode() in data:
        raise MalformedError(
            f"{describe(source)} is an image in docker's own format",
            hint="convert it: skopeo copy --format oci FROM TO",
        )
    itself = Descriptor.of(data, oci.MANIFEST_TYPE)
    found = artifact.read(_ANY, itself.digest, data)
    paths = {blob.digest: _kept(shelf, blob, cache) for blob in found.blobs[1:]}
    return FetchedImage(data, found.blobs, paths)


def _for_platform(shelf: Shelf, source: ImageSource) -> bytes:
    """Return the manifest that was named, or of an index the one for the platform."""
    data = shelf.root()
    found = wire.loads(data, what=describe(source))
    entries = found.get("manifests")
    if not isinstance(entries, list):
        return data
    for entry in entries:
        platform = entry.get("platform") if isinstance(entry, dict) else None
        if not isinstance(platform, dict):
            continue
        parts = (platform.get(name) for name in ("os", "architecture", "variant"))
        if "/".join(str(part) for part in parts if part) == source.platform:
            return shelf.document(digest(str(entry.get("digest"))))
    raise NotFoundError(f"{describe(source)}: there is no image for that platform")


def _kept(shelf: Shelf, blob: Descriptor, cache: Path) -> Path:
    """Return a blob in the cache, fetched if it is not there or is damaged."""
    make_folder(cache)
    kept = cache / blob.digest.replace(":", "-")
    if kept.exists():
        with kept.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == hex_of(blob.digest):
                return kept
        kept.unlink()
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=cache) as folder:
        shelf.fetch(blob, Path(folder) / "blob")
        (Path(folder) / "blob").rename(kept)
    return kept


class Layout:
    """A local OCI layout folder."""

    def __init__(self, folder: Path, reference: str | None = None) -> None:
        """Look at a folder.

        Raises:
            NotFoundError: there is none, or it is no OCI layout.
        """
        self.folder = folder
        if not (folder / "oci-layout").is_file() or not (folder / "index.json").is_file():
            raise NotFoundError(f"{folder} is not an OCI layout", hint="it has oci-layout in it")
        self._medium = FolderMedium(folder)
        self._reference = reference

    def root(self) -> bytes:
        """Return the manifest or index that was named; the only one, when no name was given.

        Raises:
            NotFoundError, MalformedError: there is none of that name, or several without one.
        """
        data = self._medium.read("index.json", MAX_MANIFEST_BYTES)
        entries = wire.loads(data, what="index.json").get("manifests")
        found = [entry for entry in entries or () if isinstance(entry, dict)]
        if self._reference is not None:
            found = [e for e in found if oci.annotations(e).get(oci.REF_NAME) == self._reference]
        if len(found) != 1:
            names = sorted(str(oci.annotations(entry).get(oci.REF_NAME)) for entry in found)
            raise NotFoundError(
                f"{self.folder} holds {len(found)} manifests of that name",
                hint=f"name one of: {', '.join(names)[:500]}" if names else None,
            )
        return self.document(digest(str(found[0].get("digest"))))

    def document(self, wanted: Digest) -> bytes:
        """Return a manifest by its digest.

        Raises:
            IncompleteError, CorruptError, MalformedError: it is not there, or is another.
        """
        data = self._medium.read(f"blobs/sha256/{hex_of(wanted)}", MAX_MANIFEST_BYTES)
        if Descriptor.of(data, "").digest != wanted:
            raise CorruptError(f"{wanted} in {self.folder} holds other bytes")
        return data

    def fetch(self, blob: Descriptor, target: Path) -> None:
        """Copy a blob, and hold it to its digest.

        Raises:
            IncompleteError, CorruptError: it is not there, or is another.
        """
        name = f"blobs/sha256/{hex_of(blob.digest)}"
        writing = translated(f"writing {target}")
        with writing, self._medium.open(name) as file, target.open("wb") as out:
            shutil.copyfileobj(file, out, CHUNK)
        with target.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != hex_of(blob.digest):
                raise CorruptError(f"{blob.digest} in {self.folder} holds other bytes")
