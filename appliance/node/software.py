"""Which controllers this node may run, and who asks for another.

Staging and switching each ask the trust store anew (step 15 of `TRUST.md`): still listed, and not
revoked. The switch itself is made by the supervisor, which is not of the release that asks.
"""

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from appliance.core.ids import Digest
from appliance.errors import ApplianceError, LockedError, NotFoundError, UsageError
from appliance.kit.clock import Clock, rfc3339
from appliance.kit.files import is_locked
from appliance.kit.loop import Again
from appliance.ledger import meta, streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream
from appliance.software import switch as decide
from appliance.software.shelf import VERSION, Shelf, Staged
from appliance.software.staging import digest_of, stage
from appliance.software.switch import Intent, Outcome, Switch, label

PREFIX = "files/controller/"
_LOOK_S = 5.0


class Controllers(Protocol):
    """The controllers that came to this node."""

    def listed(self) -> Mapping[str, Digest]:
        """Return the manifests that top-level targets list now below ``files/controller/``."""

    def require(self, path: str, manifest: Digest, *blobs: Digest) -> None:
        """Step 15: refuse what is not listed under this path any more, or is revoked, in part too.

        Raises:
            DowngradeError, RevokedError, ScopeError: as their names say.
        """

    def files_of(self, path: str) -> list[tuple[str, Path]]:
        """Return the name of each file of an artefact, and the blob that holds it.

        Raises:
            NotFoundError: it did not come to this node, or not all of it.
        """


@dataclass(frozen=True, slots=True)
class Software:
    """The controllers of one node. Blocking: give it a thread."""

    shelf: Shelf
    controllers: Controllers
    clock: Clock

    def stage(self, which: str, tell: Callable[[str], None] = lambda _: None) -> Staged:
        """Make the environment of a version that came; nothing when it is there.

        Args:
            which: A version, or the whole signed path when two names have the same one.
            tell: Told what is being done.

        Raises:
            NotFoundError, UsageError: there is no such one, or more than one.
            RefusedError: it must not run here.
            LockedError, NoSpaceError, StateUnusableError: as their names say.
        """
        path, manifest = self._find(which)
        version = path.rsplit("/", 1)[1]
        there = self.shelf.staged(version)
        if there is not None and (there.path, there.manifest) == (path, manifest):
            self._require(there)
            return there
        if version in self.shelf.read().kept:
            raise UsageError(f"{version} is in use here with other content: a version is made once")
        self.controllers.require(path, manifest)
        files = self.controllers.files_of(path)
        found = Staged(version, path, manifest, tuple(digest_of(blob) for _, blob in files))
        self._require(found)
        stage(self.shelf, found, files, tell)
        return found

    def ask(self, version: str | None, by: str, *, restarts: bool = False) -> Switch:
        """Have the supervisor switch; it looks every half second.

        Raises:
            NotFoundError: it is not staged, or no supervisor runs.
            RefusedError: it must not run here any more.
            LockedError, UsageError: a switch or a staging is under way, or it runs already.
        """
        self.shelf.init()
        self.shelf.require_supervisor()
        if is_locked(self.shelf.staging_lock):
            raise LockedError("a version is being staged", hint="wait for it to end")
        if version is not None:
            self._require(self._staged(version))
        intent = Intent(version, by, rfc3339(self.clock.utc()), restarts)
        return self.shelf.change(partial(decide.ask, intent=intent))

    def back(self, by: str, *, restarts: bool = False) -> Switch:
        """Have the supervisor switch to what ran before.

        Raises:
            ApplianceError: as ``ask``.
        """
        found = self.shelf.read()
        if found.previous == found.current:
            raise NotFoundError("no other version ran here before this one")
        return self.ask(found.previous, by, restarts=restarts)

    def status(self) -> dict[str, Any]:
        """Return what runs, ran, may run, and how the last switch ended."""
        found = self.shelf.read()
        return {
            "current": label(found.current),
            "previous": label(found.previous),
            "next": None if found.next is None else label(found.next.version),
            "last": None if found.last is None else outcome(found.last),
            "number": found.number,
            "supervised": is_locked(self.shelf.supervisor_lock),
            "staged": [{**_shown(s), "refused": self._refused(s)} for s in self.shelf.versions()],
            "listed": sorted(self.controllers.listed()),
        }

    def _refused(self, staged: Staged) -> str:
        try:
            self._require(staged)
        except ApplianceError as error:
            return error.what
        return ""

    def _find(self, which: str) -> tuple[str, Digest]:
        found = {
            path: manifest
            for path, manifest in self.controllers.listed().items()
            if which in (path, path.rsplit("/", 1)[1])
        }
        if not found:
            raise NotFoundError(
                f"no controller {which!r} is listed for this node",
                hint="import the bundle that brings it, then: appliance upgrade status",
            )
        if len(found) > 1:
            raise UsageError(f"{which} may be any of: {', '.join(sorted(found))}")
        ((path, manifest),) = found.items()
        if not VERSION.fullmatch(path.rsplit("/", 1)[1]):
            raise UsageError(f"{path} does not end with a version that begins with a digit")
        return path, manifest

    def _staged(self, version: str) -> Staged:
        staged = self.shelf.staged(version)
        if staged is None:
            raise NotFoundError(
                f"{version!r} is not staged here", hint=f"appliance upgrade stage {version}"
            )
        return staged

    def _require(self, staged: Staged) -> None:
        self.controllers.require(staged.path, staged.manifest, *staged.blobs)


class OutcomeLoop:
    """Tells the hub, once, how each switch ended."""

    def __init__(self, shelf: Shelf, ledger: Ledger, clock: Clock) -> None:
        self._shelf = shelf
        self._ledger = ledger
        self._clock = clock
        self._told = ledger.read(meta.told_switch)

    async def look(self) -> Again:
        """Look whether a switch ended."""
        last = self._shelf.read().last
        if last is not None and last.number > self._told:
            at = rfc3339(self._clock.utc())
            self._ledger.record(lambda db: _tell(db, last, at)).result()
            self._told = last.number
        return Again(_LOOK_S)


def _shown(staged: Staged) -> dict[str, str]:
    return {"version": staged.version, "path": staged.path, "manifest": staged.manifest}


def outcome(found: Outcome) -> dict[str, Any]:
    """Return an outcome as people and the hub read it."""
    return {
        "number": found.number,
        "ok": found.ok,
        "wanted": label(found.wanted),
        "before": label(found.before),
        "by": found.by,
        "why": found.why,
    }


def _tell(db: sqlite3.Connection, found: Outcome, at: str) -> None:
    """Note an outcome in the transaction that remembers that it was noted."""
    if found.number <= meta.told_switch(db):
        return
    kind = "upgraded" if found.ok else "upgrade-failed"
    streams.append(db, Fact(Stream.AUDIT, kind, at, outcome(found)))
    meta.set_told_switch(db, found.number)
