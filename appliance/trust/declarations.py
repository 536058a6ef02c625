"""What an organisation declares to its nodes under ``trust/``: director, hub, revocations.

Each is a small document in the keys folder, with an epoch that only rises; the next signed list
carries it, and only the top-level list may.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.core import ids, wire
from appliance.core.commands import Verb
from appliance.errors import MalformedError, NotFoundError, UsageError
from appliance.kit.files import translated, write_durably
from appliance.trust.envelope import whole
from appliance.trust.keys import public_key

DIRECTOR_PATH = "trust/director.json"
HUB_PATH = "trust/hub.json"
REVOKED_PATH = "trust/revoked.json"
PATHS = (DIRECTOR_PATH, HUB_PATH, REVOKED_PATH)


def read_all(folder: Path) -> dict[str, bytes]:
    """Return what is declared, by the path it is signed under."""
    found = {}
    for path in PATHS:
        try:
            with translated(f"reading {file_of(folder, path)}"):
                found[path] = file_of(folder, path).read_bytes()
        except FileNotFoundError:
            continue
    return found


def file_of(folder: Path, path: str) -> Path:
    """Return where a keys folder keeps a declaration."""
    return folder / path.removeprefix("trust/")


def name_director(folder: Path, org: str, hub: Mapping[str, Any]) -> int:
    """Write which hub may direct this fleet; return its epoch. See ``Repository``."""
    _check_org(org, hub.get("org"), "that hub is")
    verbs = _verbs(hub.get("verbs", list(Verb)))
    known = _known(folder, DIRECTOR_PATH, {"epoch": 0})
    named = {"keys": [public_key(hub.get("director"))], "sync": [public_key(hub.get("sync"))]}
    epoch, in_force = whole(dict(hub), "epoch"), int(known["epoch"])
    is_same = epoch == in_force and {name: known.get(name) for name in named} == named
    if is_same and known.get("verbs") == verbs:
        return epoch
    if epoch <= in_force and not is_same:
        raise UsageError(
            f"that hub is of director epoch {epoch}; {in_force} is in force for another",
            hint=f"on that hub: appliance hub raise-epoch {in_force + 1}, then hub keys again",
        )
    document = {"org": org, "epoch": epoch, **named, "sites": ["*"], "verbs": verbs}
    _write(folder, DIRECTOR_PATH, document)
    return epoch


def name_ca(folder: Path, org: str, pems: Sequence[bytes]) -> int:
    """Write which certificate authorities a hub's TLS may come from; return the epoch.

    Raises:
        MalformedError: one is not a certificate of an authority.
        UsageError: none is named.
    """
    ca = [certificate for pem in pems for certificate in authorities_in(pem)]
    if not ca:
        raise UsageError("name at least one certificate")
    known = _known(folder, HUB_PATH, {"epoch": 0, "ca": []})
    epoch = int(known["epoch"])
    if known["ca"] != ca:
        epoch += 1
        _write(folder, HUB_PATH, {"org": org, "epoch": epoch, "ca": ca})
    return epoch


def revoke(folder: Path, org: str, digest: str, why: str, *, stop: bool) -> int:
    """Deny a digest to every node from the next bundle on; return the epoch of the list.

    Raises:
        UsageError: it is not a digest, or there is no reason.
    """
    try:
        denied = ids.digest(digest)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if not why.strip() or not why.isprintable():
        raise UsageError("say why, in words that can be shown: --why TEXT")
    known = _known(folder, REVOKED_PATH, {"epoch": 0, "digests": []})
    entry = {"digest": denied, "why": why.strip(), "stop": stop}
    if entry in known["digests"]:
        return int(known["epoch"])
    others = [old for old in known["digests"] if old["digest"] != denied]
    document = {"org": org, "epoch": int(known["epoch"]) + 1, "digests": [*others, entry]}
    _write(folder, REVOKED_PATH, document)
    return int(known["epoch"]) + 1


def take(folder: Path, org: str, path: str, data: bytes) -> bool:
    """Take over a declaration that was signed elsewhere; return whether it was new here.

    Raises:
        MalformedError, UsageError: it is not one of this organisation.
    """
    found = wire.loads(data, what=path)
    _check_org(org, found.get("org"), f"{path} is")
    known = _known(folder, path, {"epoch": 0})
    if whole(found, "epoch") <= int(known["epoch"]):
        return False
    write_durably(file_of(folder, path), data)
    return True


def _verbs(found: object) -> list[str]:
    known = ", ".join(Verb)
    if not isinstance(found, list) or not all(isinstance(v, str) for v in found):
        raise MalformedError("the verbs of a director are not a list of texts")
    if strange := [verb for verb in found if verb not in list(Verb)]:
        raise UsageError(f"there is no verb {strange[0][:60]!r}", hint=f"there are: {known}")
    return sorted(set(found))


def authorities_in(pem: bytes, what: str = "that") -> list[str]:
    """Return the certificates in a file, and nothing else that lies in it, such as a key.

    Args:
        pem: What the file holds.
        what: Its name, for who reads the error.

    Raises:
        MalformedError: it is not the certificate of an authority.
    """
    hint = "what the hub prints is meant: appliance hub ca > ca.pem"
    try:
        found = x509.load_pem_x509_certificates(pem)
        basics = [c.extensions.get_extension_for_class(x509.BasicConstraints) for c in found]
    except (ValueError, x509.ExtensionNotFound) as error:
        refused = f"{what} is not the PEM certificate of an authority"
        raise MalformedError(refused, hint=hint) from error
    if not all(basic.value.ca for basic in basics):
        raise MalformedError(f"{what} is not an authority's, it can sign no other", hint=hint)
    return [certificate.public_bytes(Encoding.PEM).decode() for certificate in found]


def _check_org(org: str, found: object, whose: str) -> None:
    if found != org:
        raise UsageError(f"{whose} of {found!r}, these keys are of {org!r}")


def _known(folder: Path, path: str, otherwise: dict[str, Any]) -> dict[str, Any]:
    data = read_all(folder).get(path)
    return otherwise if data is None else dict(json.loads(data))


def _write(folder: Path, path: str, document: Mapping[str, Any]) -> None:
    if not folder.is_dir():
        raise NotFoundError(f"{folder} holds no organisation's keys")
    write_durably(file_of(folder, path), wire.dumps(document))
