"""A bundle's files, read as from an untrusted medium: capped, and never through a link."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from appliance.cache.blobs import open_regular, read_some
from appliance.core import wire
from appliance.core.ids import Digest, hex_of
from appliance.errors import (
    CorruptError,
    IncompleteError,
    MalformedError,
    NotFoundError,
)
from appliance.trust.metadata import CAPS, RoleSet

_MAX_HINT_BYTES = 1 << 20
_MAX_VERSIONS = 1024
_NUMBER = re.compile(r"[0-9]{1,9}")
_WORD = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")


class BundleReader:
    """The folder of one bundle."""

    def __init__(self, folder: Path) -> None:
        """Look at a bundle without believing it.

        Raises:
            NotFoundError: there is no such folder.
            IncompleteError: it holds no signed metadata.
        """
        self.folder = folder
        if not folder.is_dir():
            raise NotFoundError(f"there is no bundle at {folder}", hint="name the bundle's folder")
        if not (folder / "tuf" / "timestamp.json").is_file():
            raise IncompleteError(
                f"{folder} holds no signed list (tuf/timestamp.json)",
                hint="name the folder that has bundle.json in it, and copy all of it",
            )

    def root(self, version: int) -> bytes | None:
        """Return the root that claims this version, if there is one."""
        try:
            return self._read(self.folder / "tuf" / f"{version}.root.json", CAPS["root"])
        except IncompleteError:
            return None

    def roles(self) -> RoleSet:
        """Step 1: return timestamp, and the newest snapshot and targets, read once into memory.

        Raises:
            IncompleteError: one of them is not there.
        """
        return RoleSet(
            self._read(self.folder / "tuf" / "timestamp.json", CAPS["timestamp"]),
            self._read(self._newest("snapshot"), CAPS["snapshot"]),
            self._read(self._newest("targets"), CAPS["targets"]),
        )

    def release(self) -> tuple[str, str]:
        """Return the name and version that the unsigned hint claims; only to look them up.

        Raises:
            MalformedError: it names none. Other text of a stick never gets onto a screen.
        """
        hint = wire.loads(
            self._read(self.folder / "bundle.json", _MAX_HINT_BYTES), what="bundle.json"
        )
        name, version = hint.get("name"), hint.get("version")
        if not all(isinstance(word, str) and _WORD.fullmatch(word) for word in (name, version)):
            raise MalformedError("bundle.json names no bundle and version")
        return str(name), str(version)

    def document(self, digest: Digest, length: int, cap: int) -> bytes:
        """Return a small blob whose bytes are the signed ones.

        Raises:
            IncompleteError, CorruptError: not there, or other bytes.
            MalformedError: signed as larger than ``cap``.
        """
        if length > cap:
            raise MalformedError(f"{digest} is signed with {length} bytes, more than {cap}")
        with self.open_blob(digest) as file:
            data = read_some(file, length + 1, what=digest)
        if hashlib.sha256(data).hexdigest() != hex_of(digest):
            raise CorruptError(
                f"{digest} in the bundle holds other bytes than those that were signed",
                hint="copy the bundle again, or ask for another",
            )
        return data

    def open_blob(self, digest: Digest) -> BinaryIO:
        """Open a blob for one reading.

        Raises:
            IncompleteError: it is not in the bundle.
        """
        try:
            return open_regular(self.folder / "blobs" / "sha256" / hex_of(digest))
        except FileNotFoundError as error:
            raise IncompleteError(
                f"the bundle lacks {digest}", hint="copy all of the bundle's folder"
            ) from error

    def _metadata(self, role: str) -> Iterator[Path]:
        for number, path in enumerate(sorted((self.folder / "tuf").glob(f"*.{role}.json"))):
            if number >= _MAX_VERSIONS:
                raise MalformedError(f"more than {_MAX_VERSIONS} files of {role} metadata")
            if _NUMBER.fullmatch(path.name.removesuffix(f".{role}.json")):
                yield path

    def _newest(self, role: str) -> Path:
        found = max(self._metadata(role), key=_version, default=None)
        if found is None:
            raise IncompleteError(f"the bundle lacks its {role} metadata")
        return found

    def _read(self, path: Path, cap: int) -> bytes:
        try:
            with open_regular(path) as file:
                data = read_some(file, cap + 1, what=path.name)
        except FileNotFoundError as error:
            raise IncompleteError(f"the bundle lacks {path.name}") from error
        if len(data) > cap:
            raise MalformedError(f"{path.name} is larger than {cap} bytes")
        return data


def _version(path: Path) -> int:
    return int(path.name.split(".")[0])
