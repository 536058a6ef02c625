"""``tuf/``: the metadata that this node trusts, as files that only ever move forward.

``roots/N.root.json`` is the chain from the root that the node was given. ``current`` points to the
set in force: timestamp, snapshot, targets and the small documents under ``trust/``. A new set is
written and fsynced beside the old one, then the pointer is replaced by one rename.
"""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.core import wire
from appliance.errors import MalformedError, NotFoundError, StateUnusableError
from appliance.kit.files import fsync_folder, make_folder, translated, write_durably
from appliance.trust.keys import public_key
from appliance.trust.metadata import RoleSet, Verified, root_version

DIRECTOR_PATH = "trust/director.json"


@dataclass(frozen=True, slots=True)
class Director:
    """Who may choose for this fleet, as the offline keys named it."""

    org: str
    epoch: int
    keys: frozenset[str]
    sync_keys: frozenset[str]

    @classmethod
    def parse(cls, data: bytes) -> "Director":
        """Return the director in a signed ``trust/director.json``.

        Raises:
            MalformedError: it does not have that form.
        """
        found = wire.loads(data, what=DIRECTOR_PATH)
        try:
            org, epoch = found["org"], found["epoch"]
            keys = frozenset(public_key(k) for k in found["keys"])
            sync = frozenset(public_key(k) for k in found["sync"])
        except (KeyError, TypeError) as error:
            raise MalformedError(f"{DIRECTOR_PATH} lacks {error}") from error
        if not isinstance(org, str) or not isinstance(epoch, int) or not keys or not sync:
            raise MalformedError(f"{DIRECTOR_PATH} names no organisation, epoch or key")
        return cls(org, epoch, keys, sync)


class TrustStore:
    """The folder ``tuf/`` of one node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._roots = folder / "roots"
        self._current = folder / "current"

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
        found = sorted(self._roots.glob("*.root.json"), key=lambda p: int(p.name.split(".")[0]))
        if not found:
            raise NotFoundError(
                "this node trusts no root yet",
                hint="appliance node init --root FILE, with the organisation's 1.root.json",
            )
        return found[-1].read_bytes()

    def roles(self) -> RoleSet | None:
        """Return the stored timestamp, snapshot and targets, if a bundle was ever accepted."""
        try:
            return RoleSet(
                *(
                    (self._current / f"{role}.json").read_bytes()
                    for role in ("timestamp", "snapshot", "targets")
                )
            )
        except FileNotFoundError:
            return None

    def director(self) -> Director | None:
        """Return who may direct this node, if a bundle ever said so."""
        try:
            return Director.parse((self._current / DIRECTOR_PATH).read_bytes())
        except FileNotFoundError:
            return None

    def commit(self, verified: Verified, documents: Mapping[str, bytes]) -> None:
        """Step 8: make a verified set the one in force, in one rename.

        Raises:
            NoSpaceError, StateUnusableError: the old set stays in force.
        """
        mark = hashlib.sha256(verified.roles.timestamp).hexdigest()[:12]
        staging = self.folder / f"set-{mark}"
        with translated(f"writing {staging}"):
            shutil.rmtree(staging, ignore_errors=True)
            make_folder(staging)
            for name in ("timestamp", "snapshot", "targets"):
                write_durably(staging / f"{name}.json", getattr(verified.roles, name))
            for path, data in documents.items():
                make_folder((staging / path).parent)
                write_durably(staging / path, data)
                fsync_folder((staging / path).parent.parent)
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
