"""From a definition to a signed bundle. Runs where there is a network, never on a node."""

import datetime
import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from appliance.bundle import modelpack
from appliance.bundle.modelpack import Descriptor
from appliance.bundle.sources import Fetched, Fetcher, describe
from appliance.cache.blobs import BlobStore
from appliance.cache.store import index_entry
from appliance.core import wire
from appliance.core.documents import (
    API_VERSION,
    BundleDefinition,
    BundleLock,
    BundleModel,
    LockedSource,
    VariantSource,
)
from appliance.core.gguf import read_header
from appliance.core.ids import Digest
from appliance.core.reading import parse_one
from appliance.errors import BadDocumentError, NotFoundError, StateUnusableError
from appliance.kit.files import fsync_folder, make_folder, require_space, translated, write_durably
from appliance.trust.repository import NewTarget, Repository

DOCUMENT_TYPE = "application/json"
Progress = Callable[[str, int, int], None]
"""Told what is being copied, the bytes done and the bytes in all."""


@dataclass(frozen=True, slots=True)
class Definition:
    """A bundle's definition and where it came from."""

    document: BundleDefinition
    path: Path

    @property
    def lock_path(self) -> Path:
        """Where ``bundle lock`` writes beside it."""
        return self.path.with_suffix(".lock.yaml")

    def variants(self) -> Iterator[tuple[BundleModel, VariantSource]]:
        """Yield every variant of every model."""
        for model in self.document.spec.models:
            for variant in model.variants:
                yield model, variant


@dataclass(frozen=True, slots=True)
class Built:
    """What was built."""

    name: str
    version: str
    folder: Path
    models: tuple[str, ...]
    size: int


def read_definition(path: Path) -> Definition:
    """Read a definition.

    Raises:
        NotFoundError, BadDocumentError: it is not there, or not a definition.
    """
    try:
        text = path.read_text()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFoundError(f"there is no bundle definition at {path}") from error
    except UnicodeDecodeError as error:
        raise BadDocumentError(f"{path} is not text: {error}") from error
    return Definition(parse_one(text, str(path), BundleDefinition), path)


def lock(definition: Definition, cache: Path) -> Path:
    """Fetch every source and write down the digests that were seen; return the lock's path."""
    fetcher = Fetcher(cache, definition.path.parent)
    sources = []
    for _, variant in definition.variants():
        found = fetcher.fetch(variant.source)
        if not found.size:
            raise BadDocumentError(f"the source {describe(variant.source)} is empty")
        entry = {
            "source": variant.source.model_dump(mode="json", by_alias=True, exclude_unset=True),
            "digest": found.digest,
            "size": found.size,
        }
        if found.download is not None:
            entry["download"] = found.download
        sources.append(entry)
    document = {
        "apiVersion": API_VERSION,
        "kind": "BundleLock",
        "metadata": {"name": definition.document.name},
        "spec": {"sources": sources},
    }
    head = "# Written by `appliance bundle lock`: what was fetched, by digest. Do not edit.\n"
    text = head + yaml.safe_dump(document, sort_keys=False, width=100)
    write_durably(definition.lock_path, text.encode())
    return definition.lock_path


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
        StateUnusableError: something is at ``folder`` already.
        CorruptError, NotFoundError, PeerUnreachableError, NoSpaceError: as their names say.
    """
    locked = read_lock(definition)
    _ = repository.org  # says what to do when there are no keys, before anything is copied
    if folder.exists():
        raise StateUnusableError(
            f"{folder} is there already", hint="name a new folder, or remove the old one"
        )
    fetcher = Fetcher(cache, definition.path.parent)
    fetched = [
        (model, variant, fetcher.fetch(variant.source, locked[describe(variant.source)]))
        for model, variant in definition.variants()
    ]
    make_folder(folder.parent)
    total = sum(found.size for _, _, found in fetched)
    require_space(folder.parent, total, what="the bundle")
    staging = folder.with_name(f".{folder.name}.building")
    with translated(f"building {folder}"):
        shutil.rmtree(staging, ignore_errors=True)
        try:
            built = _lay_out(definition, staging, fetched, repository, (now, progress))
            staging.rename(folder)
            fsync_folder(folder.parent)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    return Built(built.name, built.version, folder, built.models, built.size)


def read_lock(definition: Definition) -> dict[str, LockedSource]:
    """Return what was locked, by the source's description.

    Raises:
        BadDocumentError: there is no lock, or it leaves a source out.
    """
    path = definition.lock_path
    hint = f"appliance bundle lock {definition.path}"
    if not path.exists():
        raise BadDocumentError(f"{definition.path} is not locked: there is no {path}", hint=hint)
    document = parse_one(path.read_text(), str(path), BundleLock)
    locked = {describe(entry.source): entry for entry in document.spec.sources}
    missing = [
        describe(v.source) for _, v in definition.variants() if describe(v.source) not in locked
    ]
    if missing:
        raise BadDocumentError(f"{path} does not lock {', '.join(missing)}", hint=hint)
    return locked


def _lay_out(
    definition: Definition,
    folder: Path,
    fetched: list[tuple[BundleModel, VariantSource, Fetched]],
    repository: Repository,
    context: tuple[datetime.datetime, Progress],
) -> Built:
    now, progress = context
    blobs = BlobStore(folder)
    blobs.init()
    total, done = sum(found.size for _, _, found in fetched), 0
    targets, entries, names = [], [], []
    for model, variant, found in fetched:

        def told(count: int, name: str = f"{model.name} {variant.name}") -> None:
            nonlocal done
            done += count
            progress(name, done, total)

        with found.path.open("rb") as file:
            header = read_header(file)
            file.seek(0)
            blobs.receive(file, found.digest, found.size, told)
        blobs.admit([found.digest])
        weights = Descriptor(found.digest, found.size, modelpack.WEIGHT_TYPE)
        manifest, config = modelpack.build(model, variant.name, found.name, weights, header)
        blobs.add(config)
        digest = blobs.add(manifest)
        path = f"models/{model.publisher}/{model.name}/{model.version}/{variant.name}"
        targets.append(NewTarget(path, digest, len(manifest), modelpack.MANIFEST_TYPE))
        pack = modelpack.read(path, digest, manifest)
        entries.append(index_entry(pack.variant, blobs.path(digest)))
        names.append(pack.variant.reference)
    blobs.write_index(entries)
    release = _sign(definition.document, folder, targets, repository, now)
    hint = {"name": definition.document.name, "version": release, "models": names, "bytes": total}
    write_durably(folder / "bundle.json", wire.dumps(hint))
    return Built(definition.document.name, release, folder, tuple(names), total)


def _sign(
    document: BundleDefinition,
    folder: Path,
    targets: list[NewTarget],
    repository: Repository,
    now: datetime.datetime,
) -> str:
    version = document.spec.version
    path = f"releases/{document.name}/{version}.json"
    release = wire.dumps(
        {"name": document.name, "version": version, "targets": [t.path for t in targets]}
    )
    blobs = BlobStore(folder)
    listed = NewTarget(path, _digest(release), len(release), DOCUMENT_TYPE)
    published = repository.publish([*targets, listed], now)
    blobs.add(release)
    for data in published.documents.values():
        blobs.add(data)
    make_folder(folder / "tuf")
    for name, data in published.files.items():
        write_durably(folder / "tuf" / name, data)
    return version


def _digest(data: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())
