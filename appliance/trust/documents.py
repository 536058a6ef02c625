"""What top-level targets say of trust itself: director, hub and revocations. Pure.

Each is a small signed JSON document of one organisation with an epoch that never goes down.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

from cryptography import x509

from appliance.core import wire
from appliance.core.ids import Digest, digest
from appliance.core.ids import name as name_of
from appliance.errors import MalformedError, RevokedError
from appliance.trust.keys import public_key

DIRECTOR_PATH = "trust/director.json"
HUB_PATH = "trust/hub.json"
REVOKED_PATH = "trust/revoked.json"
MAX_DOCUMENT_BYTES = 1 << 20

_LONGEST_WHY = 500
_PEM = re.compile(
    r"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE-----\n?", re.ASCII
)


class TrustDocument(Protocol):
    """What the three have in common; ``kind`` names the epoch that is remembered."""

    kind: ClassVar[str]

    @property
    def org(self) -> str: ...

    @property
    def epoch(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Director:
    """Who may choose for this fleet, as the offline keys named it."""

    kind: ClassVar[str] = "director"

    org: str
    epoch: int
    keys: frozenset[str]
    sync_keys: frozenset[str]
    sites: tuple[str, ...] = ("*",)
    verbs: tuple[str, ...] = ()

    @classmethod
    def parse(cls, data: bytes) -> "Director":
        """Return the director in a signed ``trust/director.json``.

        Raises:
            MalformedError: it does not have that form, or one key is to instruct and acknowledge.
        """
        found = _Fields(data, DIRECTOR_PATH)
        org, epoch = found.org(), found.epoch()
        keys = frozenset(public_key(k) for k in found.texts("keys"))
        sync = frozenset(public_key(k) for k in found.texts("sync"))
        if not keys or not sync:
            raise MalformedError(f"{DIRECTOR_PATH} names no key to direct or to acknowledge")
        if keys & sync:
            raise MalformedError(f"{DIRECTOR_PATH}: the director's keys and those of sync overlap")
        return cls(org, epoch, keys, sync, found.texts("sites"), found.texts("verbs"))


@dataclass(frozen=True, slots=True)
class HubAuthority:
    """Whose certificates speak for the hub."""

    kind: ClassVar[str] = "hub"

    org: str
    epoch: int
    ca: tuple[str, ...]

    @classmethod
    def parse(cls, data: bytes) -> "HubAuthority":
        """Return the authorities in a signed ``trust/hub.json``.

        Raises:
            MalformedError: it does not have that form.
        """
        found = _Fields(data, HUB_PATH)
        ca = found.texts("ca")
        if not ca:
            raise MalformedError(f"{HUB_PATH} names no certificate authority")
        for text in ca:
            _check_certificate(text)
        return cls(found.org(), found.epoch(), ca)


@dataclass(frozen=True, slots=True)
class Revocation:
    """One digest that is denied; with ``stop`` what runs of it is stopped."""

    digest: Digest
    why: str
    stop: bool


@dataclass(frozen=True, slots=True)
class Revoked:
    """Manifests and blobs that are denied by name, although they were approved once."""

    kind: ClassVar[str] = "revoked"

    org: str = ""
    epoch: int = 0
    digests: Mapping[Digest, Revocation] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes) -> "Revoked":
        """Return the revocations in a signed ``trust/revoked.json``.

        Raises:
            MalformedError: it does not have that form. Nothing is denied by half a list.
        """
        found = _Fields(data, REVOKED_PATH)
        listed = found.get("digests", list)
        revocations = {entry.digest: entry for entry in map(_revocation, listed)}
        if len(revocations) != len(listed):
            raise MalformedError(f"{REVOKED_PATH} names one digest twice")
        return cls(found.org(), found.epoch(), revocations)

    def check(self, found: Digest, what: str) -> None:
        """Check that a manifest or a blob is not denied.

        Raises:
            RevokedError: it is, with the reason that was signed.
        """
        entry = self.digests.get(found)
        if entry is not None:
            raise RevokedError(
                f"{what} is revoked: {entry.why}", hint="use another version, or ask who signed it"
            )


PARSERS: Mapping[str, Callable[[bytes], TrustDocument]] = {
    DIRECTOR_PATH: Director.parse,
    HUB_PATH: HubAuthority.parse,
    REVOKED_PATH: Revoked.parse,
}
"""Every document below ``trust/`` that this release reads."""

_T = TypeVar("_T")


class _Fields:
    """The fields of a document, each with the type that it must have."""

    def __init__(self, data: bytes, what: str) -> None:
        self._found = wire.loads(data, what=what)
        self._what = what

    def get(self, field_name: str, kind: type[_T]) -> _T:
        value = self._found.get(field_name)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise MalformedError(f"{self._what}: {field_name} is not a {kind.__name__}")
        return value

    def org(self) -> str:
        try:
            return name_of(self.get("org", str))
        except ValueError as error:
            raise MalformedError(f"{self._what}: {error}") from error

    def epoch(self) -> int:
        if (found := self.get("epoch", int)) < 0:
            raise MalformedError(f"{self._what}: epoch {found} is below 0")
        return found

    def texts(self, field_name: str) -> tuple[str, ...]:
        found = self.get(field_name, list)
        if not all(isinstance(text, str) for text in found):
            raise MalformedError(f"{self._what}: {field_name} is not a list of texts")
        return tuple(found)


def _revocation(entry: Any) -> Revocation:
    if not isinstance(entry, dict) or not entry.keys() >= {"digest", "why", "stop"}:
        raise MalformedError(f"{REVOKED_PATH}: an entry has no digest, why or stop")
    why, stop = entry["why"], entry["stop"]
    if not isinstance(why, str) or not isinstance(stop, bool) or len(why) > _LONGEST_WHY:
        raise MalformedError(f"{REVOKED_PATH}: why is not a short text, or stop not true or false")
    try:
        return Revocation(digest(str(entry["digest"])), why, stop)
    except ValueError as error:
        raise MalformedError(f"{REVOKED_PATH}: {error}") from error


def _check_certificate(text: str) -> None:
    if not _PEM.fullmatch(text):
        raise MalformedError(f"{HUB_PATH}: a certificate authority is not one PEM certificate")
    try:
        x509.load_pem_x509_certificate(text.encode())
    except ValueError as error:
        raise MalformedError(f"{HUB_PATH}: {error}") from error
