"""Who signed what: a bundle's metadata as a person wants to see it before anything is believed.

Nothing here lets anything through: what may be believed, ``metadata.refresh`` decides. This tells
apart what a key that counts has signed, what it has not, and what nobody checked.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Key, Metadata, Root, Targets

from appliance.kit.clock import rfc3339

_NAME_FIELD = "x-name"


@dataclass(frozen=True, slots=True)
class SeenKey:
    """A key: its id, and its public half and its holder's name if they are known."""

    id: str
    public: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class SeenRole:
    """One file of metadata.

    ``signed`` are the keys whose signatures hold and count, ``unsigned`` those that could still
    sign; without a root to check by, ``signed`` are the ids that the file merely claims, and
    ``threshold`` and ``met`` are None. ``trouble`` says why a file could not be read.
    """

    role: str
    version: int | None = None
    issued: str | None = None
    expires: str | None = None
    signed: tuple[SeenKey, ...] = ()
    unsigned: tuple[SeenKey, ...] = ()
    threshold: int | None = None
    met: bool | None = None
    trouble: str | None = None


def seen_roles(root: bytes | None, files: Mapping[str, bytes]) -> Iterator[SeenRole]:
    """Yield what is to be seen of each role.

    Args:
        root: The newest root that the caller trusts; None to check nothing.
        files: The files by their roles; ``targets`` before the roles that it delegates to.
    """
    trusted = None if root is None else Metadata[Root].from_bytes(root).signed
    delegator: Targets | None = None
    for role, data in files.items():
        try:
            part = Metadata[Any].from_bytes(data)
            signer = delegator if role.startswith("publisher-") else trusted
            seen = _seen(role, part, signer)
            yield seen
        except (RepositoryError, ValueError, KeyError, TypeError, RecursionError) as error:
            yield SeenRole(role, trouble=str(error) or type(error).__name__)
            continue
        if role == Targets.type and seen.met and isinstance(part.signed, Targets):
            delegator = part.signed  # what nobody signed vouches for no publisher


def _seen(role: str, part: Metadata[Any], signer: Root | Targets | None) -> SeenRole:
    signed = part.signed
    issued = signed.unrecognized_fields.get("x-issued")
    facts = (signed.version, None if issued is None else str(issued), rfc3339(signed.expires))
    if signer is None:
        return SeenRole(role, *facts, tuple(SeenKey(str(keyid)) for keyid in part.signatures))
    result = signer.get_verification_result(role, part.signed_bytes, part.signatures)
    by = {_public(key): _key(key) for key in result.signed.values()}  # one key counts once
    rest = tuple(_key(key) for key in result.unsigned.values() if _public(key) not in by)
    met = len(by) >= result.threshold
    return SeenRole(role, *facts, tuple(by.values()), rest, result.threshold, met)


def _public(key: Key) -> str:
    return str(key.keyval.get("public")).lower()


def _key(key: Key) -> SeenKey:
    name = key.unrecognized_fields.get(_NAME_FIELD)
    return SeenKey(key.keyid, _public(key), None if name is None else str(name))
