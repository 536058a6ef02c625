"""What a bundle says it holds, read without believing it: for people, never for an import.

Digests of small blobs are checked because a wrong one is worth knowing; of large ones only the
length is looked at. Whatever cannot be read is said beside what could be.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from appliance.bundle.format import delta, modelpack, rebuild
from appliance.bundle.format.delta import Recipe, Sized
from appliance.bundle.media.medium import FolderMedium
from appliance.bundle.media.reader import BundleReader, blob_name
from appliance.bundle.media.volumes import part_name
from appliance.core import wire
from appliance.core.ids import Digest, digest
from appliance.errors import ApplianceError, MalformedError
from appliance.trust.workflow import CAPS

_MAX_TARGETS = 20_000
_MAX_BLOBS = 1_000
_MAX_PARTS = 1_000
_MAX_FILES = 10_000
_MAX_PUBLISHERS = 100
_MAX_DOCUMENT_BYTES = 1 << 20
_MAX_HINT_BYTES = 1 << 20
_VOLUME = re.compile(r"(.+)\.vol[0-9]{1,3}")
_FILE = re.compile(r"([0-9]{1,9})\.(snapshot|targets|publisher-[A-Za-z0-9._-]{1,128})\.json")
_PUBLISHER = re.compile(r"publisher-.+")
_TITLE = "org.opencontainers.image.title"
_LICENCES = "org.opencontainers.image.licenses"


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob that a manifest covers, as the manifest describes it."""

    digest: Digest
    size: int
    name: str


@dataclass(frozen=True, slots=True)
class Item:
    """A signed path; ``trouble`` says why its manifest could not be read.

    Without a digest nobody lists it, although the release does.
    """

    path: str
    digest: Digest | None
    size: int
    role: str
    licence: str | None = None
    blobs: tuple[Blob, ...] = ()
    trouble: str | None = None

    @property
    def all_blobs(self) -> tuple[Blob, ...]:
        """Every blob, the manifest or document itself the first."""
        if self.digest is None:
            return ()
        return (Blob(self.digest, self.size, self.path.rsplit("/", 1)[-1]), *self.blobs)


@dataclass(frozen=True, slots=True)
class Listed:
    """What a role says of a path."""

    digest: Digest
    size: int
    role: str
    media_type: str | None


class Contents:
    """One bundle, with all its volumes."""

    def __init__(self, folder: Path) -> None:
        """Look at a bundle.

        Raises:
            NotFoundError, IncompleteError: there is none, or it holds no list of targets.
            MalformedError: its metadata or its hint cannot be read at all.
        """
        self._media = [FolderMedium(one) for one in _volumes(folder)]
        self.reader = _Reader(self._media[0])
        self.hint = wire.loads(
            self._media[0].read("bundle.json", _MAX_HINT_BYTES), what="bundle.json"
        )
        self.name, self.version = self.reader.release()
        self.roles = self._roles()
        self.listed = self._listed()

    def items(self) -> list[Item]:
        """Return what belongs to the bundle, going by its release."""
        return [self._item(path) for path in self._paths()]

    def document(self, path: str) -> dict[str, Any] | None:
        """Return a small JSON target that the top-level targets list; None when they do not.

        Raises:
            RefusedError: it is listed, and cannot be read.
        """
        listed = self.listed.get(path)
        if listed is None or listed.role != "targets":
            return None
        data = self.reader.document(listed.digest, listed.size, _MAX_DOCUMENT_BYTES)
        return wire.loads(data, what=path)

    def size(self, blob: Digest) -> int | None:
        """Return how many bytes of a blob the bundle has; None when it has nothing of it."""
        name = blob_name(blob)
        whole = self._size(name)
        return self._parts_size(name) if whole is None else whole

    def recipe(self, blob: Blob) -> Recipe | None:
        """Return how the blob is to be rebuilt, if it goes along as a delta.

        Raises:
            RefusedError: there is a recipe, and it cannot be used.
        """
        path = rebuild.recipe_path(blob.digest)
        if self._size(path) is None:
            return None
        data = self._media[0].read(path, delta.MAX_RECIPE_BYTES)
        return delta.parse(data, Sized(blob.digest, blob.size))

    def open(self, blob: Digest) -> tuple[BinaryIO, int] | None:
        """Return a whole, unsplit blob and its length; None when there is none."""
        for medium in self._media:
            size = medium.size(blob_name(blob))
            if size is not None:
                raw: Any = medium.open(blob_name(blob))
                return io.BufferedReader(raw), size
        return None

    def _size(self, path: str) -> int | None:
        found = (medium.size(path) for medium in self._media)
        return next((size for size in found if size is not None), None)

    def _parts_size(self, name: str) -> int | None:
        total = None
        for number in range(_MAX_PARTS):
            size = self._size(part_name(name, number))
            if size is None:
                break
            total = (total or 0) + size
        return total

    def _roles(self) -> dict[str, bytes]:
        """Return each role's file that is there: those that the timestamp leads to.

        While a bundle is being signed some are missing; then it is the newest of each.
        """
        newest = _newest(self._media[0].folder / "tuf")
        roles: dict[str, bytes] = {}
        if self._size("tuf/timestamp.json") is not None:
            roles["timestamp"] = self.reader.metadata("timestamp.json", CAPS["timestamp"])
            meta = _meta(roles["timestamp"], "timestamp")
            newest["snapshot"] = _version(meta.get("snapshot.json"))
        if "snapshot" in newest:
            roles["snapshot"] = self._role("snapshot", newest)
            meta = _meta(roles["snapshot"], "snapshot")
            named = {file.removesuffix(".json"): _version(meta[file]) for file in sorted(meta)}
            newest = {role: named.get(role, newest[role]) for role in newest}
        roles["targets"] = self._role("targets", newest)
        publishers = [role for role in sorted(newest) if _PUBLISHER.fullmatch(role)]
        return roles | {role: self._role(role, newest) for role in publishers[:_MAX_PUBLISHERS]}

    def _role(self, role: str, versions: Mapping[str, int]) -> bytes:
        cap = CAPS.get(role, CAPS["targets"])
        return self.reader.metadata(f"{versions.get(role, 1)}.{role}.json", cap)

    def _listed(self) -> dict[str, Listed]:
        """Return what is signed, by path; top-level targets come before a publisher's."""
        found: dict[str, Listed] = {}
        for role, data in self.roles.items():
            if role in ("timestamp", "snapshot"):
                continue
            targets = _signed(data, role).get("targets")
            for path, target in list(targets.items() if isinstance(targets, dict) else ()):
                if len(found) < _MAX_TARGETS:
                    found.setdefault(path, _target(target, role))
        return found

    def _paths(self) -> list[str]:
        path = f"releases/{self.name}/{self.version}.json"
        release = self.document(path)
        if release is None:
            raise MalformedError(f"{path} is not in the bundle's list of what is signed")
        paths = release.get("targets")
        if not isinstance(paths, list) or not all(isinstance(one, str) for one in paths):
            raise MalformedError(f"{path} does not list what belongs to it")
        return list(dict.fromkeys(paths))[:_MAX_TARGETS]

    def _item(self, path: str) -> Item:
        listed = self.listed.get(path)
        if listed is None:
            return Item(path, None, 0, "nobody", trouble="wanted, and not in the list of targets")
        item = Item(path, listed.digest, listed.size, listed.role)
        if listed.media_type != modelpack.MANIFEST_TYPE:
            return item
        try:
            data = self.reader.document(listed.digest, listed.size, modelpack.MAX_MANIFEST_BYTES)
            licence, blobs = _manifest(wire.loads(data, what="its manifest"))
        except ApplianceError as error:
            return Item(path, listed.digest, listed.size, listed.role, trouble=error.what)
        return Item(path, listed.digest, listed.size, listed.role, licence, blobs)


class _Reader(BundleReader):
    """Reads also a bundle that is still being signed, which no node would."""

    def __init__(self, medium: FolderMedium) -> None:
        self.medium = medium


def _newest(folder: Path) -> dict[str, int]:
    """Return the newest version of each role, by the names of the files that are there."""
    found: dict[str, int] = {}
    for path in islice(folder.glob("*.json"), _MAX_FILES):
        if (name := _FILE.fullmatch(path.name)) is not None:
            found[name[2]] = max(found.get(name[2], 0), int(name[1]))
    return found


def _volumes(folder: Path) -> list[Path]:
    """Return the folder, and its sisters if it is one volume of several."""
    stem = _VOLUME.fullmatch(folder.name)
    if stem is None:
        return [folder]
    sisters = sorted(folder.parent.glob("*.vol*"))[:_MAX_PARTS]
    return [folder] + [
        other
        for other in sisters
        if other != folder and (found := _VOLUME.fullmatch(other.name)) and found[1] == stem[1]
    ]


def _signed(data: bytes, role: str) -> dict[str, Any]:
    signed = wire.loads(data, what=role).get("signed")
    if not isinstance(signed, dict):
        raise MalformedError(f"{role} is not signed metadata")
    return signed


def _meta(data: bytes, role: str) -> dict[str, Any]:
    meta = _signed(data, role).get("meta")
    if not isinstance(meta, dict):
        raise MalformedError(f"{role} lists no metadata")
    return meta


def _version(entry: object) -> int:
    version = entry.get("version") if isinstance(entry, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise MalformedError("a list of metadata leaves out a version")
    return version


def _target(target: object, role: str) -> Listed:
    try:
        assert isinstance(target, Mapping)
        custom = target.get("custom")
        media_type = custom.get("mediaType") if isinstance(custom, dict) else None
        return Listed(
            digest(f"sha256:{target['hashes']['sha256']}"), int(target["length"]), role, media_type
        )
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise MalformedError(f"{role} lists something without its digest and length") from error


def _manifest(found: Mapping[str, Any]) -> tuple[str | None, tuple[Blob, ...]]:
    licence = _notes(found).get(_LICENCES)
    layers = found.get("layers")
    described = [found.get("config"), *(layers if isinstance(layers, list) else ())]
    blobs = tuple(_blob(one, number) for number, one in enumerate(described[:_MAX_BLOBS]))
    return (licence if isinstance(licence, str) else None), blobs


def _blob(found: object, number: int) -> Blob:
    if not isinstance(found, dict) or not isinstance(found.get("size"), int):
        raise MalformedError("its manifest describes a blob without its size")
    notes = _notes(found)
    title = notes.get(modelpack.FILEPATH, notes.get(_TITLE))
    usual = f"layer {number}" if number else "config"
    try:
        return Blob(digest(str(found.get("digest"))), found["size"], str(title or usual))
    except ValueError as error:
        raise MalformedError(f"its manifest names a blob by {error}") from error


def _notes(found: Mapping[str, Any]) -> dict[str, Any]:
    notes = found.get("annotations")
    return notes if isinstance(notes, dict) else {}
