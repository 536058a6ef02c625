"""The process driver: engines as child processes that outlive the controller.

Each replica has a keeper. An engine that runs when the driver opens is adopted by its record.
"""

import asyncio
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from appliance.core.model import Replica
from appliance.core.state import ObservedReplica
from appliance.kit.files import make_folder
from appliance.runtime import record
from appliance.runtime.keeper import (
    Keeper,
    KeeperContext,
    ProcessSettings,
    clean_up,
    installed_launcher,
)
from appliance.runtime.profile import profiles
from appliance.runtime.record import EngineRecord

log = logging.getLogger(__name__)

_FIRST_UID = 61184
"""The first of the numbers that systemd sets aside for users without a name (DynamicUser)."""

_left_running: list[subprocess.Popen[bytes]] = []
"""Engines outlive the driver that started them; Python must not take that for a leak."""


class ProcessDriver:
    """Runs replicas as processes on this machine. See ``driver.Driver`` for its promises."""

    honours: frozenset[str] = frozenset()

    def __init__(
        self, state: Path, weights: Callable[[Replica], Path], settings: ProcessSettings
    ) -> None:
        """``weights`` returns the file that a replica's engine opens."""
        self._state = state
        self._settings = settings
        self._weights = weights
        self._changed: Callable[[], None] = lambda: None
        self._keepers: dict[str, Keeper] = {}

    async def open(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        for folder in ("run/engines", "run/e", "log"):
            make_folder(self._state / folder)
        await asyncio.to_thread(record.settle, self._state)
        for found in record.running(self._state):
            log.info("adopting %s, pid %d", found.replica.id, found.process.pid)
            await self._keep(found.replica, found).adopt()

    async def start(self, replica: Replica) -> None:
        if replica.id not in self._keepers:
            installed_launcher(profiles()[replica.engine], self._settings)
            self._keep(replica, None)

    async def stop(self, replica_id: str) -> None:
        keeper = self._keepers.get(replica_id)
        if keeper is not None:
            keeper.stop()

    def observe(self) -> Mapping[str, ObservedReplica]:
        return {name: keeper.observe() for name, keeper in self._keepers.items()}

    async def empty(self) -> list[str]:
        """Stop all that runs, each when it has answered what it works on; return the replicas."""
        keepers = dict(self._keepers)
        for keeper in keepers.values():
            keeper.stop()
        tasks = [keeper.task for keeper in keepers.values() if keeper.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        return sorted(keepers)

    async def close(self) -> None:
        tasks = [keeper.task for keeper in self._keepers.values() if keeper.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        _left_running.extend(k.child for k in self._keepers.values() if k.child is not None)
        self._keepers.clear()

    def _keep(self, replica: Replica, found: EngineRecord | None) -> Keeper:
        taken = {keeper.uid for keeper in self._keepers.values()}
        taken.add(None if found is None else found.uid)
        uid = None
        if os.geteuid() == 0:
            uid = (
                found.uid if found else next(n for n in range(_FIRST_UID, 65520) if n not in taken)
            )
        context = KeeperContext(self._state, self._settings, self._weights, self._changed)
        keeper = Keeper(replica, found, uid, context)
        self._keepers[replica.id] = keeper
        keeper.task = asyncio.create_task(keeper.run(), name=f"keeper of {replica.id}")
        keeper.task.add_done_callback(lambda task: self._gone(replica.id, task))
        return keeper

    def _gone(self, replica_id: str, task: "asyncio.Task[None]") -> None:
        if task.cancelled():
            return
        if task.exception() is not None:
            log.error("the keeper of %s failed", replica_id, exc_info=task.exception())
        self._keepers.pop(replica_id, None)
        self._changed()


def end_all(state: Path, grace_s: float = 5.0) -> list[str]:
    """End every engine of a state folder, whoever started it; return their replicas."""
    record.settle(state)
    found = list(record.running(state))
    for engine in found:
        engine.process.signal(signal.SIGTERM)
    for engine in found:
        if not engine.process.wait(grace_s):
            engine.process.signal(signal.SIGKILL)
            engine.process.wait(grace_s)
    for path in (state / "run" / "engines").glob("*.json"):
        clean_up(state, path.stem)
    return [engine.replica.id for engine in found]
