"""The client's side of TUF: files are asked for by name, verified, and handed out one by one.

All that the specification says of any client, and no disk: ``python-tuf``'s trusted set judges
signatures, versions and expiry, this module knows what to ask for next. A name is never made from
bytes that were not verified, and every name is read once. What our nodes demand beyond the
specification is in ``metadata``; whoever persists as it goes (the conformance client) or all at
the end (a node) does so with the parts that are yielded.
"""

import contextlib
import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote

from tuf.api import exceptions
from tuf.api.metadata import MetaFile, Root, Signed, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from appliance.errors import (
    CorruptError,
    DowngradeError,
    ExpiredError,
    IncompleteError,
    MalformedError,
    SignatureError,
)

MAX_ROOT_ROTATIONS = 256
MAX_DELEGATIONS = 256
CAPS = {
    "root": 512 << 10,
    "timestamp": 64 << 10,
    "snapshot": 2 << 20,
    "targets": 16 << 20,
    "delegated": 4 << 20,
}
"""The most bytes of each role that are ever read."""

Read = Callable[[str, int], bytes]
"""Returns the file of this name, of at most so many bytes; raises IncompleteError for none."""


@dataclass(frozen=True, slots=True)
class Part:
    """One role that was verified.

    ``repeated`` is what was offered under the version that is trusted already: the trusted one
    stays, and whoever cares compares the two.
    """

    role: str
    data: bytes
    signed: Signed
    is_new: bool = True
    repeated: bytes | None = None


class Workflow:
    """One refresh, from a trusted root on."""

    def __init__(
        self,
        root: bytes,
        read: Read,
        now: datetime.datetime,
        stored: Callable[[str], bytes | None] = lambda _: None,
    ) -> None:
        """Begin at a root that is trusted.

        Args:
            root: The newest trusted root.
            read: Gives what is offered.
            now: The time at which metadata must not have expired.
            stored: Gives what was trusted before, by role: versions never go below it, and what
                is still named by its hash is not read again.

        Raises:
            MalformedError, SignatureError: it is not a root that vouches for itself.
        """
        self._read = read
        self._stored = stored
        with translated("root"):
            self._set = TrustedMetadataSet(root, EnvelopeType.METADATA)
        self._set.reference_time = now

    @property
    def root(self) -> Root:
        """The newest root."""
        return self._set.root

    def roots(self, offered: Callable[[int], bytes | None]) -> Iterator[Part]:
        """Yield the roots that follow, each signed by the one before and by itself.

        Args:
            offered: Returns the root whose file name claims a version, if there is one.
        """
        for _ in range(MAX_ROOT_ROTATIONS):
            data = offered(self._set.root.version + 1)
            if data is None:
                break
            with translated("root"):
                root = self._set.update_root(data)
            yield Part(Root.type, data, root)

    def refresh(self) -> Iterator[Part]:
        """Yield timestamp, snapshot and targets; each may be judged before the next is read.

        Raises:
            SignatureError, ExpiredError, DowngradeError, CorruptError, MalformedError,
            IncompleteError: which defence stopped it.
        """
        timestamp = self._timestamp()
        yield timestamp
        meta = self._set.timestamp.snapshot_meta
        yield self._snapshot(meta)
        meta = self._described(Targets.type)
        yield self._targets(Targets.type, Root.type, meta, CAPS["targets"])

    def delegated(self, role: str, delegator: str = Targets.type) -> Part:
        """Return the targets of a role that a verified one delegates to.

        Raises:
            As ``refresh``.
        """
        return self._targets(role, delegator, self._described(role), CAPS["delegated"])

    def find(self, path: str, keep: Callable[[Part], object]) -> TargetFile | None:
        """Return what is signed of a target path: the first role in search order that lists it.

        Args:
            path: The target path.
            keep: Given each delegated role that had to be looked at.

        Raises:
            As ``refresh``.
        """
        todo, seen = [(Targets.type, Root.type)], set[str]()
        while todo and len(seen) <= MAX_DELEGATIONS:
            role, delegator = todo.pop()
            if role in seen:
                continue
            seen.add(role)
            if not self._set.contains(role, delegator):
                keep(self.delegated(role, delegator))
            targets = self._targets_of(role)
            if path in targets.targets:
                return targets.targets[path]
            if targets.delegations is None:
                continue
            below = []
            for name, is_terminating in targets.delegations.get_roles_for_target(path):
                below.append((name, role))
                if is_terminating:
                    todo.clear()
                    break
            todo.extend(reversed(below))
        return None

    def _timestamp(self) -> Part:
        self._check_fresh(self._set.root)
        stored = self._stored(Timestamp.type)
        if stored is not None:
            # For rollback protection only, so it may have expired; and when its key was replaced,
            # it protects from nothing any more.
            with contextlib.suppress(exceptions.RepositoryError):
                self._set.update_timestamp(stored)
        data = self._read("timestamp.json", CAPS["timestamp"])
        try:
            with translated(Timestamp.type):
                return Part(Timestamp.type, data, self._set.update_timestamp(data))
        except _SameVersionError:
            assert stored is not None
            self._check_fresh(self._set.timestamp)
            return Part(Timestamp.type, stored, self._set.timestamp, is_new=False, repeated=data)

    def _snapshot(self, meta: MetaFile) -> Part:
        stored = self._stored(Snapshot.type)
        if stored is not None:
            with contextlib.suppress(exceptions.RepositoryError):
                snapshot = self._set.update_snapshot(stored, trusted=True)
                meta.verify_length_and_hashes(stored)
                return Part(Snapshot.type, stored, snapshot, is_new=False)
        data = self._read(self._name(Snapshot.type, meta), CAPS["snapshot"])
        with translated(Snapshot.type):
            return Part(Snapshot.type, data, self._set.update_snapshot(data))

    def _targets(self, role: str, delegator: str, meta: MetaFile, cap: int) -> Part:
        stored = self._stored(role)
        if stored is not None:
            with contextlib.suppress(exceptions.RepositoryError):
                targets = self._set.update_delegated_targets(stored, role, delegator)
                return Part(role, stored, targets, is_new=False)
        data = self._read(self._name(role, meta), cap)
        with translated(role):
            return Part(role, data, self._set.update_delegated_targets(data, role, delegator))

    def _check_fresh(self, signed: Signed) -> None:
        if signed.is_expired(self._set.reference_time):
            with translated(signed.type):
                raise exceptions.ExpiredMetadataError

    def _described(self, role: str) -> MetaFile:
        meta = self._set.snapshot.meta.get(f"{role}.json")
        if meta is None:
            raise MalformedError(f"the snapshot does not say which {role} is in force")
        return meta

    def _name(self, role: str, meta: MetaFile) -> str:
        prefix = f"{meta.version}." if self._set.root.consistent_snapshot else ""
        return f"{prefix}{quote(role, safe='')}.json"

    def _targets_of(self, role: str) -> Targets:
        found = self._set[role]
        assert isinstance(found, Targets)
        return found


class _SameVersionError(DowngradeError):
    """The timestamp that is offered has the version of the trusted one."""


@contextlib.contextmanager
def translated(role: str) -> Iterator[None]:
    """Turn what ``python-tuf`` raises about a role into our families."""
    try:
        yield
    except exceptions.UnsignedMetadataError as error:
        raise SignatureError(
            f"{role} is not signed by enough of the keys this node trusts",
            hint="ask who made the bundle; nothing from it was imported",
        ) from error
    except exceptions.ExpiredMetadataError as error:
        raise ExpiredError(
            f"{role} has expired", hint="ask for a freshly signed bundle; what runs goes on"
        ) from error
    except exceptions.EqualVersionNumberError as error:
        raise _SameVersionError(f"{role}: {error}") from error
    except exceptions.BadVersionNumberError as error:
        raise DowngradeError(f"{role}: {error}") from error
    except exceptions.LengthOrHashMismatchError as error:
        raise CorruptError(f"{role} is not the file that the signed list names") from error
    except exceptions.DownloadError as error:
        raise IncompleteError(f"{role} is missing") from error
    except (exceptions.RepositoryError, ValueError, KeyError, TypeError) as error:
        raise MalformedError(f"{role}: {error}") from error
