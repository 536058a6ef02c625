"""Signing a bundle that several people must sign: its files, read and written where it lies.

What to sign and in which order is decided in ``trust/ceremony``; here are the files, and what a
person must see before signing.
"""

import datetime
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.bundle.media.medium import FolderMedium
from appliance.bundle.media.reader import blob_name
from appliance.core import wire
from appliance.core.ids import Digest, digest, hex_of
from appliance.errors import CorruptError, IncompleteError, MalformedError, ScopeError
from appliance.kit.clock import rfc3339
from appliance.kit.files import fsync_folder, translated, write_durably
from appliance.trust import arrivals, passing, rotation, signing
from appliance.trust import ceremony as ceremonies
from appliance.trust.arrivals import Documents
from appliance.trust.ceremony import Ceremony
from appliance.trust.keys import Keyring, Passphrase
from appliance.trust.repository import Repository
from appliance.trust.workflow import CAPS

_MAX_FILES = 2048
_NAME = re.compile(r"[0-9a-z][0-9a-z.-]{0,100}\.json")
_MAX_DOCUMENT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Session:
    """One person in front of one bundle."""

    folder: Path
    ceremony: Ceremony
    keyring: Keyring
    repository: Repository | None
    trusted: bool
    """Whether the root was compared with one that this person keeps."""

    def review(self) -> dict[str, Any]:
        """Return everything that a person must see before signing, and who is next."""
        ceremony, first = self.ceremony, self.ceremony.chain[0]
        anchor = signing.read(first, "root", "root")
        part, known = ceremony.targets, ceremony.known
        before = None if known is None else known.targets
        changed = ceremonies.changes(None if before is None else before.signed, part.signed)
        return {
            "bundle": str(self.folder),
            "org": rotation.org_of(ceremony.root),
            "solo": rotation.is_solo(ceremony.root),
            "root": {
                "version": anchor.signed.version,
                "fingerprint": rotation.fingerprint(anchor),
                "trusted": self.trusted,
            },
            "list": {"number": part.signed.version, **_dates(part)},
            "against": before and {"number": before.signed.version, **_dates(before)},
            "changes": [self._shown(change) for change in changed],
            "publishers": {name: held.version for name, held in ceremony.lists.items()},
            "standings": [standing.to_wire() for standing in ceremony.standings()],
            "finished": ceremony.finished,
            "next": self.next_people(),
        }

    def next_people(self) -> list[str]:
        """Return who may sign next; nobody when it is finished."""
        missing = [each for each in self.ceremony.standings() if each.missing]
        return list(missing[0].may) if missing else []

    def check_keys(self) -> None:
        """Say so when a person brought a key that has no say in this bundle.

        Raises:
            ScopeError: none of them has.
        """
        if self.keyring.publics and not self.ceremony.would_sign(self.keyring):
            names = dict.fromkeys(n for s in self.ceremony.standings() for n in (*s.signed, *s.may))
            raise ScopeError(
                "the keys that you brought sign nothing in this bundle",
                hint=f"its signers are {', '.join(names)}",
            )

    def sign(self, now: datetime.datetime) -> list[tuple[str, str]]:
        """Sign what these keys may, and write it into the bundle; return pairs of file and name.

        A finished bundle is taken into the person's own keys folder.

        Raises:
            NoSpaceError, StateUnusableError: the bundle cannot be written; sign again later.
        """
        done = self.ceremony.sign(self.keyring, now)
        _write(self.folder, self.ceremony.files())
        if self.repository is not None and self.ceremony.finished:
            adopt_bundle(self.repository, self.folder)
        return done

    def _shown(self, change: dict[str, Any]) -> dict[str, Any]:
        """Add what the change means: for a declaration, the very text that nodes will read."""
        if change["bytes"] is None or change["change"] == "removed":
            return change
        data = documents(self.folder)(digest(change["digest"]), change["bytes"])
        if change["path"].startswith("trust/") and data is not None:
            return {**change, "here": True, "document": wire.loads(data, what=change["path"])}
        return {**change, "here": data is not None}


def open_session(
    folder: Path, keys: list[Path], mine: Path | None = None, passphrase: Passphrase | None = None
) -> Session:
    """Look at a bundle with the keys that a person brought.

    Args:
        folder: The bundle.
        keys: Private keys.
        mine: The person's own keys folder: its keys sign too, its root is trusted, and its last
            list is what the new one is compared with. Or just a root that the person trusts.
        passphrase: Asked for each key that is to sign.

    Raises:
        NotFoundError, IncompleteError: there is no bundle, or no list in it.
        RefusedError: what was passed on was changed, or is not this organisation's.
    """
    keyring = Keyring(keys, passphrase)
    anchor, known, repository = None, None, None
    if mine is not None and mine.is_dir():
        repository = Repository(mine, passphrase)
        _ = repository.files.root
        anchor, known = repository.roots[0].read_bytes(), repository.files.finished
        keyring |= Keyring.of_folder(mine, passphrase)
    elif mine is not None:
        anchor = passing.read_file(mine)
    ceremony = Ceremony(metadata_files(folder), anchor=anchor, known=known)
    return Session(folder, ceremony, keyring, repository, anchor is not None)


def to_sign(folder: Path) -> list[str]:
    """Return who must sign a bundle next; nobody when it is finished."""
    return open_session(folder, []).next_people()


def adopt(folder: Path, what: Path) -> str:
    """Take what somebody brought into a keys folder: a root, a publisher's list, or a bundle.

    Returns:
        What happened, in words.

    Raises:
        NotFoundError: there is no such thing.
        RefusedError, UsageError: it does not go on from what is here.
    """
    if what.is_dir():
        number, new = adopt_bundle(Repository(folder), what)
        return f"list {number} is in force here" if new else f"list {number} was here already"
    data = passing.read_file(what)
    if rotation.numbered(what.name)[1] != "root":
        held = arrivals.take_list(Repository(folder), data, what.name)
        return f"list {held.version} of {held.name} goes into the next bundle"
    if not (folder / "org.json").exists():
        joined = arrivals.join(folder, data)
        return f"{folder} follows {joined.org} from root {joined.files.root.version} on"
    number, new = arrivals.adopt_root(Repository(folder), data)
    return f"root {number} is in force here" if new else f"root {number} was here already"


def adopt_bundle(repository: Repository, folder: Path) -> tuple[int, bool]:
    """Take a finished bundle's lists into a keys folder; see ``arrivals.adopt``."""
    return arrivals.adopt(repository, metadata_files(folder), documents(folder))


def metadata_files(folder: Path) -> dict[str, bytes]:
    """Return a bundle's signed metadata, each file capped.

    Raises:
        NotFoundError, IncompleteError: there is none.
        MalformedError, CorruptError: too much, too large, or not a regular file.
    """
    medium = FolderMedium(folder)
    try:
        with translated(f"reading {folder / 'tuf'}"):
            names = sorted(p.name for p in (folder / "tuf").iterdir() if _NAME.fullmatch(p.name))
    except FileNotFoundError as error:
        raise IncompleteError(f"{folder} holds no signed list (tuf/)") from error
    if len(names) > _MAX_FILES:
        raise MalformedError(f"{folder / 'tuf'} holds more than {_MAX_FILES} files")
    return {name: medium.read(f"tuf/{name}", _cap(name)) for name in names}


def documents(folder: Path) -> Documents:
    """Return a reader of a bundle's small blobs; what is not there, or too large, is None."""

    def read(wanted: Digest, length: int) -> bytes | None:
        medium = FolderMedium(folder)
        if length > _MAX_DOCUMENT_BYTES or medium.size(blob_name(wanted)) != length:
            return None
        data = medium.read(blob_name(wanted), length)
        if hashlib.sha256(data).hexdigest() != hex_of(wanted):
            raise CorruptError(
                f"{wanted} in the bundle holds other bytes than the list says",
                hint="sign nothing; ask for the bundle again",
            )
        return data

    return read


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write what changed, the timestamp last: until then no node takes the bundle."""
    tuf = folder / "tuf"
    before = metadata_files(folder)
    for name, data in files.items():
        if before.get(name) != data:
            write_durably(tuf / name, data)
    with translated(f"writing {tuf}"):
        for name in before.keys() - files.keys():
            if name.startswith(ceremonies.PREVIOUS):
                (tuf / name).unlink()
        fsync_folder(tuf)


def _cap(name: str) -> int:
    kinds = [kind for kind in ("root", "timestamp", "snapshot") if kind in name.split(".")]
    return CAPS[kinds[0] if kinds else "targets"]


def _dates(part: signing.Part) -> dict[str, str]:
    issued = signing.issued(part, "list")
    return {"issued": rfc3339(issued), "expires": rfc3339(part.signed.expires)}
