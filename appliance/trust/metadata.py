"""The verifying side of TUF: what a node checks before it believes a bundle.

All rules, no disk: callers hand in bytes and persist what comes back. The order is that of
`TRUST.md`, "Importing a bundle", steps 2 to 5; ``python-tuf``'s own trusted set does the work of
the TUF client workflow, and what it leaves open is checked here (distinct keys, equal versions,
signed issue times, lengths and hashes).
"""

import contextlib
import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tuf.api import exceptions
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, Targets, Timestamp
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from appliance.core.ids import Digest
from appliance.errors import (
    CorruptError,
    DowngradeError,
    EquivocationError,
    ExpiredError,
    IncompleteError,
    MalformedError,
    SignatureError,
)
from appliance.kit.clock import parse_rfc3339

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


def advance_root(trusted: bytes, offered: Mapping[int, bytes]) -> list[tuple[int, bytes]]:
    """Step 2: return the roots that follow ``trusted``, each signed by the old and by itself.

    Args:
        trusted: The newest root that this node trusts.
        offered: Roots in a bundle, by the version that their file names claim.

    Raises:
        SignatureError, MalformedError, DowngradeError: the chain is broken at the next version.
    """
    with _translated("root"):
        state = TrustedMetadataSet(trusted, EnvelopeType.METADATA)
    found: list[tuple[int, bytes]] = []
    for _ in range(MAX_ROOT_ROTATIONS):
        version = state.root.version + 1
        if version not in offered:
            break
        with _translated("root"):
            root = state.update_root(offered[version])
        _check_keys(root)
        _check_issued(root, "root")
        found.append((version, offered[version]))
    return found


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


def refresh(
    root: bytes, stored: RoleSet | None, offered: RoleSet, now: datetime.datetime
) -> Verified:
    """Steps 3 to 5: return the newer of the stored and the offered metadata, verified at ``now``.

    Raises:
        SignatureError, ExpiredError, DowngradeError, CorruptError, MalformedError,
        EquivocationError: which defence stopped it.
    """
    stored = _still_signed(root, stored)
    older = False
    if stored is not None:
        before, after = _timestamp_version(stored.timestamp), _timestamp_version(offered.timestamp)
        older = after < before
        if after == before and offered.timestamp != stored.timestamp:
            raise EquivocationError(f"two different timestamps call themselves version {after}")
        if after <= before:
            return _verify(root, None, stored, now, is_new=False, was_older=older)
    return _verify(root, stored, offered, now, is_new=True, was_older=False)


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
    signed: dict[str, Signed] = {"timestamp": timestamp, "snapshot": snapshot, "targets": targets}
    return Verified(
        roles=chosen,
        is_new=is_new,
        was_older=was_older,
        targets=_targets(targets),
        issued=max(_check_issued(part, name) for name, part in signed.items()),
        versions={"root": state.root.version, **{n: p.version for n, p in signed.items()}},
    )


def _still_signed(root: bytes, stored: RoleSet | None) -> RoleSet | None:
    """Step 3: forget stored metadata whose keys the root has replaced (fast-forward recovery)."""
    if stored is None:
        return None
    trusted = Metadata[Root].from_bytes(root).signed
    parts = (
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
        media_type = target.unrecognized_fields.get("custom", {}).get("mediaType")
        found[path] = SignedTarget(
            path, Digest(f"sha256:{target.hashes['sha256']}"), target.length, media_type
        )
    return found


def _check_keys(root: Root) -> None:
    """Thresholds count distinct public keys: one key under two ids is one key."""
    for name, role in root.roles.items():
        public = [root.keys[keyid].keyval.get("public") for keyid in role.keyids]
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


def issued(roles: RoleSet) -> datetime.datetime:
    """Return the newest signed time in metadata that was verified when it was stored."""
    parts: list[tuple[str, Signed]] = [
        ("timestamp", Metadata[Timestamp].from_bytes(roles.timestamp).signed),
        ("snapshot", Metadata[Snapshot].from_bytes(roles.snapshot).signed),
        ("targets", Metadata[Targets].from_bytes(roles.targets).signed),
    ]
    return max(_check_issued(part, name) for name, part in parts)
