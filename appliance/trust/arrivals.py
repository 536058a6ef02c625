"""What comes into a keys folder from elsewhere: roots, finished lists, publishers' lists.

Each is a file that somebody carried, so each is checked as a node would check it, and taken in only
if it goes on from what is here. Taking the same in twice is harmless.
"""

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import Targets

from appliance.core.ids import Digest, digest
from appliance.errors import (
    DowngradeError,
    EquivocationError,
    IncompleteError,
    NotFoundError,
    StateUnusableError,
    UsageError,
)
from appliance.kit.files import write_durably
from appliance.trust import declarations, metadata, publishers, rotation, signing
from appliance.trust.ceremony import Ceremony
from appliance.trust.folder import KeysFolder
from appliance.trust.keys import Keyring
from appliance.trust.publishers import PublisherList
from appliance.trust.repository import Repository
from appliance.trust.rotation import Arrangement, Rotation
from appliance.trust.signing import Standing

Documents = Callable[[Digest, int], bytes | None]
"""Returns a small blob of a bundle, checked against its digest; None when it is not there."""


@dataclass(frozen=True, slots=True)
class Drafted:
    """A root that was drafted: where it lies, and how far its signing is."""

    path: Path
    standings: tuple[Standing, ...]

    @property
    def in_force(self) -> bool:
        """Whether it needs nobody else's signature."""
        return not any(standing.missing for standing in self.standings)


def init(folder: Path, org: str, arrangement: Arrangement, now: datetime.datetime) -> Drafted:
    """Draft a first root of several people's keys; it is adopted when enough have signed.

    Raises:
        StateUnusableError: there are keys already, or the folder cannot be written.
        MalformedError, UsageError: the arrangement is not one.
    """
    part = rotation.first_root(org, arrangement, now)
    files = KeysFolder.begin(folder, org)
    path = folder / "1.root.json"
    write_durably(path, signing.write(part))
    files.name(org)
    return Drafted(path, tuple(rotation.standings(part, None)))


def join(folder: Path, data: bytes) -> Repository:
    """Make a folder of one's own from a finished root: a place to compare the next lists with.

    Raises:
        SignatureError, MalformedError: it is not a root that vouches for itself.
        StateUnusableError: there is something at ``folder``.
        UsageError: it does not say whose it is.
    """
    number = metadata.root_version(data)
    org = rotation.org_of(signing.read(data, "root", "root").signed)
    if org is None:
        raise UsageError("that root does not say whose it is: it was made by an older release")
    files = KeysFolder.begin(folder, org)
    files.keep_root(number, data)
    files.name(org)
    return Repository(folder)


def rotate(repository: Repository, change: Rotation, now: datetime.datetime) -> Drafted:
    """Draft the next root, and sign it with the root keys that lie here.

    A root with all its signatures is in force at once; any other is passed on, and adopted.

    Raises:
        StateUnusableError: a draft lies here already.
        NotFoundError, MalformedError, UsageError: the change cannot be made.
    """
    files = repository.files
    with files.locked():
        current = files.root
        part = rotation.next_root(current, change, now)
        path = files.path / f"{part.signed.version}.root.json"
        if path.exists():
            raise StateUnusableError(
                f"{path} still lacks signatures",
                hint="have it signed and adopt it, or remove the file to begin again",
            )
        keyring = Keyring.of_folder(files.path, repository.passphrase)
        for delegator in (current, part.signed):
            signing.add_signatures(part, signing.Signers.of(delegator, "root"), keyring)
        standings = tuple(rotation.standings(part, current))
        if any(standing.missing for standing in standings):
            write_durably(path, signing.write(part))
        else:
            path = files.keep_root(part.signed.version, signing.write(part))
        return Drafted(path, standings)


def adopt_root(repository: Repository, data: bytes) -> tuple[int, bool]:
    """Put a root with all its signatures in force; return its number and whether it was new.

    Raises:
        SignatureError: it lacks signatures of the old keys or of its own.
        DowngradeError: one in between is missing.
        EquivocationError, MalformedError, UsageError: it is another's, or not in form.
    """
    files = repository.files
    root = signing.read(data, "root", "root").signed
    rotation.check(root)
    if (theirs := rotation.org_of(root)) not in (None, files.org):
        raise UsageError(f"that root is of {theirs!r}, these keys are of {files.org!r}")
    name = f"{root.version}.root.json"
    with files.locked():
        known = {path.name: path.read_bytes() for path in files.roots}
        if name in known:
            rotation.check_same_root(known[name], data, root.version)
            return root.version, False
        if not known:
            metadata.root_version(data)
        elif rotation.chain_of({**known, name: data})[-1] != data:
            raise DowngradeError(f"{name} does not follow root {files.root.version} directly")
        files.keep_root(root.version, data)
        return root.version, True


def adopt(
    repository: Repository, offered: Mapping[str, bytes], documents: Documents
) -> tuple[int, bool]:
    """Take a finished bundle's metadata in, so that the next list goes on from it.

    Args:
        repository: Whose.
        offered: The bundle's ``tuf/``.
        documents: Reads what it declares under ``trust/``.

    Returns:
        The list's number, and whether it was new here.

    Raises:
        IncompleteError: it still lacks signatures.
        DowngradeError, EquivocationError: it is older than what is here, or another.
        RefusedError: it is not this organisation's, or was changed.
    """
    files = repository.files
    with files.locked():
        _, before = files.root, files.finished
        ceremony = Ceremony(offered, anchor=files.roots[0].read_bytes(), known=before)
        _check_finished(ceremony)
        number = int(ceremony.targets.signed.version)
        if before is not None and before.targets.signed.version == number:
            # Another copy of the same list was finished: its timestamp has a number that is used.
            if ceremony.timestamp_number > before.timestamp.signed.version:
                files.keep(ceremony)
            return number, False
        _take_declarations(files, ceremony.targets.signed, documents)
        files.keep(ceremony)
        return number, True


def take_list(repository: Repository, data: bytes, file: str) -> PublisherList:
    """Keep a publisher's list for the next bundle.

    Raises:
        NotFoundError: no publisher of that name was added.
        SignatureError, ScopeError, MalformedError: it is not signed by its key, or not in form.
        DowngradeError, EquivocationError: an equal or later one was taken already.
    """
    files = repository.files
    name = publishers.name_of(rotation.numbered(file)[1]) or ""
    if name not in files.publishers:
        raise NotFoundError(
            f"{file} is of no publisher that was added",
            hint="appliance keys add-publisher FOLDER NAME --key NAME.pub",
        )
    found = publishers.read_list(data, file, name)
    publishers.check_signed(found, files.publishers[name])
    held = files.lists.get(name)
    newest = max(files.listed_version(name), 0 if held is None else held.version)
    if found.version < newest:
        raise DowngradeError(f"{file} is older than list {newest} of {name}, taken before")
    if held is not None and held.version == found.version:
        if held.part.signed_bytes != found.part.signed_bytes:
            raise EquivocationError(f"another list {found.version} of {name} was taken before")
        return held
    files.keep_list(found)
    return found


def discard(repository: Repository) -> int:
    """Give up the list that left unfinished; its number is never used again. Return it.

    Raises:
        NotFoundError: none did.
    """
    with repository.files.locked():
        if (number := repository.files.waiting) is None:
            raise NotFoundError(f"no list that left {repository.folder} lacks signatures")
        repository.files.note_draft(number, discarded=True)
        return number


def _check_finished(ceremony: Ceremony) -> None:
    for standing in ceremony.standings():
        if standing.missing:
            raise IncompleteError(
                f"{standing.file} still needs {standing.missing} of: {', '.join(standing.may)}",
                hint="appliance bundle sign BUNDLE --key NAME.pem",
            )


def _take_declarations(files: KeysFolder, signed: Targets, documents: Documents) -> None:
    for path in declarations.PATHS:
        listed = signed.targets.get(path)
        if listed is None:
            continue
        data = documents(digest(f"sha256:{listed.hashes['sha256']}"), listed.length)
        if data is not None:
            declarations.take(files.path, files.org, path, data)
