"""``bundle lock``: fetch all that a definition names, and write down the digests that were seen."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from appliance.bundle.format import content
from appliance.bundle.make import images
from appliance.bundle.make.fetched import Fetched
from appliance.bundle.make.images import FetchedImage
from appliance.bundle.make.sources import Fetcher, describe
from appliance.core.definitions import (
    BundleDefinition,
    BundleFiles,
    BundleLock,
    BundleModel,
    ImageSource,
    LockedImage,
    LockedSource,
    NamedFile,
    Source,
    VariantSource,
)
from appliance.core.documents import API_VERSION, Site
from appliance.core.reading import parse_one
from appliance.errors import ApplianceError, BadDocumentError, MalformedError, NotFoundError
from appliance.kit.files import write_durably

LICENCE_FILE, CARD_FILE = "LICENSE", "README.md"
_DEB = b"!<arch>\ndebian-binary"
_ZIP = b"PK\x03\x04"


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

    def all_files(self) -> Iterator[NamedFile]:
        """Yield every file of every model and part."""
        for model, variant in self.variants():
            yield from model_files(model, variant)
        for part in self.document.spec.files:
            yield from part.files

    def sources(self) -> list[Source]:
        """Return where every file comes from, each source once."""
        return list({describe(file.source): file.source for file in self.all_files()}.values())


@dataclass(frozen=True, slots=True)
class Locked:
    """What was locked, by description."""

    sources: dict[str, LockedSource]
    images: dict[str, LockedImage]


def model_files(model: BundleModel, variant: VariantSource) -> tuple[NamedFile, ...]:
    """Return all files of a variant, with its licence and its card."""
    named = list(variant.named)
    if model.licence_text is not None:
        named.append(NamedFile(source=model.licence_text, path=LICENCE_FILE))
    if model.card is not None:
        named.append(NamedFile(source=model.card, path=CARD_FILE))
    return tuple(named)


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
    """Fetch every source and write down the digests that were seen; return the lock's path.

    Raises:
        MalformedError: a file is not what a node would take, such as a pickle.
        NotFoundError, PeerUnreachableError, BadDocumentError: as their names say.
    """
    fetcher = Fetcher(cache, definition.path.parent)
    sources = []
    fetched: dict[str, Fetched] = {}
    for source in definition.sources():
        found = fetched[describe(source)] = fetcher.fetch(source)
        if not found.size:
            raise BadDocumentError(f"the source {describe(source)} is empty")
        sources.append(_entry(source, found))
    check_files(definition, fetched)
    spec: dict[str, Any] = {"sources": sources}
    found_images = [
        _image_entry(image.source, images.fetch(image.source, definition.path.parent, cache))
        for image in definition.document.spec.images
    ]
    if found_images:
        spec["images"] = found_images
    document = {
        "apiVersion": API_VERSION,
        "kind": "BundleLock",
        "metadata": {"name": definition.document.name},
        "spec": spec,
    }
    head = "# Written by `appliance bundle lock`: what was fetched, by digest. Do not edit.\n"
    text = head + yaml.safe_dump(document, sort_keys=False, width=100)
    write_durably(definition.lock_path, text.encode())
    return definition.lock_path


def _entry(source: Source, found: Fetched) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "source": source.model_dump(mode="json", by_alias=True, exclude_unset=True),
        "digest": found.digest,
        "size": found.size,
    }
    more = {"download": found.download, "revision": found.revision}
    if source.pypi is not None and source.pypi.file is None:
        more["name"] = found.name
    return entry | {name: value for name, value in more.items() if value is not None}


def _image_entry(source: ImageSource, found: FetchedImage) -> dict[str, Any]:
    return {
        "source": source.model_dump(mode="json", by_alias=True, exclude_unset=True),
        "digest": found.digest,
        "size": found.size,
    }


def read_lock(definition: Definition) -> dict[str, LockedSource]:
    """Return what was locked of files, by the source's description; see ``read_locked``."""
    return read_locked(definition).sources


def read_locked(definition: Definition) -> Locked:
    """Return what was locked.

    Raises:
        BadDocumentError: there is no lock, or it leaves a source out.
    """
    path = definition.lock_path
    hint = f"appliance bundle lock {definition.path}"
    if not path.exists():
        raise BadDocumentError(f"{definition.path} is not locked: there is no {path}", hint=hint)
    document = parse_one(path.read_text(), str(path), BundleLock)
    locked = Locked(
        {describe(entry.source): entry for entry in document.spec.sources},
        {images.describe(entry.source): entry for entry in document.spec.images},
    )
    wanted = [describe(source) for source in definition.sources()]
    missing = [name for name in wanted if name not in locked.sources]
    missing += [
        name
        for image in definition.document.spec.images
        if (name := images.describe(image.source)) not in locked.images
    ]
    if missing:
        raise BadDocumentError(f"{path} does not lock {', '.join(missing)}", hint=hint)
    return locked


def check_files(definition: Definition, fetched: dict[str, Fetched]) -> None:
    """Look into every file that was fetched: it must be what its place in the definition says.

    Raises:
        MalformedError: it is not; of weights, anything but GGUF and safetensors.
    """
    for model, variant in definition.variants():
        for file in model_files(model, variant):
            found = fetched[describe(file.source)]
            path = file.path or found.name
            with found.path.open("rb") as stream:
                content.look(path, content.kind_of(path), stream)
    for part in definition.document.spec.files:
        for file in part.files:
            check_part(part, file, fetched[describe(file.source)])


def check_part(part: BundleFiles, file: NamedFile, found: Fetched) -> None:
    """Look into a file of some kind.

    Raises:
        MalformedError, BadDocumentError: it is not of that kind.
    """
    name = file.path or found.name
    with found.path.open("rb") as stream:
        head = stream.read(32)
    wrong = (part.kind == "deb" and not head.startswith(_DEB)) or (
        part.kind in ("wheel", "controller") and name.endswith(".whl") and head[:4] != _ZIP
    )
    if wrong or (part.kind == "wheel" and not name.endswith(".whl")):
        raise MalformedError(f"{describe(file.source)} is not a {part.kind}")
    if part.kind == "site":
        try:
            parse_one(found.path.read_text(), describe(file.source), Site)
        except (UnicodeDecodeError, ApplianceError) as error:
            raise BadDocumentError(f"{describe(file.source)} holds no Site: {error}") from error
