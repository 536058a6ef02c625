"""The public face of the cache: blobs, the index other tools read, and the files engines open."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from appliance.cache.blobs import BlobStore
from appliance.core.model import Variant
from appliance.errors import NotFoundError
from appliance.kit.files import make_folder, translated

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


class ModelStore:
    """``store/`` and ``models/`` of one node."""

    def __init__(self, state: Path) -> None:
        self.blobs = BlobStore(state / "store", state / "incoming")
        self._models = state / "models"

    def init(self) -> None:
        """Make the folders; harmless when they are there."""
        self.blobs.init()
        make_folder(self._models)

    def publish_index(self, variants: Iterable[Variant]) -> None:
        """Rewrite ``index.json`` from the catalogue, so that skopeo and oras see what is here."""
        self.blobs.write_index([index_entry(v, self.blobs.path(v.manifest)) for v in variants])

    def weights(self, variant: Variant) -> Path:
        """Return the file an engine opens: a hard link to the blob, made when it is missing.

        Raises:
            NotFoundError: the blob is not in the store.
            StateUnusableError: the link could not be made.
        """
        blob = self.blobs.path(variant.weights)
        folder = self._models / variant.model / variant.version / variant.name
        link = folder / variant.file
        try:
            wanted = blob.stat()
        except FileNotFoundError as error:
            raise NotFoundError(
                f"the weights of {variant.reference} are not in the store",
                hint="import the bundle that brings them again",
            ) from error
        with translated(f"looking at {link}"), contextlib.suppress(FileNotFoundError):
            if os.path.samestat(link.stat(), wanted):
                return link
        with translated(f"linking {link}"):
            make_folder(folder)
            temporary = folder / f".{variant.file}.new"
            temporary.unlink(missing_ok=True)
            temporary.hardlink_to(blob)
            temporary.rename(link)
        return link


def index_entry(variant: Variant, manifest: Path) -> dict[str, object]:
    """Return the entry of one variant in an OCI index."""
    return {
        "mediaType": MANIFEST_TYPE,
        "artifactType": "application/vnd.cncf.model.manifest.v1+json",
        "digest": variant.manifest,
        "size": manifest.stat().st_size,
        "annotations": {"org.opencontainers.image.ref.name": variant.reference},
    }
