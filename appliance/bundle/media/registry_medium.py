"""A bundle in an OCI registry, as ``bundle push`` leaves it there.

The tag names an index. Its first entry is the *file manifest*: one layer for each file of the
bundle's folder, titled by its path, so that `oras pull` of it gives the folder again and no
registry collects a blob of it. The other entries are the models' own manifests, for other tools.
None of this is believed: it only says where bytes are.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, BinaryIO

from appliance.bundle.media.http_medium import interrupting, opened
from appliance.bundle.media.registry import Reference, RegistryAccount
from appliance.core import wire
from appliance.core.ids import Digest, digest
from appliance.errors import CorruptError, IncompleteError, MalformedError
from appliance.kit import transfer
from appliance.kit.remote import Remote
from appliance.kit.throttle import Pace
from appliance.kit.weblink import Link, Login

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
BUNDLE_TYPE = "application/vnd.edge-appliance.bundle.v1"
FILE_TYPE = "application/vnd.edge-appliance.bundle.file.v1"
TITLE = "org.opencontainers.image.title"
MOST_MANIFEST_BYTES = 4 << 20
"""What registries take, as a rule."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Where one file of a bundle is, as the file manifest claims it."""

    digest: Digest
    size: int


class RegistryMedium:
    """A bundle that was pushed to a registry; its tag is looked up once. See ``Medium``."""

    def __init__(
        self,
        reference: Reference,
        link: Link | None = None,
        pace: Pace | None = None,
        login: Login | None = None,
    ) -> None:
        self.name = str(reference)
        self._reference = reference
        account = RegistryAccount(reference.registry, login)
        self._remote = Remote(link or Link(), account, pace)
        self._files: dict[str, Stored] | None = None

    def reach(self) -> None:
        """Find out whether there is a bundle, so that a wrong address is told from a bad link.

        Raises:
            NotFoundError: there is none.
            PeerUnreachableError: nobody answers, or not us.
            MalformedError, CorruptError: it is not a bundle, or not the one with that digest.
        """
        index = self._document(self._reference.which, f"{INDEX_TYPE}, {MANIFEST_TYPE}")
        if isinstance(index.get("manifests"), list):
            index = self._document(_file_manifest(index), MANIFEST_TYPE)
        self._files = _files(index)

    def read(self, path: str, cap: int) -> bytes:
        """Return a small file, whole; see ``Medium``."""
        found = self._find(path)
        with interrupting(path):
            return self._remote.get(self._reference.blob(found.digest), cap)

    def open(self, path: str, offset: int = 0) -> BinaryIO:
        """Open a file; see ``Medium``."""
        url = self._reference.blob(self._find(path).digest)
        return opened(path, lambda: transfer.open_file(self._remote, url, offset))

    def size(self, path: str) -> int | None:
        """Return the size that the file manifest claims; see ``Medium``."""
        found = self._table().get(path)
        return None if found is None else found.size

    def close(self) -> None:
        """Hang up."""
        self._remote.close()

    def _find(self, path: str) -> Stored:
        found = self._table().get(path)
        if found is None:
            raise IncompleteError(f"the bundle lacks {path}", hint="push all of the bundle again")
        return found

    def _table(self) -> dict[str, Stored]:
        if self._files is None:
            with interrupting("the list of files"):
                self.reach()
        assert self._files is not None
        return self._files

    def _document(self, which: str, types: str) -> dict[str, Any]:
        url = self._reference.manifest(which)
        data = self._remote.get(url, MOST_MANIFEST_BYTES, {"Accept": types})
        found = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if which.startswith("sha256:") and which != found:
            raise CorruptError(f"{url} holds other bytes than those of that digest")
        return wire.loads(data, what="the registry's manifest")


def _file_manifest(index: dict[str, Any]) -> Digest:
    for entry in index["manifests"]:
        if isinstance(entry, dict) and entry.get("artifactType") == BUNDLE_TYPE:
            return _digest(entry)
    raise MalformedError("that is not a bundle: its index names no list of a bundle's files")


def _files(manifest: dict[str, Any]) -> dict[str, Stored]:
    layers = manifest.get("layers")
    if manifest.get("artifactType") != BUNDLE_TYPE or not isinstance(layers, list):
        raise MalformedError("that is not a bundle: it is not the list of a bundle's files")
    found = {}
    for layer in layers:
        size = layer.get("size") if isinstance(layer, dict) else None
        annotations = layer.get("annotations") if isinstance(layer, dict) else None
        title = annotations.get(TITLE) if isinstance(annotations, dict) else None
        if type(size) is not int or size < 0 or not isinstance(title, str):
            raise MalformedError("the list of the bundle's files is not one")
        found[title] = Stored(_digest(layer), size)
    return found


def _digest(entry: dict[str, Any]) -> Digest:
    try:
        return digest(str(entry.get("digest")))
    except ValueError as error:
        raise MalformedError("a digest in the registry's manifest is not one") from error
