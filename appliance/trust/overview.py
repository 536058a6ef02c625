"""What a keys folder says of itself: who holds which role, what is declared, what runs out when."""

import json
from typing import Any

from tuf.api.metadata import Key, Root

from appliance.kit.clock import rfc3339
from appliance.trust import declarations, rotation, signing
from appliance.trust.keys import PublicKey
from appliance.trust.repository import Repository
from appliance.trust.signing import Signers

SOLO = "one person alone can approve everything"
"""Said wherever an arrangement is shown in which it is so."""


def overview(repository: Repository) -> dict[str, Any]:
    """Return everything there is to say, as JSON.

    Raises:
        NotFoundError: there are no keys, or the first root lacks signatures.
    """
    files = repository.files
    root, before, lists = files.root, files.finished, files.lists
    part = signing.read(files.roots[0].read_bytes(), "root", "root")
    return {
        "org": repository.org,
        "solo": rotation.is_solo(root),
        "root": {
            "version": root.version,
            "expires": rfc3339(root.expires),
            "fingerprint": rotation.fingerprint(part),
        },
        "roles": [_role(repository, root, role) for role in rotation.ROLES],
        "list": before and _list(before.targets),
        "timestamp": before and _list(before.timestamp),
        "waiting": files.waiting,
        "publishers": [
            {
                "name": name,
                "threshold": publisher.threshold,
                "keys": [{"name": key.name, "public": key.public} for key in publisher.keys],
                "list": lists[name].version if name in lists else None,
            }
            for name, publisher in files.publishers.items()
        ],
        **_declared(repository),
    }


def _role(repository: Repository, root: Root, role: str) -> dict[str, Any]:
    signers = Signers.of(root, role)
    here = _here(repository)
    return {
        "role": role,
        "threshold": signers.threshold,
        "keys": [_key(key, here) for key in signers.keys],
    }


def _key(key: Key, here: frozenset[str]) -> dict[str, Any]:
    public = signing.public_of(key)
    return {"name": signing.holder(key), "id": key.keyid, "public": public, "here": public in here}


def _here(repository: Repository) -> frozenset[str]:
    """Return the keys whose private half lies in the folder, by the public half beside it."""
    found = (path.with_suffix(".pub") for path in repository.folder.glob("*.pem"))
    return frozenset(PublicKey.read(path).public for path in found if path.exists())


def _list(part: signing.Part) -> dict[str, Any]:
    return {"version": part.signed.version, "expires": rfc3339(part.signed.expires)}


def _declared(repository: Repository) -> dict[str, Any]:
    found = {
        path: json.loads(data) for path, data in declarations.read_all(repository.folder).items()
    }
    return {
        "director": found.get(declarations.DIRECTOR_PATH),
        "hub": found.get(declarations.HUB_PATH),
        "revoked": found.get(declarations.REVOKED_PATH),
    }
