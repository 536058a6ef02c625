"""The verifying side of TUF: what a node checks before it believes a bundle.

All rules, no disk: callers hand in bytes and persist what comes back. The order is that of
`TRUST.md`, "Importing a bundle", steps 2 to 5. ``workflow`` takes the way of every TUF client;
what the specification leaves open is checked here and in ``scope``, on each part before the next
is read: distinct keys, equal versions, signed issue times, lengths and hashes, who may sign what.
"""

import contextlib
import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tuf.api import exceptions
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, Targets, Timestamp

from appliance.core.ids import Digest, digest
from appliance.core.signedtime import SignedTime
from appliance.errors import EquivocationError, MalformedError, ScopeError, StateUnusableError
from appliance.kit.clock import parse_rfc3339
from appliance.trust import floor, scope
from appliance.trust.floor import KeyUse
from appliance.trust.workflow import CAPS, Part, Read, Workflow, translated

_EVER = datetime.datetime.min.replace(tzinfo=datetime.UTC)
_TOP = (Timestamp.type, Snapshot.type, Targets.type)


@dataclass(frozen=True, slots=True)
class RoleSet:
    """Timestamp, snapshot, targets and what targets delegate to, as bytes: what is in force.

    ``delegated`` is by role, such as ``publisher-acme``.
    """

    timestamp: bytes
    snapshot: bytes
    targets: bytes
    delegated: Mapping[str, bytes] = field(default_factory=dict)

    def by_role(self) -> dict[str, bytes]:
        """Return every part by its role."""
        top = {name: getattr(self, name) for name in _TOP}
        return {**self.delegated, **top}


@dataclass(frozen=True, slots=True)
class SignedTarget:
    """What a signature says of one path, and the role that signed it."""

    path: str
    digest: Digest
    length: int
    media_type: str | None
    role: str = scope.TOP


@dataclass(frozen=True, slots=True)
class Verified:
    """The newest trusted metadata after looking at a bundle.

    ``roles`` are the bytes to keep; ``is_new`` is False when the bundle's metadata was the stored
    one or older, and so was ignored. ``times`` are what its signers say of the time.
    """

    roles: RoleSet
    is_new: bool
    was_older: bool
    targets: Mapping[str, SignedTarget]
    times: tuple[SignedTime, ...]
    versions: Mapping[str, int]

    @property
    def issued(self) -> datetime.datetime:
        """The time that its signers prove together."""
        return floor.of(self.times)


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
    for part in Workflow(trusted, _nothing, _EVER).roots(offered):
        assert isinstance(part.signed, Root)
        scope.check_root(part.signed)
        _issued(part)
        yield part.signed.version, part.data


def root_version(data: bytes) -> int:
    """Return the version of a root that vouches for itself: the first one a node is given.

    Raises:
        MalformedError: it is not root metadata.
        SignatureError: it is not signed by its own keys.
    """
    root = Workflow(data, _nothing, _EVER).root
    scope.check_root(root)
    return root.version


def refresh(root: bytes, stored: RoleSet | None, read: Read, now: datetime.datetime) -> Verified:
    """Steps 1, 3 and 5: return the newer of the stored and the offered metadata, verified.

    Args:
        root: The newest trusted root.
        stored: What is in force, if anything ever was.
        read: Returns the file of this name in the bundle; asked once for each.
        now: The reference time of step 4.

    Raises:
        SignatureError, ExpiredError, DowngradeError, CorruptError, MalformedError,
        EquivocationError, ScopeError, IncompleteError: which defence stopped it.
    """
    trusted = _still_signed(root, stored)
    offered = read("timestamp.json", CAPS[Timestamp.type])
    was_older = _is_older(offered, trusted)
    if was_older:
        offered = trusted[Timestamp.type]

    def once(name: str, cap: int) -> bytes:
        return offered if name == "timestamp.json" else read(name, cap)

    flow = Workflow(root, once, now, trusted.get)
    parts = {part.role: part for part in _parts(flow, trusted)}
    top, roles = _targets(parts[Targets.type]), {role: part.data for role, part in parts.items()}
    below = {role: _targets(part) for role, part in parts.items() if role not in _TOP}
    return Verified(
        roles=_role_set(roles),
        is_new=parts[Timestamp.type].is_new,
        was_older=was_older,
        targets=_merged(top, below),
        times=_times(flow.root, ((role, parts[role].data) for role in _TOP)),
        versions={
            Root.type: flow.root.version,
            **{role: part.signed.version for role, part in parts.items()},
        },
    )


def signed_targets(roles: RoleSet) -> dict[str, SignedTarget]:
    """Return what is listed by metadata that was verified when it was stored."""
    with _stored():
        top = Metadata[Targets].from_bytes(roles.targets).signed
        below = {
            role: Metadata[Targets].from_bytes(data).signed
            for role, data in roles.delegated.items()
        }
    return _merged(top, below)


def signed_times(
    root: bytes, chain: Iterable[bytes], roles: RoleSet | None
) -> tuple[SignedTime, ...]:
    """Return what the keys of ``root`` say of the time, in all that was verified when it came.

    Args:
        root: The newest trusted root.
        chain: Every root that this node keeps.
        roles: What is in force, if anything ever was.
    """
    with _stored():
        trusted = Metadata[Root].from_bytes(root).signed
        parts = [(Root.type, data) for data in chain]
        if roles is not None:
            parts += [(role, getattr(roles, role)) for role in _TOP]
        return _times(trusted, parts)


def key_uses(root: bytes) -> frozenset[KeyUse]:
    """Return the public keys that a trusted root names, and whether each is used online."""
    with _stored():
        trusted = Metadata[Root].from_bytes(root).signed
    return frozenset(
        (str(trusted.keys[keyid].keyval["public"]), name == Timestamp.type)
        for name, role in trusted.roles.items()
        for keyid in role.keyids
    )


def publisher_keys(roles: RoleSet) -> frozenset[str]:
    """Return the public keys of those that a verified list delegates to."""
    with _stored():
        found = Metadata[Targets].from_bytes(roles.targets).signed.delegations
    keys = () if found is None else found.keys.values()
    return frozenset(str(key.keyval["public"]) for key in keys)


def _nothing(name: str, _: int) -> bytes:
    raise AssertionError(f"{name} was asked for where only roots are looked at")


def _parts(flow: Workflow, trusted: Mapping[str, bytes]) -> Iterator[Part]:
    """Yield every part, checked by our own rules before the next one is read."""
    for part in flow.refresh():
        _check(part, trusted.get(part.role))
        yield part
    for role in scope.publishers(_targets(part)):
        part = flow.delegated(role)
        _check(part, trusted.get(role))
        yield part


def _check(part: Part, trusted: bytes | None) -> None:
    _issued(part)
    if isinstance(part.signed, Timestamp):
        _check_described(part.signed.snapshot_meta, Snapshot.type)
    if isinstance(part.signed, Snapshot):
        for name, meta in part.signed.meta.items():
            _check_described(meta, name)
    if trusted is not None and part.repeated is not None:
        _check_one_content(part.role, trusted, part.repeated)
    if trusted is not None and part.is_new:
        _check_one_content(part.role, trusted, part.data)


def _still_signed(root: bytes, stored: RoleSet | None) -> dict[str, bytes]:
    """Step 3: forget stored metadata whose keys the root has replaced (fast-forward recovery).

    A stolen timestamp key can raise the timestamp's version only. What its holder says of the
    snapshot's goes with the snapshot's keys.
    """
    if stored is None:
        return {}
    kept = stored.by_role()
    with _stored():
        trusted = Metadata[Root].from_bytes(root).signed
        for role in (Timestamp.type, Snapshot.type):
            part = Metadata[Any].from_bytes(kept[role])
            if not trusted.get_verification_result(role, part.signed_bytes, part.signatures):
                kept.pop(role)
    if Snapshot.type not in kept:
        kept.pop(Timestamp.type, None)
    return kept


def _is_older(offered: bytes, trusted: Mapping[str, bytes]) -> bool:
    """Whether a bundle calls itself older: then nothing of its metadata is believed."""
    if Timestamp.type not in trusted:
        return False
    with translated(Timestamp.type):
        claimed = Metadata[Timestamp].from_bytes(offered).signed.version
    return claimed < Metadata[Timestamp].from_bytes(trusted[Timestamp.type]).signed.version


def _role_set(parts: dict[str, bytes]) -> RoleSet:
    timestamp, snapshot, targets = (parts.pop(role) for role in _TOP)
    return RoleSet(timestamp, snapshot, targets, parts)


def _targets(part: Part) -> Targets:
    assert isinstance(part.signed, Targets)
    return part.signed


def _merged(top: Targets, publishers: Mapping[str, Targets]) -> dict[str, SignedTarget]:
    """Return all that is listed, by path; what top-level targets say wins."""
    found: dict[str, SignedTarget] = {}
    for role, targets in publishers.items():
        if targets.delegations is not None:
            raise ScopeError(f"{role} delegates further, which only targets may")
        for target in _listed(targets, role):
            scope.check_signer(target.path, role, target.media_type)
            found[target.path] = target
    found.update((target.path, target) for target in _listed(top, scope.TOP))
    return found


def _listed(signed: Targets, role: str) -> Iterator[SignedTarget]:
    for path, target in signed.targets.items():
        if set(target.hashes) != {"sha256"}:
            raise MalformedError(f"{role}: {path} is not listed by its sha256 alone")
        media_type = target.custom.get("mediaType") if isinstance(target.custom, dict) else None
        try:
            listed = digest(f"sha256:{target.hashes['sha256']}")
        except ValueError as error:
            raise MalformedError(f"{role}: {path}: {error}") from error
        yield SignedTarget(path, listed, target.length, media_type, role)


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


def _check_described(meta: MetaFile, name: str) -> None:
    if meta.length is None or not (meta.hashes and "sha256" in meta.hashes):
        raise MalformedError(f"{name} is listed without its length and sha256")


def _issued(part: Part) -> datetime.datetime:
    issued = _issue_time(part.signed, part.role)
    if issued >= part.signed.expires:
        raise MalformedError(f"{part.role} was issued at or after the time it expires")
    return issued


def _issue_time(signed: Signed, role: str) -> datetime.datetime:
    try:
        return parse_rfc3339(str(signed.unrecognized_fields["x-issued"]))
    except (KeyError, ValueError) as error:
        raise MalformedError(f"{role} does not say when it was issued (x-issued)") from error


def _times(root: Root, parts: Iterable[tuple[str, bytes]]) -> tuple[SignedTime, ...]:
    """Return the issue times of parts by each key in force that validly signed them.

    A publisher's are none of them: it may vouch for its models, not for the time.
    """
    newest: dict[KeyUse, datetime.datetime] = {}
    for role, data in parts:
        part = Metadata[Any].from_bytes(data)
        issued = _issue_time(part.signed, role)
        signed = root.get_verification_result(role, part.signed_bytes, part.signatures).signed
        for key in signed.values():
            use = (str(key.keyval["public"]), role == Timestamp.type)
            newest[use] = max(issued, newest.get(use, issued))
    return tuple(SignedTime(key, online, at) for (key, online), at in sorted(newest.items()))


@contextlib.contextmanager
def _stored() -> Iterator[None]:
    """What is stored was verified when it came: if it cannot be read now, the disk is at fault."""
    try:
        yield
    except (exceptions.RepositoryError, MalformedError) as error:
        raise StateUnusableError(
            "the trusted metadata of this node is damaged", hint="restore tuf/ from a backup"
        ) from error
