"""A single file that is passed from hand to hand to be signed: a root, or a publisher's list.

A list, snapshot or timestamp of a bundle is signed with its bundle (``ceremony``): by itself it
does not show what it approves.
"""

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import Root, TargetFile

from appliance.errors import IncompleteError, MalformedError, NotFoundError, ScopeError, UsageError
from appliance.kit.files import translated, write_durably
from appliance.trust import publishers, rotation, signing
from appliance.trust.keys import Keyring, PublicKey
from appliance.trust.signing import Part, Signers, Standing

_MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Passed:
    """A file that waits for signatures, and who may give them."""

    path: Path
    part: Part
    signers: tuple[Signers, ...]
    says: tuple[str, ...]
    """What it says, a line each: to be read before signing."""

    def standings(self) -> list[Standing]:
        """Return how far it is.

        Raises:
            SignatureError, ScopeError: it was changed on its way, or a stranger signed it.
        """
        if self.part.signed.type == Root.type:  # a publisher's list does not name its signers
            signing.check_no_stranger(self.path.name, self.part, *self.signers)
        return [signing.standing(self.path.name, self.part, each) for each in self.signers]

    def check_keys(self, keyring: Keyring) -> None:
        """Say so when a person brought a key that may not sign this.

        Raises:
            ScopeError: one may not.
        """
        may = {signing.public_of(key) for each in self.signers for key in each.keys}
        if keyring.publics - may:
            names = ", ".join(dict.fromkeys(name for each in self.signers for name in each.names))
            raise ScopeError(f"that key may not sign {self.path.name}; these may: {names}")

    def may_sign(self, keyring: Keyring) -> bool:
        """Whether ``sign`` would add something, found out without opening a key."""
        return any(
            signing.public_of(key) in keyring and key.keyid not in self.part.signatures
            for each in self.signers
            for key in each.keys
        )

    def sign(self, keyring: Keyring) -> list[str]:
        """Sign with every key that may, and write the file; return who signed now.

        Raises:
            ScopeError: one of the keys may not sign it.
            SignatureError: the file was changed after somebody signed it.
            NoSpaceError, StateUnusableError: it cannot be written.
        """
        self.check_keys(keyring)
        self.standings()
        done = [
            n for each in self.signers for n in signing.add_signatures(self.part, each, keyring)
        ]
        if done:
            write_durably(self.path, signing.write(self.part))
        return done


def read(path: Path, root: Path | None, own: Iterable[PublicKey] = ()) -> Passed:
    """Read a file that somebody passed on.

    Args:
        path: The file.
        root: The root that was in force before this one; else it is looked for beside the file.
        own: The keys at hand; a publisher's list does not say itself who may sign it.

    Raises:
        NotFoundError: the file, or the root before it, is not there.
        SignatureError, ScopeError, MalformedError: it was changed, or is not one to sign.
    """
    number, kind = rotation.numbered(path.name)
    data = read_file(path)
    if kind == "root":
        return _root(path, signing.read(data, "root", path.name), root)
    name = publishers.name_of(kind)
    if name is None:
        raise UsageError(
            f"{path.name} is neither a root nor a publisher's list",
            hint="a bundle's list is signed with its bundle: appliance bundle sign BUNDLE",
        )
    found = publishers.read_list(data, path.name, name)
    if found.version != number:
        raise MalformedError(f"{path.name} calls itself version {found.version}")
    keys = tuple(signing.tuf_key(key) for key in own)
    signers = Signers(kind, max(1, len(keys)), keys)
    return Passed(path, found.part, (signers,), tuple(lines(None, found.part)))


def draft_list(
    path: Path,
    files: Mapping[str, bytes],
    last: Path | None,
    own: Iterable[PublicKey],
    now: datetime.datetime,
) -> Passed:
    """Draft a publisher's next list: what it approved before, and what its own bundle names.

    Args:
        path: Where it is to be written; ``publisher-NAME.json`` in the folder to put it in.
        files: The ``tuf/`` of a bundle that the publisher built; its signatures are not looked at.
        last: The list that was handed over last.
        own: The keys that will sign it.
        now: When it is issued.

    Raises:
        UsageError: there is nothing of this publisher in it.
        IncompleteError: there is no list in the bundle.
    """
    name = path.name.removesuffix(".json").removeprefix("publisher-")
    before = None if last is None else publishers.read_list(read_file(last), last.name, name)
    mine = {p: t for p, t in _listed(files).items() if p.startswith(f"models/{name}/")}
    if not mine:
        raise UsageError(f"there are no models of {name} in it (models/{name}/…)")
    old = {} if before is None else dict(before.part.signed.targets)
    version = 1 if before is None else before.version + 1
    part = publishers.new_list(name, version, [*{**old, **mine}.values()], now)
    keys = tuple(signing.tuf_key(key) for key in own)
    signers = Signers(publishers.role_of(name), max(1, len(keys)), keys)
    says = lines(None if before is None else before.part, part)
    return Passed(path.with_name(f"{version}.{path.name}"), part, (signers,), tuple(says))


def _listed(files: Mapping[str, bytes]) -> dict[str, TargetFile]:
    numbers = [n for n, kind in map(rotation.numbered, files) if kind == "targets"]
    if not numbers:
        raise IncompleteError("that bundle holds no list (tuf/N.targets.json)")
    name = f"{max(numbers)}.targets.json"
    return dict(signing.read(files[name], "targets", name).signed.targets)


def lines(before: Part | None, after: Part) -> list[str]:
    """Return what a publisher's list approves that the one before did not, and the reverse."""
    old = {} if before is None else before.signed.targets
    new = after.signed.targets
    changed = [path for path in sorted(old.keys() | new.keys()) if old.get(path) != new.get(path)]
    return [
        f"+ {path}  sha256:{new[path].hashes['sha256']}  {new[path].length} bytes"
        if path in new
        else f"- {path}"
        for path in changed
    ]


def read_file(path: Path) -> bytes:
    """Return a small file that somebody carried here.

    Raises:
        NotFoundError: it is not there.
        MalformedError: it is too large to be one of ours.
    """
    try:
        with translated(f"reading {path}"), path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {path}") from error
    if len(data) > _MAX_BYTES:
        raise MalformedError(f"{path} has more than {_MAX_BYTES} bytes")
    return data


def _root(path: Path, part: Part, given: Path | None) -> Passed:
    root: Root = part.signed
    rotation.check(root)
    before = None if root.version == 1 else _before(path, root.version - 1, given)
    signers = rotation.signers(root, before)
    when = f"issued {signing.issued(part, path.name):%Y-%m-%d}, until {root.expires:%Y-%m-%d}"
    says = [f"root {root.version} of {rotation.org_of(root)}, {rotation.fingerprint(part)}", when]
    if before is not None:
        says += rotation.changes(before, root)
    says += rotation.describe(root)
    return Passed(path, part, signers, tuple(says))


def _before(path: Path, number: int, given: Path | None) -> Root:
    name = f"{number}.root.json"
    beside = [path.parent / name, path.parent / "metadata" / name]
    for candidate in [given] if given else beside:
        if candidate.exists():
            root: Root = signing.read(read_file(candidate), "root", name).signed
            if root.version != number:
                raise MalformedError(f"{candidate} is root {root.version}, not {number}")
            return root
    raise NotFoundError(
        f"{path.name} is signed by the keys of {name} too, and that is not here",
        hint=f"put {name} beside it, or name it: --root FILE",
    )
