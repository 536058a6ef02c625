"""Reading an OCI registry where bundles are built; the library ``oras`` does the talking.

It brings the token scheme that registries share, and the accounts of whoever ran ``docker login``.
A registry is not believed: what it gives is held to a digest, and to a length that is known before.
"""

import hashlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from appliance.bundle.format import oci
from appliance.bundle.format.modelpack import FILEPATH
from appliance.bundle.format.oci import INDEX_TYPE, MANIFEST_TYPE, MAX_MANIFEST_BYTES, Descriptor
from appliance.bundle.make.fetched import CHUNK, Fetched, look
from appliance.core import wire
from appliance.core.definitions import RegistrySource
from appliance.core.ids import Digest, digest, hex_of
from appliance.errors import (
    BadDocumentError,
    CorruptError,
    MalformedError,
    NotFoundError,
    PeerUnreachableError,
    UsageError,
)
from appliance.kit.files import translated

_LOOPBACK = ("127.0.0.1", "localhost")
_TIMEOUT_S = 60


class Registry:
    """One repository in a registry, and one manifest in it by tag or digest.

    Registries on this machine are spoken to without TLS, as docker and podman do.
    """

    def __init__(self, reference: str) -> None:
        """Make ready to read; nothing is asked yet.

        Raises:
            UsageError: the library is not installed.
        """
        library = _library()
        self.reference = reference
        is_local = reference.partition("/")[0].partition(":")[0] in _LOOPBACK
        self._client = library.Registry(hostname=reference.partition("/")[0], insecure=is_local)
        self._container = self._client.get_container(reference)
        session = self._client.session
        session.request = partial(session.request, timeout=_TIMEOUT_S)
        # Without its decorator, which tries again for two minutes without a word.
        self._ask = partial(inspect.unwrap(library.Registry.do_request), self._client)
        with self._translated():
            self._client.auth.load_configs(self._container)

    def root(self) -> bytes:
        """Return what the reference names; held to its digest if it has one.

        Raises:
            NotFoundError, PeerUnreachableError, CorruptError, MalformedError: as their names say.
        """
        data = self._manifest(None)
        pinned = self._container.digest
        if pinned is not None and Descriptor.of(data, "").digest != pinned:
            raise CorruptError(f"{self.reference} gave other bytes than those of that digest")
        return data

    def document(self, wanted: Digest) -> bytes:
        """Return a manifest by its digest; see ``root``."""
        data = self._manifest(wanted)
        if Descriptor.of(data, "").digest != wanted:
            raise CorruptError(f"{self.reference} gave other bytes than those of {wanted}")
        return data

    def fetch(self, blob: Descriptor, target: Path) -> None:
        """Write a blob to ``target``, hashed as it arrives and never beyond its length.

        Raises:
            CorruptError: it is another.
            NotFoundError, PeerUnreachableError: as their names say.
        """
        hasher, count = hashlib.sha256(), 0
        with self._translated(), translated(f"writing {target}"), target.open("wb") as out:
            url = f"{self._client.prefix}://{self._container.get_blob_url(blob.digest)}"
            with self._ask(url, "GET", stream=True) as answer:
                self._check(answer, blob.digest)
                for piece in answer.iter_content(CHUNK):
                    count += len(piece)
                    if count > blob.size:
                        break
                    hasher.update(piece)
                    out.write(piece)
        if count != blob.size or hasher.hexdigest() != hex_of(blob.digest):
            raise CorruptError(f"{self.reference} gave other bytes than those of {blob.digest}")

    def _manifest(self, which: Digest | None) -> bytes:
        accept = f"{MANIFEST_TYPE}, {INDEX_TYPE}"
        with self._translated():
            url = f"{self._client.prefix}://{self._container.manifest_url(which)}"
            headers = {"Accept": accept}
            with self._ask(url, "GET", headers=headers, stream=True) as answer:
                self._check(answer, which or self.reference)
                data: bytes = answer.raw.read(MAX_MANIFEST_BYTES + 1, decode_content=True)
        if len(data) > MAX_MANIFEST_BYTES:
            raise MalformedError(f"the manifest of {self.reference} is too large")
        return data

    def _check(self, answer: Any, what: str) -> None:
        if answer.status_code == 404:
            raise NotFoundError(f"{self.reference}: the registry does not hold {what}")
        if answer.status_code != 200:
            raise PeerUnreachableError(
                f"{self.reference}: the registry answered with status {answer.status_code}",
                hint="check the reference; of a private repository, log in with docker login",
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        import requests  # noqa: PLC0415 - comes with oras

        try:
            yield
        except (requests.RequestException, ValueError) as error:
            raise PeerUnreachableError(
                f"{self.reference}: the registry does not answer: {str(error)[:200]}",
                hint="check the reference and the network, then try again",
            ) from error


def fetch(source: RegistrySource, folder: Path, locked: Digest | None = None) -> Fetched:
    """Download one file of an artefact into ``folder``.

    Args:
        source: The artefact, and which file of it by its title.
        folder: Where it goes.
        locked: The manifest that was locked; without, the one that the reference names now.

    Raises:
        BadDocumentError: the artefact has no such file.
        NotFoundError, PeerUnreachableError, CorruptError, MalformedError: as their names say.
    """
    registry = Registry(source.reference)
    data = registry.root() if locked is None else registry.document(locked)
    found = wire.loads(data, what=f"the manifest of {source.reference}")
    layers = found.get("layers")
    for layer in layers if isinstance(layers, list) else ():
        notes = oci.annotations(layer) if isinstance(layer, dict) else {}
        if source.file in (notes.get(oci.TITLE), notes.get(FILEPATH)):
            blob = oci.descriptor(layer, source.reference, str(layer.get("mediaType")))
            registry.fetch(blob, folder / "file")
            manifest = digest(Descriptor.of(data, MANIFEST_TYPE).digest)
            return look(folder / "file", source.file.rpartition("/")[2], revision=manifest)
    raise BadDocumentError(f"{source.reference} holds no {source.file}")


def _library() -> Any:
    try:
        import oras.provider  # noqa: PLC0415 - an extra, and slow
    except ImportError as error:
        raise UsageError(
            "sources in OCI registries need the library oras",
            hint="pip install 'edge-ai-appliance[oras]'",
        ) from error
    return oras.provider
