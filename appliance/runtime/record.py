"""One file for each engine: who it is, and, by its lock, whether it runs.

The engine itself holds an exclusive lock on its record for as long as it lives, inherited through
exec. So one replica can never run twice, however a controller died, and a controller that comes
back finds what runs without guessing from process lists.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.core import wire
from appliance.core.model import Replica
from appliance.errors import ApplianceError, MalformedError, StateUnusableError
from appliance.kit.files import is_locked
from appliance.kit.proc import ProcessId

_SOCKET_PATH_MAX = 107
SOCKET_NAME = "e.sock"


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """What an engine wrote about itself when it had given up its rights."""

    replica: Replica
    process: ProcessId
    launcher: str
    holds: tuple[str, ...]
    missing: tuple[str, ...]
    memory_limit: str
    uid: int | None

    def dump(self) -> bytes:
        """Return the file's content."""
        return wire.dumps(
            {
                "replica": self.replica.to_wire(),
                "pid": self.process.pid,
                "start": self.process.start,
                "launcher": self.launcher,
                "holds": self.holds,
                "missing": self.missing,
                "memory_limit": self.memory_limit,
                "uid": self.uid,
            }
        )

    @classmethod
    def load(cls, data: bytes) -> "EngineRecord":
        """Return the record in a file's content.

        Raises:
            MalformedError, KeyError, TypeError: it is not complete.
        """
        found: dict[str, Any] = wire.loads(data, what="an engine's record")
        pid, start = found["pid"], found["start"]
        if not isinstance(pid, int) or not isinstance(start, int):
            raise MalformedError("an engine's record does not name a process")
        return cls(
            Replica.from_wire(found["replica"]),
            ProcessId(pid, start),
            found["launcher"],
            tuple(found["holds"]),
            tuple(found["missing"]),
            found["memory_limit"],
            found["uid"],
        )


@dataclass(frozen=True, slots=True)
class EnginePaths:
    """Where one engine's things lie, below ``run/`` and ``log/`` of the state folder."""

    record: Path
    folder: Path
    log: Path

    @property
    def socket(self) -> Path:
        """Where it answers."""
        return self.folder / SOCKET_NAME


def paths(state: Path, replica_id: str) -> EnginePaths:
    """Return where one engine's things lie; the socket's folder has a short name.

    Raises:
        StateUnusableError: a socket's path would be longer than the kernel takes.
    """
    short = hashlib.sha256(replica_id.encode()).hexdigest()[:8]
    folder = state / "run" / "e" / short
    if len(os.fsencode(folder / SOCKET_NAME)) > _SOCKET_PATH_MAX:
        raise StateUnusableError(
            f"the path of {state} is too long for the sockets below it",
            hint=f"use a state folder of at most {_SOCKET_PATH_MAX - 26} characters",
        )
    return EnginePaths(
        state / "run" / "engines" / f"{replica_id}.json",
        folder,
        state / "log" / f"{replica_id}.log",
    )


def settle(state: Path, at_most_s: float = 2.0) -> None:
    """Wait until every engine that is being launched has written who it is, or is gone.

    Between its lock and its record lie some milliseconds in which nobody could adopt or end it.
    """
    deadline = time.monotonic() + at_most_s
    folder = state / "run" / "engines"
    while any(is_locked(path) and _alive(path) is None for path in folder.glob("*.json")):
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)


def running(state: Path) -> Iterator[EngineRecord]:
    """Yield the record of every engine that runs now; stale records are passed over."""
    for path in sorted((state / "run" / "engines").glob("*.json")):
        if is_locked(path) and (found := _alive(path)) is not None:
            yield found


def _alive(path: Path) -> EngineRecord | None:
    """Return the record of an engine that is alive; an earlier engine's may still stand there."""
    with contextlib.suppress(ApplianceError, KeyError, TypeError, OSError):
        found = EngineRecord.load(path.read_bytes())
        return found if found.process.is_alive() else None
    return None
