"""Controllers that came to a node, as a test says."""

from collections.abc import Mapping
from pathlib import Path

from appliance.core.ids import Digest
from appliance.errors import DowngradeError, NotFoundError, RevokedError


class FakeControllers:
    """See ``node.software.Controllers``."""

    def __init__(self) -> None:
        self.lists: dict[str, Digest] = {}
        self.revoked: set[Digest] = set()
        self.files: dict[str, list[tuple[str, Path]]] = {}

    def listed(self) -> Mapping[str, Digest]:
        return self.lists

    def require(self, path: str, manifest: Digest, *blobs: Digest) -> None:
        if self.lists.get(path) != manifest:
            raise DowngradeError(f"{path} is no longer listed")
        if self.revoked & {manifest, *blobs}:
            raise RevokedError(f"{path} was revoked")

    def files_of(self, path: str) -> list[tuple[str, Path]]:
        if path not in self.files:
            raise NotFoundError(f"{path} did not come")
        return self.files[path]
