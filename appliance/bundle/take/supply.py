"""Where the bytes of a bundle's blobs come from: whole, in parts, or as deltas to what is here."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

from appliance.bundle.format import delta, rebuild
from appliance.bundle.format.modelpack import Descriptor
from appliance.bundle.media.reader import BundleReader, blob_name
from appliance.cache.blobs import BlobStore, OpenAt
from appliance.core.ids import Digest
from appliance.errors import CorruptError


@dataclass(frozen=True, slots=True)
class Source:
    """How to read one blob; ``bases`` are the blobs here that it is put together from."""

    open_at: OpenAt
    bases: Mapping[Digest, Path] = field(default_factory=dict)


def sources(
    bundle: BundleReader, blobs: BlobStore, missing: Iterable[Descriptor]
) -> dict[Digest, Source]:
    """Return where each missing blob comes from.

    Raises:
        IncompleteError: one is not there, or is a delta to something that is not here.
        CorruptError: one cannot be right, which is better known before hours of copying.
        MalformedError: a recipe is not one.
    """
    return {blob.digest: _source(bundle, blobs, blob) for blob in missing}


def _source(bundle: BundleReader, blobs: BlobStore, blob: Descriptor) -> Source:
    name = blob_name(blob.digest)
    size = bundle.size(name)
    if size is not None and size != blob.size:
        raise CorruptError(
            f"{blob.digest} has {size} bytes in the bundle, signed are {blob.size}",
            hint="copy the bundle again, or ask for another",
        )
    if size is None and bundle.size(rebuild.recipe_path(blob.digest)) is not None:
        return _delta(bundle, blobs, blob)
    if not bundle.has(name):
        if bundle.against is not None:
            raise rebuild.left_out(blob.digest, bundle.against)
        bundle.open(name).close()  # says whether it lacks, or is no file
    return Source(partial(_open, bundle, name, blob.size))


def _delta(bundle: BundleReader, blobs: BlobStore, blob: Descriptor) -> Source:
    """Step 12: the recipe is an unsigned hint; what it makes has to hash to what is signed."""
    path = rebuild.recipe_path(blob.digest)
    data = bundle.medium.read(path, delta.MAX_RECIPE_BYTES)
    recipe = delta.parse(data, delta.Sized(blob.digest, blob.size))
    rebuild.require_bases(recipe, blobs.has, bundle.against)
    bases = {base.digest: blobs.path(base.digest) for base in recipe.bases}
    new = partial(_open, bundle, rebuild.literal_path(blob.digest), recipe.new_bytes)
    return Source(partial(rebuild.rebuilt, recipe, bases, new), bases)


def _open(bundle: BundleReader, name: str, length: int, offset: int) -> BinaryIO:
    return bundle.open(name, offset, length)
