"""``tuf/``: the metadata that this node trusts, as files that only ever move forward.

``roots/N.root.json`` is the chain from the root that the node was given. ``current`` points to the
set in force: timestamp, snapshot, targets, what targets delegate to, and the small documents under
``trust/``. A new set is written and fsynced beside the old one, then the pointer is replaced by one
rename.
"""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from appliance.errors import NotFoundError, StateUnusableError
from appliance.kit.files import fsync_folder, make_folder, translated, write_durably
from appliance.trust import metadata
from appliance.trust.documents import (
    DIRECTOR_PATH,
    HUB_PATH,
    REVOKED_PATH,
    Director,
    HubAuthority,
    Revoked,
)
from appliance.trust.listed import Listed
from appliance.trust.metadata import RoleSet, Verified, root_version

_T = TypeVar("_T")


class TrustStore:
    """The folder ``tuf/`` of one node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._roots = folder / "roots"
        self._current = folder / "current"
        self._listed: tuple[str, Listed] | None = None

    def init(self, root: bytes) -> int:
        """Trust a first root, given by a way that this bundle has nothing to do with.

        Returns:
            Its version.

        Raises:
            MalformedError, SignatureError: it is not a root that vouches for itself.
            StateUnusableError: this node trusts another root already.
        """
        version = root_version(root)
        path = self._roots / f"{version}.root.json"
        if any(self._roots.glob("*.root.json")) and not (
            path.exists() and path.read_bytes() == root
        ):
            raise StateUnusableError(
                f"{self.folder} trusts another root already",
                hint="a root is replaced by a signed rotation in a bundle, never by hand",
            )
        make_folder(self.folder)
        make_folder(self._roots)
        self.add_root(version, root)
        return version

    def add_root(self, version: int, data: bytes) -> None:
        """Keep a verified root durably."""
        write_durably(self._roots / f"{version}.root.json", data)

    def root(self) -> bytes:
        """Return the newest trusted root.

        Raises:
            NotFoundError: the node was never given one.
        """
        found = self.roots()
        if not found:
            raise NotFoundError(
                "this node trusts no root yet",
                hint="appliance node init --root FILE, with the organisation's 1.root.json",
            )
        return found[-1]

    def roots(self) -> list[bytes]:
        """Return the chain of roots from the one that the node was given, oldest first."""
        found = sorted(self._roots.glob("*.root.json"), key=lambda p: int(p.name.split(".")[0]))
        return [path.read_bytes() for path in found]

    def roles(self) -> RoleSet | None:
        """Return the stored roles, if a bundle was ever accepted."""
        return self._in_force(_roles)

    def director(self) -> Director | None:
        """Return who may direct this node, if the set in force says so."""
        data = self._in_force(lambda folder: _document(folder, DIRECTOR_PATH))
        return None if data is None else Director.parse(data)

    def hub(self) -> HubAuthority | None:
        """Return whose certificates speak for the hub, if the set in force says so."""
        data = self._in_force(lambda folder: _document(folder, HUB_PATH))
        return None if data is None else HubAuthority.parse(data)

    def revoked(self) -> Revoked:
        """Return what the set in force denies by name."""
        return self._in_force(_revoked) or Revoked()

    def listed(self) -> Listed:
        """Return what may run; cheap to ask again while the same set is in force.

        Raises:
            StateUnusableError: the stored metadata is damaged.
        """
        return self._in_force(self._listed_in) or Listed()

    def _listed_in(self, folder: Path) -> Listed | None:
        if self._listed is None or self._listed[0] != folder.name:
            roles = _roles(folder)
            if roles is None:
                return None
            listed = Listed(metadata.signed_targets(roles), _revoked(folder) or Revoked())
            self._listed = (folder.name, listed)
        return self._listed[1]

    def _in_force(self, look: Callable[[Path], _T | None]) -> _T | None:
        """Look at the set in force, again when an import replaced it meanwhile.

        What was replaced is removed file by file: seen half, it would have no revocations.
        """
        while True:
            folder = self._current.resolve()
            found = look(folder)
            if folder == self._current.resolve():
                return found

    def commit(self, verified: Verified, documents: Mapping[str, bytes]) -> None:
        """Step 8: make a verified set the one in force, in one rename.

        Raises:
            NoSpaceError, StateUnusableError: the old set stays in force.
        """
        mark = hashlib.sha256(verified.roles.timestamp).hexdigest()  # whole: it names what is known
        staging = self.folder / f"set-{mark}"
        with translated(f"writing {staging}"):
            shutil.rmtree(staging, ignore_errors=True)
            make_folder(staging)
            for name, data in verified.roles.by_role().items():
                write_durably(staging / f"{name}.json", data)
            for path, data in documents.items():
                make_folder((staging / path).parent)
                write_durably(staging / path, data)
                fsync_folder((staging / path).parent.parent)
            fsync_folder(self.folder)
            pointer = self.folder / ".current.new"
            pointer.unlink(missing_ok=True)
            pointer.symlink_to(staging.name)
            pointer.rename(self._current)
            fsync_folder(self.folder)
        self._collect(staging.name)

    def _collect(self, keep: str) -> None:
        for old in self.folder.glob("set-*"):
            if old.name != keep and old.name != self._current.readlink().name:
                shutil.rmtree(old, ignore_errors=True)


def _roles(folder: Path) -> RoleSet | None:
    top = [_document(folder, f"{role}.json") for role in ("timestamp", "snapshot", "targets")]
    timestamp, snapshot, targets = top
    if timestamp is None or snapshot is None or targets is None:
        return None
    below = {path.stem: _document(folder, path.name) for path in folder.glob("publisher-*.json")}
    return RoleSet(
        timestamp, snapshot, targets, {role: data for role, data in below.items() if data}
    )


def _revoked(folder: Path) -> Revoked | None:
    data = _document(folder, REVOKED_PATH)
    return None if data is None else Revoked.parse(data)


def _document(folder: Path, path: str) -> bytes | None:
    try:
        return (folder / path).read_bytes()
    except FileNotFoundError:
        return None
