"""Roots: who may sign what, from the first ceremony on through every change of keys. Pure.

Root N+1 is signed by the thresholds of root N and by its own; the chain travels in every bundle.
Snapshot is signed by those who sign targets, in the same ceremony, so people are told of three
roles and not of four.
"""

import copy
import datetime
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from tuf.api.metadata import Key, Role, Root

from appliance.errors import EquivocationError, MalformedError, NotFoundError, UsageError
from appliance.trust import metadata, signing
from appliance.trust.keys import PublicKey
from appliance.trust.signing import Part, Signers, Standing

ROLES = ("root", "targets", "timestamp")
"""The roles people hold keys of."""

ORG_FIELD = "x-org"
"""Where a root says whose it is."""


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Who holds which role, and how many of them must sign."""

    keys: Mapping[str, Sequence[PublicKey]]
    thresholds: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a new root changes; ``remove`` holds names or key ids."""

    add: Mapping[str, Sequence[PublicKey]] = field(default_factory=dict)
    remove: Mapping[str, Sequence[str]] = field(default_factory=dict)
    thresholds: Mapping[str, int] = field(default_factory=dict)


def first_root(org: str, arrangement: Arrangement, now: datetime.datetime) -> Part:
    """Return an unsigned first root.

    Raises:
        MalformedError: a key is there twice, or in two roles.
        UsageError: a threshold asks for more keys than there are.
    """
    root = Root(version=1, consistent_snapshot=True)
    root.unrecognized_fields[ORG_FIELD] = org
    for role in ROLES:
        for key in arrangement.keys.get(role, ()):
            _add(root, signing.tuf_key(key), role)
        root.roles[role].threshold = arrangement.thresholds.get(role, 1)
    return _checked(root, now)


def next_root(current: Root, rotation: Rotation, now: datetime.datetime) -> Part:
    """Return the unsigned root that follows ``current``.

    Raises:
        NotFoundError: a key that is to be removed is not there.
        MalformedError, UsageError: as ``first_root``.
    """
    root = copy.deepcopy(current)
    root.version += 1
    for role, names in rotation.remove.items():
        for name in names:
            _remove(root, name, role)
    for role, keys in rotation.add.items():
        for key in keys:
            _add(root, signing.tuf_key(key), role)
    for role, threshold in rotation.thresholds.items():
        root.roles[role].threshold = threshold
    return _checked(root, now)


def check(root: Root) -> None:
    """Check that a root means what people think that it means.

    Raises:
        MalformedError: a key is there twice, or in two roles; snapshot is not the targets' own.
        UsageError: a threshold is below 1, or asks for more keys than there are.
    """
    held = [(role, keys_of(root, role)) for role in ROLES]
    signing.distinct(chain.from_iterable(keys for _, keys in held), "root")
    for role, keys in held:
        threshold = root.roles[role].threshold
        if not 1 <= threshold <= len(keys):
            raise UsageError(
                f"{role} cannot need {threshold} of {len(keys)} keys",
                hint=f"name more keys for {role}, or another threshold",
            )
    if _shape(root.roles["snapshot"]) != _shape(root.roles["targets"]):
        raise MalformedError("root: snapshot is not signed by those who sign targets")


def signers(root: Root, before: Root | None) -> tuple[Signers, ...]:
    """Return who must sign a root: those of the one before it, and its own."""
    own = Signers.of(root, "root")
    if before is None:
        return (own,)
    return (Signers("root as it was", before.roles["root"].threshold, keys_of(before, "root")), own)


def standings(part: Part, before: Root | None) -> list[Standing]:
    """Return how far the signing of a root is.

    Raises:
        SignatureError, ScopeError: a signature in it does not hold, or is a stranger's.
    """
    name, who = f"{part.signed.version}.root.json", signers(part.signed, before)
    signing.check_no_stranger(name, part, *who)
    return [signing.standing(name, part, each) for each in who]


def fingerprint(part: Part) -> str:
    """Return what people compare over another road: the same for every copy of a root."""
    digest = hashlib.sha256(part.signed_bytes).hexdigest()[:32]
    return " ".join(digest[at : at + 4] for at in range(0, len(digest), 4))


def chain_of(files: Mapping[str, bytes], anchor: bytes | None = None) -> list[bytes]:
    """Return the root chain in ``files``, each root verified by the one before.

    Args:
        files: Metadata by file name.
        anchor: The root to begin with; else the oldest in ``files``, which vouches for itself.

    Raises:
        NotFoundError: there is no root.
        SignatureError, MalformedError: the chain is broken.
        EquivocationError: the anchor and the file of the same version differ.
    """
    if anchor is None:
        numbers = [n for n, kind in map(numbered, files) if kind == "root"]
        if not numbers:
            raise NotFoundError("there is no root here (1.root.json)")
        anchor = files[f"{min(numbers)}.root.json"]
    number = metadata.root_version(anchor)
    if (same := files.get(f"{number}.root.json")) not in (None, anchor):
        check_same_root(anchor, same or b"", number)
    found = [anchor]
    for _, data in metadata.advance_root(anchor, lambda n: files.get(f"{n}.root.json")):
        found.append(data)
    return found


def check_same_root(mine: bytes, theirs: bytes, number: int) -> None:
    """Copies of one root may carry other signatures, but never another content."""
    name = f"{number}.root.json"
    parts = [signing.read(data, "root", name) for data in (mine, theirs)]
    if parts[0].signed_bytes != parts[1].signed_bytes:
        raise EquivocationError(
            f"{name} is not the one that is trusted here",
            hint="is it another organisation's? sign nothing until you know",
        )


def numbered(name: str) -> tuple[int, str]:
    """Return number and kind of a file such as ``7.targets.json``; kind is empty for others."""
    number, _, rest = name.partition(".")
    if not (number.isascii() and number.isdigit() and len(number) <= 9):
        return 0, ""
    return int(number), rest.removesuffix(".json") if rest.endswith(".json") else ""


def keys_of(root: Root, role: str) -> tuple[Key, ...]:
    """Return the keys of one role."""
    return Signers.of(root, role).keys


def describe(root: Root) -> Iterable[str]:
    """Yield a sentence for each role, as a person checks it before signing."""
    for role in ROLES:
        names = ", ".join(
            f"{signing.holder(key)} ({signing.public_of(key)[:16]}…)" for key in keys_of(root, role)
        )
        yield f"{role}: {root.roles[role].threshold} of {len(root.roles[role].keyids)}: {names}"


def changes(before: Root | None, after: Root) -> list[str]:
    """Return what a new root changes, a line for each key and threshold."""
    if before is None:
        return list(describe(after))
    found = []
    for role in ROLES:
        old = {key.keyid: key for key in keys_of(before, role)}
        new = {key.keyid: key for key in keys_of(after, role)}
        found += [_line("-", role, key) for keyid, key in old.items() if keyid not in new]
        found += [_line("+", role, key) for keyid, key in new.items() if keyid not in old]
        was, now = before.roles[role].threshold, after.roles[role].threshold
        if (was, len(old)) != (now, len(new)):
            found.append(f"{role}: {now} of {len(new)} must sign; it was {was} of {len(old)}")
    return found


def is_solo(root: Root) -> bool:
    """Whether one person alone can approve, and one alone replace every key."""
    return all(root.roles[role].threshold == 1 for role in ("root", "targets"))


def org_of(root: Root) -> str | None:
    """Return whose root it is; None for those made before roots said so."""
    found = root.unrecognized_fields.get(ORG_FIELD)
    return found if isinstance(found, str) else None


def _line(sign: str, role: str, key: Key) -> str:
    return f"{sign} {role}: {signing.holder(key)} ({signing.public_of(key)})"


def _add(root: Root, key: Key, role: str) -> None:
    if key.keyid in root.keys:
        raise MalformedError(
            f"the key of {signing.holder(key)} is given twice",
            hint="every person holds one key, and every key one role",
        )
    root.add_key(key, role)
    if role == "targets":
        root.add_key(key, "snapshot")


def _remove(root: Root, name: str, role: str) -> None:
    for key in keys_of(root, role):
        if name in (signing.holder(key), key.keyid, signing.public_of(key)):
            root.revoke_key(key.keyid, role)
            if role == "targets":
                root.revoke_key(key.keyid, "snapshot")
            return
    raise NotFoundError(f"{role} has no key called {name!r}", hint="appliance keys list FOLDER")


def _checked(root: Root, now: datetime.datetime) -> Part:
    root.roles["snapshot"].threshold = root.roles["targets"].threshold
    check(root)
    return signing.draft(root, "root", now)


def _shape(role: Role) -> tuple[int, frozenset[str]]:
    return role.threshold, frozenset(role.keyids)
