"""Signing one bundle's metadata by several people, who pass it from hand to hand. Pure.

The order is forced: the snapshot names the *signed* list by its hash, so the list must have all its
signatures first, and the timestamp names the snapshot. What has all its signatures is frozen. Every
person recomputes what an earlier one drafted, so nothing is signed that does not follow from the
list and the lists before it.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuf.api.metadata import MetaFile, Root, Snapshot, Targets, Timestamp

from appliance.errors import (
    CorruptError,
    DowngradeError,
    EquivocationError,
    IncompleteError,
    SignatureError,
)
from appliance.trust import publishers, rotation, signing
from appliance.trust.keys import Keyring
from appliance.trust.publishers import PublisherList
from appliance.trust.signing import Part, Signers, Standing

PREVIOUS = "previous."
"""Begins the names of the last finished files, which travel along until the new ones are done."""

ORDER = ("targets", "snapshot", "timestamp")


@dataclass(frozen=True, slots=True)
class Finished:
    """The last set of files that had all its signatures."""

    targets: Part
    snapshot: Part
    timestamp: Part

    @classmethod
    def read(cls, files: Mapping[str, bytes]) -> "Finished | None":
        """Return the set in ``{role: bytes}``; None if it is not whole."""
        if not all(role in files for role in ORDER):
            return None
        return cls(*(signing.read(files[role], role, PREVIOUS + role) for role in ORDER))


class Ceremony:
    """The metadata of one bundle on its way to being signed."""

    def __init__(
        self,
        files: Mapping[str, bytes],
        *,
        anchor: bytes | None = None,
        known: Finished | None = None,
    ) -> None:
        """Read the files of a bundle's ``tuf/`` and check that they hang together.

        Args:
            files: By name.
            anchor: A root that this person trusts; else the oldest in ``files``, to be compared.
            known: The last finished set that this person keeps; else the one in ``files``. What
                is new is told against it.

        Raises:
            IncompleteError: there is no list to sign.
            RefusedError: a part was changed on its way, or is not one that may be signed; its
                subclass says why.
        """
        self._given = dict(files)
        self.chain = rotation.chain_of(files, anchor)
        self._roots: list[Root] = [signing.read(data, "root", "root").signed for data in self.chain]
        self.root = self._roots[-1]
        numbers = [n for n, kind in map(rotation.numbered, files) if kind == "targets"]
        if not numbers:
            raise IncompleteError("there is no list to sign here (N.targets.json)")
        self._number = max(numbers)
        self.targets = self._part(f"{self._number}.targets.json", "targets")
        carried = self._carried()
        self.known = known or carried
        self.previous = _newer(carried, known)
        self.publishers = publishers.delegated(self.targets.signed)
        self.lists = publishers.newest_lists(files, self.publishers)
        self._check_lists()
        self.snapshot = self._drafted("snapshot")
        self.timestamp = self._drafted("timestamp")
        self.standings()

    @property
    def list_file(self) -> str:
        """The name of the list that is being signed."""
        return f"{self._number}.targets.json"

    @property
    def finished(self) -> bool:
        """Whether nodes will take it."""
        return not any(standing.missing for standing in self.standings())

    @property
    def timestamp_number(self) -> int:
        """The version of the timestamp; 0 while nobody drafted one."""
        return 0 if self.timestamp is None else int(self.timestamp.signed.version)

    def standings(self) -> list[Standing]:
        """Return how far each file is, in the order in which they must be done."""
        return [self._standing(role) for role in ORDER]

    def sign(self, keyring: Keyring, now: datetime.datetime) -> list[tuple[str, str]]:
        """Add every signature that these keys may give now; return pairs of file and name.

        Raises:
            MalformedError: a part is dated after ``now``, or lives longer than its kind may.
        """
        done = self._sign("targets", self.targets, keyring, now)
        for role in ("snapshot", "timestamp"):
            if any(self._standing(earlier).missing for earlier in ORDER[: ORDER.index(role)]):
                break
            part = getattr(self, role) or self._draft(role, now)
            if signed := self._sign(role, part, keyring, now):
                setattr(self, role, part)
                done += signed
        return done

    def would_sign(self, keyring: Keyring) -> bool:
        """Whether one of these keys may sign something here, now or when its turn comes."""
        return any(
            signing.public_of(key) in keyring
            for role in ORDER
            for key in Signers.of(self.root, role).keys
        )

    def may_sign_now(self, keyring: Keyring) -> bool:
        """Whether ``sign`` would add a signature, found out without opening a key."""
        for role in ORDER:
            if self._standing(role).missing:
                part = getattr(self, role)
                return any(
                    signing.public_of(key) in keyring
                    and (part is None or key.keyid not in part.signatures)
                    for key in Signers.of(self.root, role).keys
                )
        return False

    def files(self) -> dict[str, bytes]:
        """Return what belongs into ``tuf/`` now, in the order in which it is to be written."""
        found = {
            f"{root.version}.root.json": data
            for root, data in zip(self._roots, self.chain, strict=True)
        }
        older = {n: d for n, d in self._given.items() if rotation.numbered(n)[1] == "root"}
        found = {**older, **found}
        found |= {held.file: held.data for held in self.lists.values()}
        if not self.finished and self.previous is not None:
            found |= {
                f"{PREVIOUS}{role}.json": signing.write(getattr(self.previous, role))
                for role in ORDER
            }
        for role in ORDER:
            if (part := getattr(self, role)) is not None:
                found[self._name(role)] = self._bytes(role, part)
        return found

    def _sign(
        self, role: str, part: Part, keyring: Keyring, now: datetime.datetime
    ) -> list[tuple[str, str]]:
        if not self._standing(role).missing:
            return []
        signing.check_times(self._name(role, part), role, part, now)
        names = signing.add_signatures(part, Signers.of(self.root, role), keyring)
        return [(self._name(role, part), name) for name in names]

    def _standing(self, role: str) -> Standing:
        part, signers = getattr(self, role), Signers.of(self.root, role)
        name = self._name(role)
        if part is not None:
            signing.check_no_stranger(name, part, signers)
        return signing.standing(name, part, signers)

    def _name(self, role: str, part: Part | None = None) -> str:
        part = part or getattr(self, role)
        if role == "timestamp" or part is None:
            return f"{role}.json"
        return f"{part.signed.version}.{role}.json"

    def _part(self, name: str, role: str) -> Part:
        part = signing.read(self._given[name], role, name)
        if role != "timestamp" and part.signed.version != rotation.numbered(name)[0]:
            raise CorruptError(f"{name} calls itself version {part.signed.version}")
        return part

    def _bytes(self, role: str, part: Part) -> bytes:
        """Return a part's bytes: those that came, unless it was signed since.

        The snapshot names the list by the hash of its bytes, so they are never written anew.
        """
        given = self._given.get(self._name(role, part))
        if given is not None and signing.read(given, role, role).signatures == part.signatures:
            return given
        return signing.write(part)

    def _carried(self) -> Finished | None:
        """Return the last finished set that travels along, if this organisation signed it."""
        names = {role: f"{PREVIOUS}{role}.json" for role in ORDER}
        found = Finished.read({r: self._given[n] for r, n in names.items() if n in self._given})
        if found is not None:
            for role, name in names.items():
                if not self._was_signed(role, getattr(found, role)):
                    raise SignatureError(f"{name} was not signed by this organisation")
        return found

    def _was_signed(self, role: str, part: Part) -> bool:
        return any(self._is_signed(root, role, part) for root in self._roots)

    @staticmethod
    def _is_signed(root: Root, role: str, part: Part) -> bool:
        result = root.get_verification_result(role, part.signed_bytes, part.signatures)
        return bool(result)

    def _check_lists(self) -> None:
        if self.previous is not None:
            self._check_number(self.previous.targets)
        for name, publisher in self.publishers.items():
            held = self.lists.get(name)
            if held is None:
                raise IncompleteError(f"the list of the publisher {name} is not here")
            publishers.check_signed(held, publisher)
            self._check_not_older(held)

    def _check_number(self, done: Part) -> None:
        if self._number < done.signed.version:
            raise DowngradeError(
                f"{self.list_file} is older than list {done.signed.version}, which is finished"
            )
        if self._number == done.signed.version and self.targets.signed_bytes != done.signed_bytes:
            raise EquivocationError(
                f"another list {self._number} was finished before",
                hint="sign nothing; one who builds bundles used a number twice",
            )

    def _check_not_older(self, held: PublisherList) -> None:
        before = None if self.previous is None else self.previous.snapshot.signed
        entry = before and before.meta.get(f"{publishers.role_of(held.name)}.json")
        if entry and held.version < entry.version:
            raise DowngradeError(
                f"{held.file} is older than list {entry.version} of {held.name}, which nodes have"
            )

    def _drafted(self, role: str) -> Part | None:
        """Return a part that an earlier person drafted, if it is what the others make it."""
        names = [
            name
            for name in self._given
            if name == f"{role}.json" or rotation.numbered(name)[1] == role
        ]
        if not names:
            return None
        name = max(names, key=rotation.numbered)
        part = self._part(name, role)
        if not self._follows(role, part):
            raise CorruptError(
                f"{name} does not follow from the lists beside it",
                hint="sign nothing; tell whoever passed it on",
            )
        return part

    def _follows(self, role: str, part: Part) -> bool:
        """Whether a part is what the files beside it make; who signed it fully, checked the rest.

        A finished bundle no longer carries what came before it, so its numbers cannot be derived.
        """
        signed = part.signed
        whole = self._is_signed(self.root, role, part)
        if isinstance(signed, Snapshot):
            expected = self._snapshot()
            if whole:
                return all(signed.meta.get(n) == expected.meta[n] for n in self._listed_files())
            return (signed.version, signed.meta) == (expected.version, expected.meta)
        if self.snapshot is None:
            return False
        stamp = self._timestamp()
        same = bool(signed.snapshot_meta == stamp.snapshot_meta)
        return same and (whole or signed.version == stamp.version)

    def _listed_files(self) -> list[str]:
        return ["targets.json", *(f"{publishers.role_of(name)}.json" for name in self.lists)]

    def _draft(self, role: str, now: datetime.datetime) -> Part:
        signed: Any = self._snapshot() if role == "snapshot" else self._timestamp()
        return signing.draft(signed, role, now)

    def _snapshot(self) -> Snapshot:
        before: Snapshot | None = None
        version, step = 0, self._number
        if self.previous is not None:
            before = self.previous.snapshot.signed
            step = self._number - self.previous.targets.signed.version
            if not self._begins_again("snapshot"):
                version = before.version
        snapshot = Snapshot(version=version + step if version else 1)
        snapshot.meta = dict(before.meta) if before is not None else {}
        for held in self.lists.values():
            snapshot.meta[f"{publishers.role_of(held.name)}.json"] = _entry(held)
        snapshot.meta["targets.json"] = MetaFile.from_data(
            self._number, self._bytes("targets", self.targets), ["sha256"]
        )
        return snapshot

    def _timestamp(self) -> Timestamp:
        assert self.snapshot is not None
        version = 0
        if self.previous is not None and not self._begins_again("timestamp"):
            version = self.previous.timestamp.signed.version
        timestamp = Timestamp(version=version + 1)
        timestamp.snapshot_meta = MetaFile.from_data(
            self.snapshot.signed.version, self._bytes("snapshot", self.snapshot), ["sha256"]
        )
        return timestamp

    def _begins_again(self, role: str) -> bool:
        """Whether nodes forget the stored numbers of this role, because its keys were replaced.

        It is how an organisation recovers from a thief who signed the highest version there is. A
        snapshot reaches nodes only under a timestamp, so its numbers begin again with those.
        """
        assert self.previous is not None
        roles = ("timestamp",) if role == "timestamp" else ("timestamp", "snapshot")
        return not any(
            self._is_signed(self.root, each, getattr(self.previous, each)) for each in roles
        )


def changes(before: Targets | None, after: Targets) -> list[dict[str, Any]]:
    """Return what a new list approves, or approves no longer, against the one before.

    Each is ``{change: added|removed|replaced, path, digest, bytes}``; publishers are listed too.
    """
    old, new = _approved(before), _approved(after)
    found = []
    for path in sorted(old.keys() | new.keys()):
        if old.get(path) == new.get(path):
            continue
        kind = "added" if path not in old else "replaced" if path in new else "removed"
        digest, size = new.get(path) or old[path]
        found.append({"change": kind, "path": path, "digest": digest, "bytes": size})
    return found


def _newer(one: Finished | None, other: Finished | None) -> Finished | None:
    found = [each for each in (other, one) if each is not None]
    return max(found, key=lambda each: int(each.targets.signed.version), default=None)


def _approved(signed: Targets | None) -> dict[str, tuple[str, int | None]]:
    if signed is None:
        return {}
    found: dict[str, tuple[str, int | None]] = {
        path: (f"sha256:{target.hashes.get('sha256')}", target.length)
        for path, target in signed.targets.items()
    }
    for name, publisher in publishers.delegated(signed).items():
        held = ", ".join(f"{key.name} ({key.public})" for key in publisher.keys)
        found[publishers.pattern(name)] = (f"{publisher.threshold} of {held}", None)
    return found


def _entry(held: PublisherList) -> MetaFile:
    return MetaFile.from_data(held.version, held.data, ["sha256"])
