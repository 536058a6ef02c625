"""``software/`` of the state folder: staged versions, and the file that says which one runs.

``switch.json`` is the truth, replaced in one durable rename. The link ``current`` follows it, for
people and units; it is absent while the installed release runs.
"""

import contextlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.core import wire
from appliance.core.ids import Digest
from appliance.errors import NotFoundError, PeerUnreachableError
from appliance.kit.files import (
    fsync_folder,
    is_locked,
    locked,
    make_folder,
    translated,
    write_durably,
)
from appliance.software.switch import Outcome, Switch, label

VERSION = re.compile(r"[0-9][A-Za-z0-9._+-]{0,63}")
"""Begins with a digit, so that no version is named like a file of ours."""

MARK = "staged.json"
_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Staged:
    """An environment that was finished: what it was made of, and who vouched for that."""

    version: str
    path: str
    manifest: Digest
    blobs: tuple[Digest, ...] = ()


class Shelf:
    """The folder of one node. Several processes may use it at a time."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.folder = state / "software"
        self._file = self.folder / "switch.json"

    def init(self) -> None:
        """Make the folder; harmless when it is there."""
        make_folder(self.folder)

    def read(self) -> Switch:
        """Return what is in force."""
        try:
            return Switch.load(self._file.read_bytes())
        except FileNotFoundError:
            return Switch()

    def change(self, change: Callable[[Switch], Switch]) -> Switch:
        """Replace what is in force durably; what ``change`` raises leaves it as it was.

        Raises:
            NoSpaceError, StateUnusableError: as ``write_durably``.
        """
        with locked(self.folder / "switch.lock", what="the switch", wait=True):
            switch = change(before := self.read())
            if switch.current != before.current:
                self._point(switch.current)  # before the truth: whoever sees that sees this too
            if switch != before:
                write_durably(self._file, switch.dump())
            return switch

    def point(self) -> None:
        """Have the link ``current`` follow what is in force; a power cut may have parted them."""
        self._point(self.read().current)

    def _point(self, version: str | None) -> None:
        link = self.folder / "current"
        with translated(f"replacing {link}"):
            if version is None:
                link.unlink(missing_ok=True)
            else:
                new = self.folder / ".current.new"
                new.unlink(missing_ok=True)
                new.symlink_to(version)
                new.rename(link)
            fsync_folder(self.folder)

    def place(self, version: str) -> Path:
        """Return the folder of a version."""
        return self.folder / version

    def staged(self, version: str | None) -> Staged | None:
        """Return what a version was made of; None when it is not there or was not finished."""
        if version is None or not VERSION.fullmatch(version):
            return None
        try:
            found = wire.loads((self.place(version) / MARK).read_bytes(), what=MARK)
            blobs = tuple(Digest(str(blob)) for blob in found["blobs"])
            return Staged(version, str(found["path"]), Digest(str(found["manifest"])), blobs)
        except (FileNotFoundError, KeyError, TypeError):
            return None

    def mark(self, staged: Staged) -> None:
        """Say durably that an environment is finished."""
        body = {name: getattr(staged, name) for name in staged.__slots__}
        write_durably(self.place(staged.version) / MARK, wire.dumps(body))
        fsync_folder(self.folder)

    def versions(self) -> list[Staged]:
        """Return all that is staged, by version."""
        found = (self.staged(path.name) for path in sorted(self._folders()))
        return [staged for staged in found if staged is not None]

    def program(self, version: str | None) -> list[str]:
        """Return the command line of a version's ``appliance``."""
        if version is None:
            return [sys.executable, "-m", "appliance"]
        return [str(self.place(version) / "bin" / "appliance")]

    def sweep(self) -> list[str]:
        """Remove the versions that nobody needs; return them.

        A process that was started from one still loads files from there: an engine that runs since
        before the last switch, or a gateway. So those stay until it has ended.
        """
        gone = []
        for folder in self._folders():
            if folder.name not in self.read().kept and not _is_used(folder):
                (folder / MARK).unlink(missing_ok=True)
                shutil.rmtree(folder, ignore_errors=True)
                gone.append(folder.name)
        return gone

    def remove(self, version: str) -> None:
        """Remove one version, finished or not."""
        shutil.rmtree(self.place(version), ignore_errors=True)

    @property
    def supervisor_lock(self) -> Path:
        """The lock that a supervisor holds for as long as it lives."""
        return self.folder / "supervisor.lock"

    @property
    def staging_lock(self) -> Path:
        """The lock that whoever stages a version holds."""
        return self.folder / "staging.lock"

    def require_supervisor(self) -> None:
        """Refuse what only a supervisor could carry out.

        Raises:
            NotFoundError: none runs.
        """
        if not is_locked(self.supervisor_lock):
            raise NotFoundError(
                "no supervisor runs here, so nothing could bring this version back",
                hint=f"start the node with: appliance node supervise --state-dir {self.state}",
            )

    def wait(self, after: int, at_most_s: float) -> Outcome:
        """Return the outcome that follows the one with this number.

        Raises:
            PeerUnreachableError: there is none in time.
        """
        deadline = time.monotonic() + at_most_s
        while (found := self.read()).last is None or found.last.number <= after:
            if time.monotonic() > deadline:
                wanted = "nothing" if found.next is None else label(found.next.version)
                raise PeerUnreachableError(
                    f"the switch to {wanted} did not end within {at_most_s:.0f} s",
                    hint="see the supervisor's log, then: appliance upgrade status",
                )
            time.sleep(_LOOK_S)
        return found.last

    def _folders(self) -> Iterator[Path]:
        with contextlib.suppress(FileNotFoundError):
            yield from (
                path
                for path in list(self.folder.iterdir())
                if VERSION.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
            )


def _is_used(folder: Path) -> bool:
    """Whether a process runs from a folder: by its command line, or by what it has mapped."""
    mark = os.fsencode(f"{folder.resolve()}/")
    plain = os.fsencode(f"{folder}/")
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "maps"):
            with contextlib.suppress(OSError):
                data = (process / name).read_bytes()
                if mark in data or plain in data:
                    return True
    return False
