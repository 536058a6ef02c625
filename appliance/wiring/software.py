"""The controllers that came to a node, read from its trusted metadata and its store."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.bundle.modelpack import MAX_MANIFEST_BYTES
from appliance.cache.blobs import BlobStore
from appliance.core import wire
from appliance.core.ids import Digest, digest
from appliance.errors import DowngradeError, MalformedError, NotFoundError, RevokedError
from appliance.node.software import PREFIX
from appliance.trust import metadata
from appliance.trust.store import TrustStore

TITLE = "org.opencontainers.image.title"


@dataclass(frozen=True, slots=True)
class StoredControllers:
    """See ``node.software.Controllers``. ``denied`` says why a digest is revoked, or None."""

    trust: TrustStore
    blobs: BlobStore
    denied: Callable[[Digest], str | None] = lambda _: None

    def listed(self) -> Mapping[str, Digest]:
        roles = self.trust.roles()
        found = {} if roles is None else metadata.listed(roles)
        return {
            path: target.digest
            for path, target in found.items()
            if path.startswith(PREFIX) and path.count("/") == PREFIX.count("/") + 1
        }

    def require(self, path: str, manifest: Digest) -> None:
        if self.listed().get(path) != manifest:
            raise DowngradeError(
                f"{path} is no longer in the signed list as {manifest}",
                hint="what runs goes on; see: appliance upgrade status",
            )
        if (why := self.denied(manifest)) is not None:
            raise RevokedError(f"{path} was revoked: {why}")

    def files_of(self, path: str) -> list[tuple[str, Path]]:
        manifest = self.listed().get(path)
        file = None if manifest is None else self.blobs.path(manifest)
        if file is None or not file.is_file():
            raise NotFoundError(
                f"{path} did not come to this node", hint="appliance bundle import the bundle"
            )
        if file.stat().st_size > MAX_MANIFEST_BYTES:
            raise MalformedError(f"the manifest of {path} is too large")
        found = _layers(wire.loads(file.read_bytes(), what=f"the manifest of {path}"), path)
        missing = [name for name, blob in found.items() if not self.blobs.has(blob)]
        if missing:
            raise NotFoundError(
                f"{path} is not whole: {missing[0]} is not in the store",
                hint="appliance bundle import the bundle again",
            )
        return [(name, self.blobs.path(blob)) for name, blob in found.items()]


def _layers(manifest: dict[str, object], path: str) -> dict[str, Digest]:
    try:
        layers = manifest["layers"]
        assert isinstance(layers, list)
        found = {str(x["annotations"][TITLE]): digest(str(x["digest"])) for x in layers}
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise MalformedError(f"the manifest of {path} does not name its files") from error
    if len(found) != len(layers):
        raise MalformedError(f"the manifest of {path} names one file twice")
    return found
