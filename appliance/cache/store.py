"""The public face of the cache: blobs, the index other tools read, and the files engines open."""

import contextlib
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from appliance.cache.blobs import BlobStore
from appliance.core.artefact import HeldArtefact
from appliance.core.ids import Digest
from appliance.core.model import ModelFile, Variant
from appliance.errors import NoSpaceError, NotFoundError
from appliance.kit.files import fsync_folder, make_folder, translated

log = logging.getLogger(__name__)
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_HEX = re.compile(r"[0-9a-f]{64}")


class ModelStore:
    """``store/`` and ``models/`` of one node."""

    def __init__(self, state: Path) -> None:
        self.blobs = BlobStore(state / "store", state / "incoming")
        self.folder = self.blobs.folder / "blobs" / "sha256"
        self._models = state / "models"

    def init(self) -> None:
        """Make the folders; harmless when they are there. A full disk lacks hints for others."""
        try:
            self.blobs.init()
        except NoSpaceError as error:
            if not self.folder.is_dir() or not self.blobs.incoming.is_dir():
                raise
            log.warning("the store lacks a file for other tools until the next start: %s", error)
        make_folder(self._models)

    def publish_index(
        self, variants: Iterable[Variant], others: Iterable[HeldArtefact] = ()
    ) -> None:
        """Rewrite ``index.json`` from what is held, so that skopeo and oras see what is here.

        What has lost its manifest is left out, not an error. Nothing here depends on the file:
        on a full disk the old one stays.
        """
        here = [v for v in variants if self.blobs.has(v.manifest)]
        entries = [index_entry(v, self.blobs.path(v.manifest)) for v in here]
        entries += [_entry(held) for held in others if self.blobs.has(held.manifest)]
        try:
            self.blobs.write_index(entries)
        except NoSpaceError as error:
            log.warning("index.json is as old as it was until the next start: %s", error)

    def sizes(self) -> dict[Digest, int]:
        """Return every blob that is in the store, with the bytes of its file."""
        found = {}
        with translated("listing the store"), os.scandir(self.folder) as entries:
            for entry in entries:
                if _HEX.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    found[Digest(f"sha256:{entry.name}")] = entry.stat(
                        follow_symlinks=False
                    ).st_size
        return found

    def remove(self, digests: Iterable[Digest]) -> None:
        """Delete blobs that nobody needs, durably; one that is gone already is not an error."""
        with translated("removing blobs from the store"):
            for digest in digests:
                self.blobs.path(digest).unlink(missing_ok=True)
            fsync_folder(self.folder)

    def link(self, variant: Variant) -> Path:
        """Return the name under which engines open a variant's weights; it may not be there."""
        return self.folder_of(variant) / variant.file

    def folder_of(self, variant: Variant) -> Path:
        """Return the folder that engines find a variant's files in; it may not be there."""
        return self._models / variant.model / variant.version / variant.name

    def links_of(self, variant: Variant) -> Iterator[Path]:
        """Yield the names of all of a variant's files; they may not be there."""
        yield from (self.folder_of(variant) / file.path for file in variant.all_files)

    def links(self) -> Iterator[Path]:
        """Yield every file below ``models/``."""
        for folder, _, names in os.walk(self._models):
            yield from (Path(folder, name) for name in sorted(names))

    def unlink(self, link: Path) -> None:
        """Remove a file below ``models/``, and the folders that are empty without it."""
        with translated(f"removing {link}"):
            link.unlink(missing_ok=True)
        self.prune()

    def prune(self) -> None:
        """Remove folders below ``models/`` that hold nothing."""
        for folder, _, _ in os.walk(self._models, topdown=False):
            if Path(folder) != self._models:
                with contextlib.suppress(OSError):  # not empty, or somebody was quicker
                    Path(folder).rmdir()

    def weights(self, variant: Variant) -> Path:
        """Return the file an engine opens, with all others of the model in place beside it.

        Each is a hard link to its blob, made when it is missing.

        Raises:
            NotFoundError: the blob is not in the store.
            StateUnusableError: the link could not be made.
        """
        for file in variant.all_files:
            self._link(file, self.folder_of(variant), variant)
        return self.link(variant)

    def _link(self, file: ModelFile, folder: Path, variant: Variant) -> None:
        blob, link = self.blobs.path(file.digest), folder / file.path
        try:
            wanted = blob.stat()
        except FileNotFoundError as error:
            raise NotFoundError(
                f"files of {variant.reference} are not in the store",
                hint="import the bundle that brings them again",
            ) from error
        with translated(f"looking at {link}"), contextlib.suppress(FileNotFoundError):
            if os.path.samestat(link.stat(), wanted):
                return
        with translated(f"linking {link}"):
            make_folder(link.parent)
            temporary = link.with_name(f".{link.name}.new")
            temporary.unlink(missing_ok=True)
            temporary.hardlink_to(blob)
            temporary.rename(link)


def _entry(held: HeldArtefact) -> dict[str, object]:
    return {
        "mediaType": MANIFEST_TYPE,
        "digest": held.manifest,
        "size": held.manifest_bytes,
        "annotations": {"org.opencontainers.image.ref.name": held.path},
    }


def index_entry(variant: Variant, manifest: Path) -> dict[str, object]:
    """Return the entry of one variant in an OCI index."""
    return {
        "mediaType": MANIFEST_TYPE,
        "artifactType": "application/vnd.cncf.model.manifest.v1+json",
        "digest": variant.manifest,
        "size": manifest.stat().st_size,
        "annotations": {"org.opencontainers.image.ref.name": variant.reference},
    }
