"""Who may sign what: the path of a target says what it is, and so which role may list it. Pure.

A publisher's role may list its own models and nothing else: what decides what is executed (images,
engine profiles, packages, settings) is for top-level targets alone, and so is ``trust/``.
"""

import re
from collections.abc import Mapping

from tuf.api.metadata import Delegations, Key, Role, Root, Targets

from appliance.core.ids import LOCAL, NAME_PATTERN
from appliance.errors import MalformedError, ScopeError
from appliance.trust.keys import public_key
from appliance.trust.workflow import MAX_DELEGATIONS

TOP = Targets.type
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_WORD = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}"
_KINDS = "k3s|deb|wheel|controller|profile|site"
_FAMILIES = {
    "models": re.compile(f"models/(?!{LOCAL}/){_WORD}/{_WORD}/{_WORD}/{_WORD}"),
    "images": re.compile(f"images/{_WORD}/{_WORD}"),
    "files": re.compile(f"files/(?:{_KINDS})/{_WORD}/{_WORD}"),
    "boms": re.compile(f"boms/{_WORD}/{_WORD}/(?:mlbom|sbom)"),
}
"""What a release may want; each is an OCI manifest. No part of a path leads elsewhere."""

_PUBLISHER = re.compile(f"publisher-({NAME_PATTERN[1:-1]})")


def check_wanted(path: str, role: str, media_type: str | None) -> str:
    """Step 7: the path's family is one to import, its signer may sign it, its type is the family's.

    Returns:
        The family: ``models``, ``images``, ``files`` or ``boms``.

    Raises:
        ScopeError: it is not.
    """
    family = path.partition("/")[0]
    form = _FAMILIES.get(family)
    if form is None or not form.fullmatch(path):
        raise ScopeError(f"{path} is not something to import here")
    check_signer(path, role, media_type)
    if media_type != MANIFEST_TYPE:
        raise ScopeError(f"{path} is signed as {media_type}, not as {MANIFEST_TYPE}")
    return family


def check_signer(path: str, role: str, media_type: str | None) -> None:
    """Check that a role may list a path, as what it lists it.

    Raises:
        ScopeError: it is not its own, or not a model.
    """
    if role == TOP:
        return
    match = _PUBLISHER.fullmatch(role)
    own = match is not None and path.startswith(f"models/{match[1]}/")
    if not own or not _FAMILIES["models"].fullmatch(path):
        raise ScopeError(f"{role} lists {path}, which is not its to sign")
    if media_type != MANIFEST_TYPE:
        raise ScopeError(f"{role} lists {path} as {media_type}, not as a model")


def publishers(targets: Targets) -> tuple[str, ...]:
    """Return the roles that top-level targets delegate to, in order.

    Raises:
        ScopeError: one may sign more than a publisher's own models, or is not the last word.
        MalformedError: more than 256 of them, or a key that is not there or counts twice.
    """
    found = targets.delegations
    if found is None:
        return ()
    if found.roles is None:
        raise ScopeError("targets delegates to hash bins, not to publishers")
    if len(found.roles) > MAX_DELEGATIONS:
        raise MalformedError(f"targets delegates to more than {MAX_DELEGATIONS} roles")
    for name in found.roles:
        _check_delegation(name, found)
    return tuple(found.roles)


def _check_delegation(name: str, delegations: Delegations) -> None:
    assert delegations.roles is not None
    role, match = delegations.roles[name], _PUBLISHER.fullmatch(name)
    if match is None or match[1] == LOCAL:
        raise ScopeError(f"targets delegates to {name!r}, which is not a publisher")
    pattern = f"models/{match[1]}/*/*/*"
    if role.paths != [pattern] or role.path_hash_prefixes is not None:
        raise ScopeError(f"{name} may sign {role.paths}, not exactly {pattern}")
    if not role.terminating:
        raise ScopeError(f"{name} is not a terminating delegation")
    check_keys(name, role, delegations.keys)


def check_root(root: Root) -> None:
    """Check what a root says of its roles.

    Raises:
        MalformedError: a key is not there or counts twice, or names of files carry no version.
    """
    if not root.consistent_snapshot:
        raise MalformedError("root: files of metadata are not named by their version")
    for name, role in root.roles.items():
        check_keys(name, role, root.keys)


def check_keys(name: str, role: Role, keys: Mapping[str, Key]) -> None:
    """Thresholds count distinct public keys: one under two ids or in two spellings is one key.

    Raises:
        MalformedError: a key is not there, is no Ed25519 key, or is there twice.
    """
    if not keys.keys() >= set(role.keyids):
        raise MalformedError(f"the role {name} lists a key that is not there")
    public = [public_key(keys[keyid].keyval.get("public")) for keyid in role.keyids]
    if len(set(public)) != len(public):
        raise MalformedError(f"the role {name} lists one key under two ids")
