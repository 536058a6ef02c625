"""The files of an organisation's keys folder: what is in force, what is to come, what went out.

``metadata/`` holds the root chain and every signed list; ``timestamp.json`` there says which set is
in force. Beside it lie what is declared (``director.json`` …), ``publishers.json``, the drafts of
new roots, ``draft.json`` (the number of a list that left unfinished), and private keys, if any.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tuf.api.metadata import Root

from appliance.core import wire
from appliance.core.ids import NAME_ALLOWED, NAME_PATTERN
from appliance.errors import NotFoundError, StateUnusableError, UsageError
from appliance.kit.files import locked, make_folder, translated, write_durably
from appliance.trust import publishers, signing
from appliance.trust.ceremony import Ceremony, Finished
from appliance.trust.keys import PublicKey
from appliance.trust.publishers import Publisher, PublisherList


class KeysFolder:
    """What lies in a keys folder. It decides nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._metadata = path / "metadata"

    @classmethod
    def begin(cls, path: Path, org: str) -> "KeysFolder":
        """Make an empty folder; it is an organisation's once ``name`` was written.

        Raises:
            StateUnusableError: there are keys already, or the folder cannot be written.
        """
        if (path / "metadata").exists():
            raise StateUnusableError(
                f"{path} holds an organisation's keys already",
                hint="keys are never overwritten; name another folder",
            )
        org_name(org)
        make_folder(path, mode=0o700)
        make_folder(path / "metadata")
        return cls(path)

    def name(self, org: str) -> None:
        """Write whose folder it is."""
        write_durably(self.path / "org.json", wire.dumps({"org": org}))

    @property
    def org(self) -> str:
        """The organisation's name, as every envelope must carry it."""
        try:
            found = wire.loads((self.path / "org.json").read_bytes(), what="org.json")
        except OSError as error:
            raise NotFoundError(
                f"{self.path} holds no organisation's keys",
                hint=f"appliance keys init {self.path} …, or to compare with what others sign: "
                f"appliance keys adopt {self.path} 1.root.json",
            ) from error
        return str(found["org"])

    @property
    def roots(self) -> list[Path]:
        """The root chain, oldest first."""
        return sorted(self._metadata.glob("*.root.json"), key=lambda p: int(p.name.split(".")[0]))

    @property
    def root(self) -> Root:
        """The root in force.

        Raises:
            NotFoundError: there is none yet.
        """
        _ = self.org
        if not self.roots:
            raise NotFoundError(
                f"the first root of {self.path} lacks signatures",
                hint=f"appliance keys sign {self.path / '1.root.json'} --key NAME.pem, "
                f"by each holder; then appliance keys adopt {self.path} 1.root.json",
            )
        path = self.roots[-1]
        found: Root = signing.read(path.read_bytes(), "root", path.name).signed
        return found

    @property
    def finished(self) -> Finished | None:
        """The last set that had all its signatures."""
        path = self._metadata / "timestamp.json"
        if not path.exists():
            return None
        found = {"timestamp": path.read_bytes()}
        stamp = signing.read(found["timestamp"], "timestamp", path.name).signed
        name = f"{stamp.snapshot_meta.version}.snapshot.json"
        found["snapshot"] = (self._metadata / name).read_bytes()
        meta = signing.read(found["snapshot"], "snapshot", name).signed.meta["targets.json"]
        found["targets"] = (self._metadata / f"{meta.version}.targets.json").read_bytes()
        return Finished.read(found)

    @property
    def publishers(self) -> dict[str, Publisher]:
        """Who is to approve models of their own, whether a list has named them yet or not."""
        path = self.path / "publishers.json"
        if not path.exists():
            return {}
        found = json.loads(path.read_bytes())
        return {
            name: Publisher(
                name, tuple(PublicKey(**key) for key in entry["keys"]), entry["threshold"]
            )
            for name, entry in found.items()
        }

    @property
    def lists(self) -> dict[str, PublisherList]:
        """The newest list of each publisher that handed one over, signed by the keys it has now."""
        known = self.publishers
        files = {p.name: p.read_bytes() for p in self._metadata.glob("*.publisher-*.json")}
        found = publishers.newest_lists(files, known)
        return {n: held for n, held in found.items() if publishers.is_signed(held, known[n])}

    @property
    def highest_number(self) -> int:
        """The highest number that a list of this folder was ever given, finished or not."""
        before = self.finished
        given = int(self._note().get("targets", 0))
        return given if before is None else max(given, before.targets.signed.version)

    @property
    def waiting(self) -> int | None:
        """The number of the list that left this folder unfinished and has not come back."""
        note = self._note()
        return None if note.get("discarded", True) else int(note["targets"])

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one who signs.

        Raises:
            LockedError: somebody else signs with it now.
        """
        with locked(self.path / ".lock", what=f"the keys folder {self.path}"):
            yield

    def keep_root(self, number: int, data: bytes) -> Path:
        """Put a root in force; its draft is over."""
        path = self._metadata / f"{number}.root.json"
        write_durably(path, data)
        (self.path / path.name).unlink(missing_ok=True)
        return path

    def keep_list(self, found: PublisherList) -> None:
        """Keep a publisher's list for the next bundle."""
        write_durably(self._metadata / found.file, found.data)

    def keep(self, ceremony: Ceremony) -> None:
        """Make a finished set the one to go on from; the timestamp comes last and decides."""
        for name, data in ceremony.files().items():
            write_durably(self._metadata / name, data)
        pending = {n: p for n, p in self.publishers.items() if n not in self.lists}
        self.write_publishers({**pending, **ceremony.publishers})
        number = ceremony.targets.signed.version
        if number >= int(self._note().get("targets", 0)):
            with translated(f"removing the draft in {self.path}"):
                (self.path / "draft.json").unlink(missing_ok=True)

    def listed_version(self, name: str) -> int:
        """Return the version of a publisher's list that nodes may have; 0 for none."""
        before = self.finished
        entry = before and before.snapshot.signed.meta.get(f"{publishers.role_of(name)}.json")
        return entry.version if entry else 0

    def write_publishers(self, found: Mapping[str, Publisher]) -> None:
        """Write who is to approve models of their own."""
        if found == self.publishers:
            return
        document = {
            name: {
                "threshold": each.threshold,
                "keys": [{"name": key.name, "public": key.public} for key in each.keys],
            }
            for name, each in found.items()
        }
        write_durably(self.path / "publishers.json", wire.dumps(document))

    def note_draft(self, number: int, *, discarded: bool) -> None:
        """Remember the number of a list that left unfinished, or was given up."""
        note = {"targets": number, "discarded": discarded}
        write_durably(self.path / "draft.json", wire.dumps(note))

    def _note(self) -> dict[str, Any]:
        path = self.path / "draft.json"
        return wire.loads(path.read_bytes(), what=path.name) if path.exists() else {}


def org_name(text: str) -> str:
    """Return ``text`` as an organisation's name.

    Raises:
        UsageError: it is not one.
    """
    if not re.fullmatch(NAME_PATTERN, text):
        raise UsageError(f"{text!r} is not an organisation's name: {NAME_ALLOWED}")
    return text
