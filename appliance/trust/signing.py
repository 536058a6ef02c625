"""One signed file: who may sign it, who has, and who is still missing. Pure, but for opening keys.

A threshold counts distinct public keys. A signature that does not hold is never overlooked: the
file was changed after it was signed, and whoever is asked next must learn of it.
"""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.signer import Signature, SSlibKey
from tuf.api import exceptions
from tuf.api.metadata import Key, Metadata, Role, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from appliance.errors import MalformedError, ScopeError, SignatureError
from appliance.kit.clock import parse_rfc3339, rfc3339
from appliance.trust.keys import Keyring, PublicKey, public_key, verifies

LIFETIMES = {
    "root": datetime.timedelta(days=3650),
    "targets": datetime.timedelta(days=730),
    "snapshot": datetime.timedelta(days=730),
    "timestamp": datetime.timedelta(days=180),
}
"""How long metadata may be imported for. A stick travels slowly; running models never expire."""

_CLOCKS_DIFFER = datetime.timedelta(days=1)

NAME_FIELD = "x-name"
"""Where a root says what a key is called, so that people read names and not digits."""

Part: TypeAlias = Metadata[Any]
_SERIALIZER = JSONSerializer(compact=False)
_KINDS: dict[str, type[Any]] = {
    "root": Root,
    "timestamp": Timestamp,
    "snapshot": Snapshot,
    "targets": Targets,
}


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the signing of one file is.

    ``signed`` and ``may`` are names of people: who has signed, and who may still.
    """

    file: str
    role: str
    threshold: int
    signed: tuple[str, ...]
    may: tuple[str, ...]

    @property
    def missing(self) -> int:
        """How many more signatures it needs."""
        return max(0, self.threshold - len(self.signed))

    def to_wire(self) -> dict[str, Any]:
        """Return it as JSON for other programs."""
        return {
            "file": self.file,
            "role": self.role,
            "threshold": self.threshold,
            "signed": list(self.signed),
            "missing": self.missing,
            "may": list(self.may),
        }


@dataclass(frozen=True, slots=True)
class Signers:
    """The keys of one role, as whoever delegates to it names them."""

    role: str
    threshold: int
    keys: tuple[Key, ...]

    @classmethod
    def of(cls, delegator: Root | Targets, role: str) -> "Signers":
        """Return who may sign ``role``.

        Raises:
            MalformedError: the delegator does not name the role.
        """
        try:
            found: Role = delegator.get_delegated_role(role)
            keys = tuple(delegator.get_key(keyid) for keyid in found.keyids)
        except ValueError as error:
            raise MalformedError(f"nobody is named who may sign {role}") from error
        return cls(role, found.threshold, keys)

    @property
    def names(self) -> tuple[str, ...]:
        """What the holders are called."""
        return tuple(holder(key) for key in self.keys)


def read(data: bytes, kind: str, name: str) -> Part:
    """Return the metadata in ``data``, of which nothing is believed yet.

    Raises:
        MalformedError: it is not metadata of this kind, or lacks its issue time.
    """
    try:
        part: Part = Metadata.from_bytes(data)
    except (exceptions.RepositoryError, ValueError, KeyError, TypeError) as error:
        raise MalformedError(f"{name} is not signed metadata: {error}") from error
    if type(part.signed) is not _KINDS[kind]:
        raise MalformedError(f"{name} is of type {part.signed.type}, not {kind}")
    if issued(part, name) >= part.signed.expires:
        raise MalformedError(f"{name} was issued at or after the time it expires")
    return part


def issued(part: Part, name: str) -> datetime.datetime:
    """Return when a file was issued.

    Raises:
        MalformedError: it does not say.
    """
    try:
        return parse_rfc3339(str(part.signed.unrecognized_fields["x-issued"]))
    except (KeyError, ValueError) as error:
        raise MalformedError(f"{name} does not say when it was issued (x-issued)") from error


def check_times(name: str, kind: str, part: Part, now: datetime.datetime) -> None:
    """Refuse to sign what somebody dated ahead: nodes never again believe an earlier time.

    Raises:
        MalformedError: it is dated after ``now``, or lives longer than its kind may.
    """
    when = issued(part, name)
    if when > now + _CLOCKS_DIFFER:
        raise MalformedError(
            f"{name} says that it was issued {when:%Y-%m-%d}, which is still to come",
            hint="compare the clocks of the two machines; else somebody dated it ahead",
        )
    if part.signed.expires - when > LIFETIMES[kind]:
        raise MalformedError(f"{name} lives longer than {LIFETIMES[kind].days} days")


def draft(signed: Root | Timestamp | Snapshot | Targets, kind: str, now: datetime.datetime) -> Part:
    """Return an unsigned file, issued now and expiring as its kind does."""
    signed.expires = (now + LIFETIMES[kind]).replace(microsecond=0)
    signed.unrecognized_fields["x-issued"] = rfc3339(now)
    return Metadata(signed)


def write(part: Part) -> bytes:
    """Return the bytes of a file, as people can read them."""
    data: bytes = part.to_bytes(_SERIALIZER)
    return data


def standing(name: str, part: Part | None, signers: Signers) -> Standing:
    """Return who signed ``part``; ``None`` for a file that waits for another.

    Raises:
        SignatureError: a signature in it does not hold.
    """
    signed, may, seen = [], [], set()
    payload = b"" if part is None else part.signed_bytes
    for key in signers.keys:
        public = public_of(key)
        if public in seen:
            continue
        seen.add(public)
        signature = None if part is None else part.signatures.get(key.keyid)
        if signature is None:
            may.append(holder(key))
            continue
        if not verifies(public, _hex(signature.signature), payload):
            raise SignatureError(
                f"{name} was changed after {holder(key)} signed it",
                hint="sign nothing; tell whoever passed it on, and start again from the original",
            )
        signed.append(holder(key))
    return Standing(name, signers.role, signers.threshold, tuple(signed), tuple(may))


def check_no_stranger(name: str, part: Part, *allowed: Signers) -> None:
    """Refuse a file that carries a signature of somebody who may not sign it.

    Raises:
        ScopeError: it does.
    """
    known = {key.keyid for signers in allowed for key in signers.keys}
    if strangers := set(part.signatures) - known:
        raise ScopeError(
            f"{name} carries a signature of a key that may not sign it: {min(strangers)[:8]}"
        )


def add_signatures(part: Part, signers: Signers, keyring: Keyring) -> list[str]:
    """Sign ``part`` with the keys at hand that may and have not; return their names."""
    names = []
    for key in signers.keys:
        public = public_of(key)
        if key.keyid not in part.signatures and public in keyring:
            signature = keyring.key(public).sign(part.signed_bytes).hex()
            part.signatures[key.keyid] = Signature(key.keyid, signature)
            names.append(holder(key))
    return names


def tuf_key(key: PublicKey) -> Key:
    """Return a public key as metadata lists it, with its holder's name."""
    found = SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.public)))
    found.unrecognized_fields[NAME_FIELD] = key.name
    return found


def public_of(key: Key) -> str:
    """Return the public half that metadata lists.

    Raises:
        MalformedError: it is not an Ed25519 key in the one spelling.
    """
    if key.keytype != "ed25519" or key.scheme != "ed25519":
        raise MalformedError(f"the key {key.keyid[:8]} is of type {key.keytype}, not ed25519")
    return public_key(key.keyval.get("public"))


def holder(key: Key) -> str:
    """Return what a key is called: its name, else the beginning of its id."""
    name = key.unrecognized_fields.get(NAME_FIELD)
    return name if isinstance(name, str) and name else key.keyid[:8]


def distinct(keys: Iterable[Key], what: str) -> None:
    """Refuse one public key under two ids, and two keys of one name.

    Raises:
        MalformedError: a key is there twice.
    """
    seen: dict[str, str] = {}
    names: set[str] = set()
    for key in keys:
        public, name = public_of(key), holder(key)
        if public in seen:
            raise MalformedError(f"{what}: {seen[public]} and {name} are one and the same key")
        if name in names:
            raise MalformedError(f"{what}: two keys are called {name}")
        seen[public] = name
        names.add(name)


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""
