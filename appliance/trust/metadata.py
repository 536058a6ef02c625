"""The verifying side of TUF: what a node checks before it believes a bundle.

All rules, no disk: callers hand in bytes and persist what comes back. The order is that of
`TRUST.md`, "Importing a bundle", steps 2 to 5; ``python-tuf``'s own trusted set does the work of
the TUF client workflow, and what it leaves open is checked here (distinct keys, equal versions,
signed issue times, lengths and hashes).
"""

import contextlib
import datetime
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tuf.api import exceptions
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, Targets, Timestamp
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from appliance.core.ids import Digest, digest
from appliance.errors import (
    CorruptError,
    DowngradeError,
    EquivocationError,
    ExpiredError,
    IncompleteError,
    MalformedError,
    SignatureError,
    StateUnusableError,
)
from appliance.kit.clock import parse_rfc3339
from appliance.trust import floor
from appliance.trust.keys import public_key

MAX_ROOT_ROTATIONS = 256
CAPS = {
    "root": 512 << 10,
    "timestamp": 64 << 10,
    "snapshot": 2 << 20,
    "targets": 16 << 20,
}
"""The most bytes of each role that are ever read."""


@dataclass(frozen=True, slots=True)
class RoleSet:
    """Timestamp, snapshot and targets as bytes: a bundle's, or the ones stored."""

    timestamp: bytes
    snapshot: bytes
    targets: bytes


@dataclass(frozen=True, slots=True)
class SignedTarget:
    """What a signature says of one path."""

    path: str
    digest: Digest
    length: int
    media_type: str | None


@dataclass(frozen=True, slots=True)
class Verified:
    """The newest trusted metadata after looking at a bundle.

    ``roles`` are the bytes to keep; ``is_new`` is False when the bundle's metadata was the stored
    one or older, and so was ignored. ``issued`` is the newest signed time in it.
    """

    roles: RoleSet
    is_new: bool
    was_older: bool
    targets: Mapping[str, SignedTarget]
    issued: datetime.datetime
    versions: Mapping[str, int]


def advance_root(
    trusted: bytes, offered: Callable[[int], bytes | None]
) -> Iterator[tuple[int, bytes]]:
    """Step 2: yield the roots that follow ``trusted``, each signed by the old and by itself.

    One at a time, so that the good ones are kept before the next is found to be bad.

    Args:
        trusted: The newest root that this node trusts.
        offered: Returns the root in a bundle whose file name claims a version, if there is one.

    Raises:
        SignatureError, MalformedError, DowngradeError: the chain is broken at the next version.
    """
    with _translated("root"):
        state = TrustedMetadataSet(trusted, EnvelopeType.METADATA)
    for _ in range(MAX_ROOT_ROTATIONS):
        version = state.root.version + 1
        data = offered(version)
        if data is None:
            break
        with _translated("root"):
            root = state.update_root(data)
        _check_keys(root)
        _check_issued(root, "root")
        yield version, data


def root_version(data: bytes) -> int:
    """Return the version of a root that vouches for itself: the first one a node is given.

    Raises:
        MalformedError: it is not root metadata.
        SignatureError: it is not signed by its own keys.
    """
    with _translated("root"):
        root = TrustedMetadataSet(data, EnvelopeType.METADATA).root
    _check_keys(root)
    return root.version


def offered_roles(read: Callable[[str, int], bytes]) -> RoleSet:
    """Step 1: read a bundle's metadata once; the names follow from the versions it claims.

    Args:
        read: Returns the file with this name in the bundle, of at most so many bytes.

    Raises:
        IncompleteError, MalformedError: a file is not there, or is not metadata.
    """
    timestamp = read("timestamp.json", CAPS["timestamp"])
    with _translated("timestamp"):
        version = Metadata[Timestamp].from_bytes(timestamp).signed.snapshot_meta.version
    snapshot = read(f"{version}.snapshot.json", CAPS["snapshot"])
    with _translated("snapshot"):
        version = Metadata[Snapshot].from_bytes(snapshot).signed.meta["targets.json"].version
    return RoleSet(timestamp, snapshot, read(f"{version}.targets.json", CAPS["targets"]))


def refresh(
    root: bytes, stored: RoleSet | None, offered: RoleSet, now: datetime.datetime
) -> Verified:
    """Steps 3 to 5: return the newer of the stored and the offered metadata, verified at ``now``.

    Raises:
        SignatureError, ExpiredError, DowngradeError, CorruptError, MalformedError,
        EquivocationError: which defence stopped it.
    """
    stored = _still_signed(root, stored)
    if stored is None:
        return _verify(root, None, offered, now, is_new=True, was_older=False)
    before, after = _timestamp_version(stored.timestamp), _timestamp_version(offered.timestamp)
    if after == before:
        _check_signed_timestamp(root, offered.timestamp)
        _check_one_content(Timestamp.type, stored.timestamp, offered.timestamp)
    if after <= before:
        return _verify(root, None, stored, now, is_new=False, was_older=after < before)
    verified = _verify(root, stored, offered, now, is_new=True, was_older=False)
    _check_one_content(Snapshot.type, stored.snapshot, offered.snapshot)
    _check_one_content(Targets.type, stored.targets, offered.targets)
    return verified


def _verify(
    root: bytes,
    stored: RoleSet | None,
    chosen: RoleSet,
    now: datetime.datetime,
    *,
    is_new: bool,
    was_older: bool,
) -> Verified:
    with _translated("root"):
        state = TrustedMetadataSet(root, EnvelopeType.METADATA)
    state.reference_time = now
    if stored is not None:
        # Loaded for rollback protection only, so expiry of the old does not matter.
        with contextlib.suppress(exceptions.RepositoryError):
            state.update_timestamp(stored.timestamp)
    with _translated("timestamp"):
        timestamp = state.update_timestamp(chosen.timestamp)
    if stored is not None:
        with contextlib.suppress(exceptions.RepositoryError):
            state.update_snapshot(stored.snapshot, trusted=True)
    _check_described(timestamp.snapshot_meta, "snapshot")
    with _translated("snapshot"):
        snapshot = state.update_snapshot(chosen.snapshot)
    for name, meta in snapshot.meta.items():
        _check_described(meta, name)
    with _translated("targets"):
        targets = state.update_targets(chosen.targets)
        listed = _targets(targets)
    return Verified(
        roles=chosen,
        is_new=is_new,
        was_older=was_older,
        targets=listed,
        issued=_issued(timestamp, snapshot, targets),
        versions={
            "root": state.root.version,
            "timestamp": timestamp.version,
            "snapshot": snapshot.version,
            "targets": targets.version,
        },
    )


def _still_signed(root: bytes, stored: RoleSet | None) -> RoleSet | None:
    """Step 3: forget stored metadata whose keys the root has replaced (fast-forward recovery)."""
    if stored is None:
        return None
    with _stored():
        trusted = Metadata[Root].from_bytes(root).signed
        parts: tuple[tuple[str, Metadata[Any]], ...] = (
            (Timestamp.type, Metadata[Timestamp].from_bytes(stored.timestamp)),
            (Snapshot.type, Metadata[Snapshot].from_bytes(stored.snapshot)),
        )
    for role, part in parts:
        try:
            trusted.verify_delegate(role, part.signed_bytes, part.signatures)
        except exceptions.UnsignedMetadataError:
            return None
    return stored


def _timestamp_version(data: bytes) -> int:
    with _translated("timestamp"):
        return Metadata[Timestamp].from_bytes(data).signed.version


def _targets(signed: Targets) -> dict[str, SignedTarget]:
    found = {}
    for path, target in signed.targets.items():
        if set(target.hashes) != {"sha256"}:
            raise MalformedError(f"targets: {path} is not listed by its sha256 alone")
        media_type = target.custom.get("mediaType") if isinstance(target.custom, dict) else None
        found[path] = SignedTarget(
            path, digest(f"sha256:{target.hashes['sha256']}"), target.length, media_type
        )
    return found


def _check_signed_timestamp(root: bytes, data: bytes) -> None:
    """Only what a key signed can show that its holder says two things."""
    with _translated("timestamp"):
        part = Metadata[Timestamp].from_bytes(data)
        trusted = Metadata[Root].from_bytes(root).signed
        trusted.verify_delegate(Timestamp.type, part.signed_bytes, part.signatures)


def _check_one_content(role: str, stored: bytes, offered: bytes) -> None:
    """Equal version means equal bytes: those that are signed.

    Blanks and the order of keys are not, so whoever carries a stick can change them; a node that
    took such a copy in must not call the original a lie.
    """
    with _stored():
        old = Metadata[Any].from_bytes(stored)
    new = Metadata[Any].from_bytes(offered)
    if new.signed.version == old.signed.version and new.signed_bytes != old.signed_bytes:
        raise EquivocationError(
            f"two different contents call themselves version {new.signed.version} of {role}"
        )


def _check_keys(root: Root) -> None:
    """Thresholds count distinct public keys: one under two ids or in two spellings is one key."""
    for name, role in root.roles.items():
        if not root.keys.keys() >= set(role.keyids):
            raise MalformedError(f"root: the role {name} lists a key that is not there")
        public = [public_key(root.keys[keyid].keyval.get("public")) for keyid in role.keyids]
        if len(set(public)) != len(public):
            raise MalformedError(f"root: the role {name} lists one key under two ids")


def _check_described(meta: MetaFile, name: str) -> None:
    if meta.length is None or not meta.hashes:
        raise MalformedError(f"{name} is listed without its length and hash")


def _check_issued(signed: Signed, role: str) -> datetime.datetime:
    try:
        issued = parse_rfc3339(str(signed.unrecognized_fields["x-issued"]))
    except (KeyError, ValueError) as error:
        raise MalformedError(f"{role} does not say when it was issued (x-issued)") from error
    if issued >= signed.expires:
        raise MalformedError(f"{role} was issued at or after the time it expires")
    return issued


def _issued(timestamp: Timestamp, snapshot: Snapshot, targets: Targets) -> datetime.datetime:
    """Return the newest signed time.

    The timestamp's key may lie on a machine with a link, so it moves time by no more than a span
    beyond what offline keys signed.
    """
    newest = _check_issued(timestamp, "timestamp")
    offline = max(_check_issued(snapshot, "snapshot"), _check_issued(targets, "targets"))
    return max(offline, min(newest, offline + floor.SPAN))


@contextlib.contextmanager
def _translated(role: str) -> Iterator[None]:
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
    except (exceptions.BadVersionNumberError, exceptions.EqualVersionNumberError) as error:
        raise DowngradeError(f"{role}: {error}") from error
    except exceptions.LengthOrHashMismatchError as error:
        raise CorruptError(f"{role} is not the file that the signed list names") from error
    except exceptions.DownloadError as error:
        raise IncompleteError(f"{role} is missing") from error
    except (exceptions.RepositoryError, ValueError, KeyError, TypeError) as error:
        raise MalformedError(f"{role}: {error}") from error


@contextlib.contextmanager
def _stored() -> Iterator[None]:
    """What is stored was verified when it came: if it cannot be read now, the disk is at fault."""
    try:
        yield
    except exceptions.RepositoryError as error:
        raise StateUnusableError(
            "the trusted metadata of this node is damaged", hint="restore tuf/ from a backup"
        ) from error


def issued(roles: RoleSet) -> datetime.datetime:
    """Return the newest signed time in metadata that was verified when it was stored."""
    with _stored():
        timestamp = Metadata[Timestamp].from_bytes(roles.timestamp).signed
        snapshot = Metadata[Snapshot].from_bytes(roles.snapshot).signed
        targets = Metadata[Targets].from_bytes(roles.targets).signed
    return _issued(timestamp, snapshot, targets)
