"""The controllers that came to a node, read from its trusted metadata and its store."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.bundle.format.modelpack import MAX_MANIFEST_BYTES
from appliance.cache.blobs import BlobStore
from appliance.core import wire
from appliance.core.ids import Digest, digest
from appliance.errors import MalformedError, NotFoundError, ScopeError
from appliance.node.software import PREFIX
from appliance.trust import scope
from appliance.trust.metadata import SignedTarget
from appliance.trust.store import TrustStore

TITLE = "org.opencontainers.image.title"


@dataclass(frozen=True, slots=True)
class StoredControllers:
    """See ``node.software.Controllers``."""

    trust: TrustStore
    blobs: BlobStore

    def listed(self) -> Mapping[str, Digest]:
        targets = self.trust.listed().targets
        return {path: target.digest for path, target in targets.items() if _is_controller(target)}

    def require(self, path: str, manifest: Digest, *blobs: Digest) -> None:
        listed = self.trust.listed()
        listed.check(path, manifest, *blobs)
        scope.check_wanted(path, listed.targets[path].role, listed.targets[path].media_type)

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


def _is_controller(target: SignedTarget) -> bool:
    try:
        scope.check_wanted(target.path, target.role, target.media_type)
    except ScopeError:
        return False
    return target.path.startswith(PREFIX)


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
