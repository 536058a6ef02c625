"""What an organisation approves, signed with the keys at hand. Nothing here runs on a node.

With ``--solo`` one folder holds everything and signs in one go; that is the smallest honest
arrangement: root 1 of 2 (one key belongs in a safe), targets 1. With several people a list leaves
this folder unfinished, is signed by them in turn (``ceremony``), and comes back (``arrivals``).
"""

import copy
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuf.api.metadata import TargetFile, Targets

from appliance.core.ids import Digest, hex_of
from appliance.errors import NotFoundError, StateUnusableError, UsageError
from appliance.trust import declarations, publishers, rotation, signing
from appliance.trust.ceremony import ORDER, PREVIOUS, Ceremony, Finished
from appliance.trust.declarations import DIRECTOR_PATH
from appliance.trust.folder import KeysFolder, org_name
from appliance.trust.keys import Keyring, Passphrase, create_pair
from appliance.trust.publishers import Publisher, PublisherList
from appliance.trust.rotation import Arrangement
from appliance.trust.signing import LIFETIMES, Standing

__all__ = [
    "DIRECTOR_PATH",
    "LIFETIMES",
    "SOLO_KEYS",
    "NewTarget",
    "Published",
    "Repository",
    "org_name",
]

SOLO_KEYS = {"root": ["root-1", "root-2"], "targets": ["targets-1"], "timestamp": ["timestamp-1"]}


@dataclass(frozen=True, slots=True)
class NewTarget:
    """Something to approve: the path it is approved under, and what its bytes must be."""

    path: str
    digest: Digest
    length: int
    media_type: str


@dataclass(frozen=True, slots=True)
class Published:
    """Metadata to put into a bundle, by file name, and the small targets it refers to.

    ``standings`` say who has signed; while one lacks signatures the bundle is unfinished.
    """

    files: Mapping[str, bytes]
    documents: Mapping[str, bytes]
    standings: tuple[Standing, ...]

    @property
    def finished(self) -> bool:
        """Whether nodes will take it."""
        return not any(standing.missing for standing in self.standings)


class Repository:
    """An organisation, as one of its keys folders knows it."""

    def __init__(self, folder: Path, passphrase: Passphrase | None = None) -> None:
        """Look at a folder.

        Args:
            folder: The keys folder.
            passphrase: Asked for each private key in it that has one and is to sign.
        """
        self.folder = folder
        self.files = KeysFolder(folder)
        self.passphrase = passphrase

    @classmethod
    def init_solo(cls, folder: Path, org: str, now: datetime.datetime) -> "Repository":
        """Make keys and a first root for one person.

        Raises:
            StateUnusableError: there are keys already, or the folder cannot be written.
        """
        files = KeysFolder.begin(folder, org)
        keys = {
            role: [create_pair(folder / f"{name}.pem") for name in names]
            for role, names in SOLO_KEYS.items()
        }
        part = rotation.first_root(org, Arrangement(keys, {}), now)
        signers = signing.Signers.of(part.signed, "root")
        signing.add_signatures(part, signers, Keyring.of_folder(folder))
        files.keep_root(1, signing.write(part))
        files.name(org)
        return cls(folder)

    @property
    def org(self) -> str:
        """The organisation's name, as every envelope must carry it."""
        return self.files.org

    @property
    def roots(self) -> list[Path]:
        """The root chain, oldest first."""
        return self.files.roots

    def name_director(self, hub: Mapping[str, Any]) -> int:
        """Write which hub may direct this fleet; signed with the next bundle. Return its epoch.

        Another hub, or the same with new keys, begins a new epoch, and must know it: a node
        refuses what was signed under another.

        Args:
            hub: ``{org, epoch, director, sync}`` as ``appliance hub keys`` prints it; ``verbs``
                are what it may command, all of them without it.

        Raises:
            MalformedError: a key or the epoch in it is not one.
            UsageError: it is another organisation's hub, or it is not of a new epoch.
        """
        return declarations.name_director(self.folder, self.org, hub)

    def name_ca(self, pems: Sequence[bytes]) -> int:
        """Write which authorities the hub's TLS may come from; return the epoch."""
        return declarations.name_ca(self.folder, self.org, pems)

    def revoke_digest(self, text: str, why: str, *, stop: bool = False) -> int:
        """Deny a digest from the next bundle on; return the epoch of the list of denials."""
        return declarations.revoke(self.folder, self.org, text, why, stop=stop)

    def add_publisher(self, publisher: Publisher) -> None:
        """Let a publisher approve its own models, from the bundle on that first has its list.

        Raises:
            MalformedError, UsageError: a key is there twice, or belongs to a role of ours.
        """
        publishers.publisher_name(publisher.name)
        publishers.delegations([publisher])
        ours = {signing.public_of(key): key for key in self.files.root.keys.values()}
        for key in publisher.keys:
            if (same := ours.get(key.public)) is not None:
                raise UsageError(f"{key.name} is a key of {self.org}: {signing.holder(same)}")
        self.files.write_publishers({**self.files.publishers, publisher.name: publisher})

    def remove_publisher(self, name: str) -> None:
        """Take a publisher's word away; what it alone approved is listed no more.

        Raises:
            NotFoundError: there is no such publisher.
        """
        known = self.files.publishers
        if known.pop(name, None) is None:
            raise NotFoundError(f"there is no publisher {name}", hint="appliance keys list FOLDER")
        self.files.write_publishers(known)

    def publish(self, targets: list[NewTarget], now: datetime.datetime) -> Published:
        """Approve ``targets`` beside everything approved so far, and sign with the keys at hand.

        With several people the result may lack signatures: then it is to be passed on, and nothing
        else is published until it came back.

        Raises:
            NotFoundError: one person holds all keys, and one is not here.
            StateUnusableError: an earlier list still waits for signatures.
            LockedError: somebody else signs with this folder now.
        """
        with self.files.locked():
            if (number := self.files.waiting) is not None:
                raise StateUnusableError(
                    f"list {number} left {self.folder} and still lacks signatures",
                    hint=f"when it is signed: appliance keys adopt {self.folder} BUNDLE; "
                    f"to give it up: appliance keys discard {self.folder}",
                )
            return self._publish(targets, now)

    def _publish(self, targets: list[NewTarget], now: datetime.datetime) -> Published:
        root, documents = self.files.root, declarations.read_all(self.folder)
        before, lists = self.files.finished, self.files.lists
        signed = self._next_list(before, targets, documents, lists)
        files = {path.name: path.read_bytes() for path in self.roots}
        files |= {held.file: held.data for held in lists.values()}
        if before is not None:
            parts = {role: getattr(before, role) for role in ORDER}
            files |= {f"{PREVIOUS}{role}.json": signing.write(p) for role, p in parts.items()}
        draft = signing.draft(signed, "targets", now)
        files[f"{signed.version}.targets.json"] = signing.write(draft)
        ceremony = Ceremony(files, anchor=self.roots[0].read_bytes(), known=before)
        ceremony.sign(Keyring.of_folder(self.folder, self.passphrase), now)
        standings = tuple(ceremony.standings())
        if ceremony.finished:
            self.files.keep(ceremony)
        elif rotation.is_solo(root):
            self._ask_for_key(standings)
        else:
            self.files.note_draft(signed.version, discarded=False)
        return Published(ceremony.files(), documents, standings)

    def _next_list(
        self,
        before: Finished | None,
        new: list[NewTarget],
        documents: Mapping[str, bytes],
        lists: Mapping[str, PublisherList],
    ) -> Targets:
        signed = Targets() if before is None else copy.deepcopy(before.targets.signed)
        for path in declarations.PATHS:
            signed.targets.pop(path, None)
        for path, data in documents.items():
            signed.targets[path] = TargetFile.from_data(path, data, ["sha256"])
        for target in new:
            listed = _target_file(target)
            if not any(_approves(held, listed) for held in lists.values()):
                signed.targets[target.path] = listed
        named = [each for name, each in self.files.publishers.items() if name in lists]
        signed.delegations = publishers.delegations(named)
        signed.version = self.files.highest_number + 1
        return signed

    def _ask_for_key(self, standings: Sequence[Standing]) -> None:
        first = next(each for each in standings if each.missing)
        raise NotFoundError(
            f"no key at {self.folder / first.may[0]}.pem",
            hint=f"{first.role} is signed with it: put it there for as long as you sign",
        )


def _target_file(new: NewTarget) -> TargetFile:
    custom = {"custom": {"mediaType": new.media_type}}
    return TargetFile(new.length, {"sha256": hex_of(new.digest)}, new.path, custom)


def _approves(held: PublisherList, target: TargetFile) -> bool:
    """Whether a publisher's own list says the same; then its word is enough."""
    found: TargetFile | None = held.part.signed.targets.get(target.path)
    return found == target
