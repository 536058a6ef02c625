"""From a definition to a signed bundle. Runs where there is a network, never on a node."""

import datetime
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from appliance.bundle.make import images
from appliance.bundle.make.fetched import Fetched
from appliance.bundle.make.images import FetchedImage
from appliance.bundle.make.locking import (
    Definition,
    Locked,
    lock,
    read_definition,
    read_lock,
    read_locked,
)
from appliance.bundle.make.sources import Fetcher, describe
from appliance.bundle.make.writer import Progress, Writer
from appliance.cache.blobs import BlobStore
from appliance.core import wire
from appliance.errors import StateUnusableError
from appliance.kit.files import fsync_folder, make_folder, require_space, translated, write_durably
from appliance.trust.repository import NewTarget, Repository

__all__ = ["Built", "Definition", "Progress", "build", "lock", "read_definition", "read_lock"]

DOCUMENT_TYPE = "application/json"


@dataclass(frozen=True, slots=True)
class Built:
    """What was built; ``others`` are the paths of what is no model."""

    name: str
    version: str
    folder: Path
    models: tuple[str, ...]
    size: int
    others: tuple[str, ...] = ()


def build(
    definition: Definition,
    folder: Path,
    repository: Repository,
    cache: Path,
    now: datetime.datetime,
    progress: Progress = lambda _what, _done, _total: None,
) -> Built:
    """Fetch what is locked, lay it out and sign it.

    The folder appears under its name only when it is complete.

    Raises:
        BadDocumentError: a source is not locked.
        MalformedError: a file is not what a node would take, such as a pickle.
        StateUnusableError: something is at ``folder`` already.
        CorruptError, NotFoundError, PeerUnreachableError, NoSpaceError: as their names say.
    """
    locked = read_locked(definition)
    _ = repository.org  # says what to do when there are no keys, before anything is copied
    if folder.exists():
        raise StateUnusableError(
            f"{folder} is there already", hint="name a new folder, or remove the old one"
        )
    supplies = _fetch(definition, locked, cache)
    make_folder(folder.parent)
    require_space(folder.parent, supplies.size, what="the bundle")
    staging = folder.with_name(f".{folder.name}.building")
    with translated(f"building {folder}"):
        shutil.rmtree(staging, ignore_errors=True)
        try:
            writer = Writer(BlobStore(staging), supplies.files, supplies.size, progress)
            writer.blobs.init()
            _lay_out(definition, supplies, writer)
            built = _finish(definition, writer, repository, now)
            staging.rename(folder)
            fsync_folder(folder.parent)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    return replace(built, folder=folder)


@dataclass(frozen=True, slots=True)
class _Supplies:
    """What was fetched: files by description, images by path, and the bytes to be copied."""

    files: Mapping[str, Fetched]
    images: Mapping[str, FetchedImage]
    size: int


def _fetch(definition: Definition, locked: Locked, cache: Path) -> _Supplies:
    base = definition.path.parent
    fetcher = Fetcher(cache, base)
    files = {
        (name := describe(source)): fetcher.fetch(source, locked.sources[name])
        for source in definition.sources()
    }
    found = {
        image.path: images.fetch(
            image.source, base, cache, locked.images[images.describe(image.source)]
        )
        for image in definition.document.spec.images
    }
    size = sum(files[describe(file.source)].size for file in definition.all_files())
    size += sum(image.size - len(image.manifest) for image in found.values())
    return _Supplies(files, found, size)


def _lay_out(definition: Definition, supplies: _Supplies, writer: Writer) -> None:
    for model, variant in definition.variants():
        writer.add_model(model, variant)
    for image in definition.document.spec.images:
        writer.add_image(image, supplies.images[image.path])
    for part in definition.document.spec.files:
        writer.add_files(part)


def _finish(
    definition: Definition, writer: Writer, repository: Repository, now: datetime.datetime
) -> Built:
    """Write the index and the bills, sign all of it, and write the hint for people."""
    document, folder = definition.document, writer.blobs.folder
    name, version = document.name, document.spec.version
    index = writer.finish(name, version, now)
    release = wire.dumps(
        {"name": name, "version": version, "targets": [t.path for t in writer.targets],
         "index": index}
    )  # fmt: skip
    path = f"releases/{name}/{version}.json"
    listed = NewTarget(path, writer.blobs.add(release), len(release), DOCUMENT_TYPE)
    published = repository.publish([*writer.targets, listed], now)
    for data in published.documents.values():
        writer.blobs.add(data)
    make_folder(folder / "tuf")
    for file, data in published.files.items():
        write_durably(folder / "tuf" / file, data)
    models = tuple(shipped.pack.variant.reference for shipped in writer.models)
    others = tuple(t.path for t in writer.targets if not t.path.startswith("models/"))
    hint = {"name": name, "version": version, "models": models, "others": others}
    write_durably(folder / "bundle.json", wire.dumps({**hint, "bytes": writer.total}))
    return Built(name, version, folder, models, writer.total, others)
