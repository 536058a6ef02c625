"""The first thing that runs in an engine's process: it locks, gives up rights, becomes the engine.

Started by the process driver as ``python -m appliance.runtime.launch``, with a LaunchOrder on
standard input. It exits with 75 when the replica runs already.
"""

import fcntl
import importlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from appliance.core import wire
from appliance.core.model import Replica
from appliance.kit.proc import identify
from appliance.runtime.cgroup import memory_group
from appliance.runtime.contain import contain
from appliance.runtime.record import SOCKET_NAME, EngineRecord

ALREADY_RUNS = 75
WEIGHTS_PATH = "/proc/self/fd/9"
"""How the engine opens its model: the launcher opens it, so no folder above it need be readable."""

_WEIGHTS_FD = 9
_LOCK_TRIES, _LOCK_PAUSE_S = 10, 0.02


@dataclass(frozen=True, slots=True)
class LaunchOrder:
    """All that an engine's process is told."""

    replica: dict[str, Any]
    launcher: str
    command: list[str]
    arguments: list[str]
    weights: str
    record: str
    folder: str
    log: str
    group: str
    uid: int | None

    def dump(self) -> bytes:
        """Return what goes to standard input."""
        return wire.dumps(asdict(self))


def main() -> NoReturn:
    """Become the engine."""
    order = LaunchOrder(**wire.loads(sys.stdin.buffer.read(), what="the launch order"))
    # The engine keeps the lock, by a descriptor that cannot write: one that is hostile could name
    # another process in its record, and the controller would end that one in its place.
    lock = os.open(order.record, os.O_RDONLY | os.O_CREAT, 0o600)
    if not _lock(lock):
        sys.exit(ALREADY_RUNS)
    os.set_inheritable(lock, True)
    record = os.open(order.record, os.O_WRONLY)
    _redirect(order)
    serve = _prepare(order)
    limit = _limit_memory(order)
    contained = contain(Path(order.folder), order.uid)
    myself = identify(os.getpid())
    assert myself is not None
    replica = Replica.from_wire(order.replica)
    data = EngineRecord(
        replica, myself, order.launcher, contained.holds, contained.missing, limit, order.uid
    ).dump()
    os.ftruncate(record, 0)
    os.pwrite(record, data, 0)
    os.close(record)
    serve()


def _lock(descriptor: int) -> bool:
    """Take the record's lock; whoever only looks whether it is held holds it for a moment."""
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE_S)
        else:
            return True
    return False


def _redirect(order: LaunchOrder) -> None:
    """Open the weights and the log, and stand in the one folder that stays writable."""
    weights = os.open(order.weights, os.O_RDONLY)
    os.dup2(weights, _WEIGHTS_FD, inheritable=True)
    log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target, inheritable=True)
    folder = Path(order.folder)
    if order.uid is not None:
        os.chown(folder, order.uid, order.uid)
    os.chdir(folder)
    Path(SOCKET_NAME).unlink(missing_ok=True)


def _prepare(order: LaunchOrder) -> Callable[[], NoReturn]:
    """Return what becomes the engine; a Python one is imported while its files can be read."""
    if order.command[1:2] == ["-m"]:
        worker = importlib.import_module(order.command[2])
        serve: Callable[[], NoReturn] = worker.prepare(order.arguments)
        return serve
    program = os.open(order.command[0], os.O_RDONLY)  # so that no folder above it need be readable
    os.set_inheritable(program, True)
    return partial(os.execve, program, [*order.command, *order.arguments], os.environ)


def _limit_memory(order: LaunchOrder) -> str:
    limit: int = order.replica["memory_limit_bytes"]
    group = memory_group(order.group)
    if group is not None:
        try:
            group.join(limit)
        except OSError:
            group.remove()
        else:
            return group.name
    return "watchdog"


if __name__ == "__main__":
    main()
