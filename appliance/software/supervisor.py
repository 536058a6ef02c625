"""The parent of a node's controller: it starts it, starts it again, and lets another one try.

A try: copy the ledger, end the old controller (engines and gateway go on), start the new one, and
judge it by what it says of itself. Only one that is fit becomes ``current``. Any other end, a power
cut included, starts the old one again.

This parent is of the installed release and never of a staged one: whatever comes in a bundle is
watched by something that did not. So it does little, and loads little.
"""

import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic

from appliance.errors import ApplianceError, NoSpaceError
from appliance.kit.backoff import growing
from appliance.kit.files import fsync_folder, locked, require_space
from appliance.kit.http import HttpClient
from appliance.kit.reserve import Reserve
from appliance.software import switch as decide
from appliance.software.child import Child, Signals
from appliance.software.gate import Seen, judge
from appliance.software.shelf import Shelf
from appliance.software.switch import Intent, label

log = logging.getLogger(__name__)

BACKUP = "node.db.before"
_ANSWER_S = 5.0
_LOOK_S = 0.5
_GATE_LOOK_S = 0.2
_FAILED_GRACE_S = 5.0
_STABLE_S = 60.0
_OF_ANOTHER_PYTHON = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long what may take."""

    gate_s: float
    hold_s: float
    stop_s: float
    most_backoff_s: float = 30.0


class Supervisor:
    """Runs until it is told to end, or until its controller was."""

    def __init__(
        self, shelf: Shelf, arguments: Sequence[str], socket: Path, installed: str,
        patience: Patience,
    ) -> None:  # fmt: skip
        """``arguments`` make any release's ``appliance`` the controller of this node."""
        self._shelf = shelf
        self._arguments = list(arguments)
        self._installed = installed
        self._patience = patience
        self._client = HttpClient.over_unix(socket, "the controller", "", _ANSWER_S)
        self._signals = Signals()
        self._child: Child | None = None
        self._delays = self._fresh_delays()
        self._start_at = 0.0
        self._is_recovered = False

    def run(self) -> None:
        """Keep the controller up.

        Raises:
            LockedError: another supervisor is here.
            StateUnusableError: the folder cannot be written.
        """
        Reserve(self._shelf.state / "reserve").use_if_full()  # before anything is written
        self._shelf.init()
        with locked(self._shelf.supervisor_lock, what=f"the node in {self._shelf.state}"):
            try:
                while not self._ended():
                    self._look()
            finally:
                if self._child is not None:
                    self._child.end(self._patience.stop_s)

    def _recovered(self, found: decide.Switch) -> decide.Switch:
        whole = self._shelf.staged(found.current) is not None
        return decide.recover(found, self._installed, current_is_whole=whole)

    def _read(self) -> decide.Switch:
        """Return what is in force; at first, what that is after whatever went down before.

        What a full disk cannot hold of that is written down later: the node runs meanwhile.
        """
        if self._is_recovered:
            return self._shelf.read()
        try:
            found = self._shelf.change(self._recovered)
            self._shelf.point()
        except NoSpaceError as error:
            if self._down:
                log.error("the controller runs, and no switch is begun: %s", error)
            return self._recovered(self._shelf.read())
        self._is_recovered = True
        return found

    def _ended(self) -> bool:
        """Wait for something to happen; return whether it is over."""
        wait_s = min(_LOOK_S, max(0.0, self._start_at - monotonic())) if self._down else _LOOK_S
        if self._signals.wait(wait_s):
            return True
        if self._child is None or (status := self._child.status) is None:
            return False
        if status == 0:
            log.info("the controller was told to end, and so this ends too")
            return True
        if monotonic() - self._child.began > _STABLE_S:
            self._delays = self._fresh_delays()
        self._child = None
        delay = next(self._delays)
        self._start_at = monotonic() + delay
        log.warning("the controller %s; again in %.1f s", _how(status), delay)
        return False

    @property
    def _down(self) -> bool:
        return self._child is None

    def _look(self) -> None:
        found = self._read()
        if found.next is not None:
            self._try(found.next)
        elif self._down and monotonic() >= self._start_at:
            self._child = self._started(found.current)

    def _try(self, intent: Intent) -> None:
        log.info("switching to %s, asked for by %s", label(intent.version), intent.by)
        self._shelf.change(decide.begin)
        old = self._child
        try:
            why = self._tried(intent)
        except (ApplianceError, OSError, sqlite3.Error) as error:
            why = f"it could not be tried: {error}"
        self._delays, self._start_at = self._fresh_delays(), 0.0
        if not why:
            self._shelf.change(decide.succeed)
            gone = self._shelf.sweep()
            log.info("%s runs; removed: %s", label(intent.version), ", ".join(gone) or "nothing")
            return
        log.error("switching to %s failed: %s", label(intent.version), why)
        if self._child is not None and self._child is not old:
            self._child.end(_FAILED_GRACE_S)
            self._child = None
        self._shelf.change(partial(decide.fail, why=why))

    def _tried(self, intent: Intent) -> str:
        """Return why the version is not fit; then, whatever was stopped is to be started again."""
        before = self._seen()
        backup(self._shelf.state / "node.db", self._shelf.folder / BACKUP)
        if self._child is not None:
            self._child.end(self._patience.stop_s)
            self._child = None
        self._child = self._started(intent.version)
        if self._child is None:
            return "it could not be started"
        return self._gate(self._child, before, intent)

    def _gate(self, child: Child, before: Seen | None, intent: Intent) -> str:
        version = self._installed if intent.version is None else intent.version
        deadline = monotonic() + self._patience.gate_s
        fit_since: float | None = None
        while not self._signals.wait(_GATE_LOOK_S):
            if (status := child.status) is not None:
                return f"it {_how(status)}"
            verdict = judge(before, self._seen(), version, restarts=intent.restarts)
            if verdict.wrong:
                return verdict.wrong
            fit_since = (fit_since or monotonic()) if verdict.is_fit else None
            if fit_since is not None and monotonic() - fit_since >= self._patience.hold_s:
                return ""
            if monotonic() > deadline:
                return f"{verdict.wait or 'not fit for long'}, after {self._patience.gate_s:.0f} s"
        return "the supervisor was told to end during the try"

    def _seen(self) -> Seen | None:
        try:
            return Seen.read(self._client.call("GET", "/v1/status"))
        except ApplianceError:
            return None

    def _started(self, version: str | None) -> Child | None:
        command = [*self._shelf.program(version), *self._arguments]
        try:
            if version is None:
                child = Child(command, os.environ, None)
            else:  # in a folder without a package of our name, which -m would load
                child = Child(command, without_another_python(os.environ), "/")
        except OSError as error:
            delay = next(self._delays)
            self._start_at = monotonic() + delay
            log.error("%s cannot be started: %s; again in %.1f s", command[0], error, delay)
            return None
        log.info("started %s, pid %d", label(version), child.pid)
        return child

    def _fresh_delays(self) -> Iterator[float]:
        return growing(0.5, self._patience.most_backoff_s)


def backup(database: Path, copy: Path) -> None:
    """Copy a ledger while its owner writes to it; nothing when there is none.

    Nothing ever puts the copy back by itself: it would unsay what was acknowledged since. It is for
    people, should a release that failed have damaged the ledger.

    Raises:
        NoSpaceError: there is no room.
        sqlite3.Error, OSError: it could not be read or written.
    """
    if not database.exists():
        return
    new = copy.with_name(f".{copy.name}.new")
    require_space(copy.parent, 2 * database.stat().st_size, what="a copy of the ledger")
    new.unlink(missing_ok=True)
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT, 0o600))
    try:
        with (
            closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(new)) as target,
        ):
            source.backup(target)
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.rename(copy)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname == "SQLITE_FULL":
            raise NoSpaceError("no space left for a copy of the ledger") from error
        raise
    finally:
        new.unlink(missing_ok=True)
    fsync_folder(copy.parent)


def without_another_python(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment that has a staged release load nothing but its own files."""
    return {k: v for k, v in environment.items() if k not in _OF_ANOTHER_PYTHON}


def _how(status: int) -> str:
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
