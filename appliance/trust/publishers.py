"""Publishers: vendors who approve their own models, and nothing else. Pure.

The organisation delegates exactly ``models/PUB/*/*/*`` to the role ``publisher-PUB``; the publisher
signs its list with its own key and hands the file over. Who is removed loses the delegation, never
the entry in the snapshot: without that every node would refuse every later bundle.
"""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tuf.api.metadata import DelegatedRole, Delegations, Key, TargetFile, Targets

from appliance.core import ids
from appliance.errors import MalformedError, ScopeError, SignatureError, UsageError
from appliance.trust import signing
from appliance.trust.keys import PublicKey
from appliance.trust.signing import Part, Signers

_PREFIX = "publisher-"


@dataclass(frozen=True, slots=True)
class Publisher:
    """Who may approve the models of one publisher."""

    name: str
    keys: tuple[PublicKey, ...]
    threshold: int = 1

    @property
    def role(self) -> str:
        """The delegated role's name."""
        return role_of(self.name)


@dataclass(frozen=True, slots=True)
class PublisherList:
    """What a publisher signed: one version of its list."""

    name: str
    version: int
    data: bytes
    part: Part

    @property
    def file(self) -> str:
        """The file's name in a bundle's ``tuf/``."""
        return f"{self.version}.{role_of(self.name)}.json"


def role_of(name: str) -> str:
    """Return the role of a publisher."""
    return _PREFIX + name


def name_of(role: str) -> str | None:
    """Return the publisher that a role belongs to; None when it is another's."""
    return role.removeprefix(_PREFIX) if role.startswith(_PREFIX) else None


def pattern(name: str) -> str:
    """Return the one pattern that a publisher may approve under."""
    return f"models/{name}/*/*/*"


def delegations(publishers: Iterable[Publisher]) -> Delegations | None:
    """Return the delegations of a list; None when nobody has one."""
    keys: dict[str, Key] = {}
    roles = {}
    for publisher in publishers:
        held = [signing.tuf_key(key) for key in publisher.keys]
        signing.distinct(held, f"publisher {publisher.name}")
        if not 1 <= publisher.threshold <= len(held):
            raise UsageError(f"{publisher.name} cannot need {publisher.threshold} of {len(held)}")
        keys |= {key.keyid: key for key in held}
        roles[publisher.role] = DelegatedRole(
            publisher.role,
            [key.keyid for key in held],
            publisher.threshold,
            terminating=True,
            paths=[pattern(publisher.name)],
        )
    return Delegations(keys, roles) if roles else None


def delegated(signed: Targets) -> dict[str, Publisher]:
    """Return the publishers that a list names.

    Raises:
        ScopeError: it hands out something other than a publisher's own models.
    """
    if signed.delegations is None:
        return {}
    found = {}
    for role in (signed.delegations.roles or {}).values():
        name = name_of(role.name)
        if name is None or role.paths != [pattern(name)] or not role.terminating:
            raise ScopeError(f"the list lets {role.name} approve more than one publisher's models")
        signers = Signers.of(signed, role.name)
        keys = tuple(PublicKey(signing.holder(k), signing.public_of(k)) for k in signers.keys)
        found[name] = Publisher(publisher_name(name), keys, role.threshold)
    if signed.delegations.succinct_roles is not None:
        raise ScopeError("the list lets nameless roles approve")
    return found


def new_list(
    name: str,
    version: int,
    targets: Sequence[TargetFile],
    now: datetime.datetime,
) -> Part:
    """Return a publisher's unsigned list.

    Raises:
        ScopeError: a path is not the publisher's.
    """
    signed = Targets(version=version, targets={target.path: target for target in targets})
    _check_scope(name, signed)
    return signing.draft(signed, "targets", now)


def read_list(data: bytes, file: str, name: str) -> PublisherList:
    """Read a publisher's list, of which only form and scope are checked.

    Raises:
        MalformedError, ScopeError: it has not the form, or lists what is not the publisher's.
    """
    part = signing.read(data, "targets", file)
    _check_scope(name, part.signed)
    return PublisherList(name, part.signed.version, data, part)


def check_signed(found: PublisherList, publisher: Publisher) -> None:
    """Check that a publisher signed its list.

    Raises:
        SignatureError: too few of its keys did.
    """
    if not is_signed(found, publisher):
        raise SignatureError(
            f"{found.file} is not signed by {publisher.threshold} of the keys of {publisher.name}",
            hint="ask the publisher to sign it; its key is the one that add-publisher was given",
        )


def is_signed(found: PublisherList, publisher: Publisher) -> bool:
    """Whether enough of a publisher's keys signed its list.

    Raises:
        SignatureError: one of them signed something else.
    """
    keys = tuple(signing.tuf_key(key) for key in publisher.keys)
    signers = Signers(publisher.role, publisher.threshold, keys)
    return not signing.standing(found.file, found.part, signers).missing


def newest_lists(files: Mapping[str, bytes], names: Iterable[str]) -> dict[str, PublisherList]:
    """Return the newest list of each publisher in a folder of metadata."""
    found: dict[str, PublisherList] = {}
    for name in names:
        suffix = f".{role_of(name)}.json"
        numbers = [file.removesuffix(suffix) for file in files if file.endswith(suffix)]
        if newest := max((int(n) for n in numbers if n.isdecimal()), default=0):
            file = f"{newest}{suffix}"
            found[name] = read_list(files[file], file, name)
            if found[name].version != newest:
                raise MalformedError(f"{file} calls itself version {found[name].version}")
    return found


def publisher_name(text: str) -> str:
    """Return ``text`` as a publisher's name.

    Raises:
        UsageError: it is not one.
    """
    try:
        return ids.name(text)
    except ValueError as error:
        raise UsageError(f"{text[:80]!r} is not a publisher's name: {ids.NAME_ALLOWED}") from error


def _check_scope(name: str, signed: Targets) -> None:
    if signed.delegations is not None:
        raise ScopeError(f"the list of {name} hands on what it was given")
    for path, target in signed.targets.items():
        parts = path.split("/")
        if len(parts) != 5 or parts[:2] != ["models", name] or not all(parts):
            raise ScopeError(f"{name} may not approve {path[:200]!r}: only {pattern(name)}")
        if set(target.hashes) != {"sha256"}:
            raise MalformedError(f"{path} is not listed by its sha256 alone")
