"""The node's loops around its store: one looks and makes room, one reads blobs again, slowly."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

from appliance.cache.care import CacheCare
from appliance.cache.scrub import IdleThread
from appliance.core.state import DeploymentStatus
from appliance.kit.loop import Again
from appliance.node.board import Board
from appliance.node.retention import Retaining

_LOOK_S = 60.0


class Caretaker:
    """Looks after the store of a node that runs."""

    def __init__(
        self, care: CacheCare, retaining: Retaining, board: Board,
        changed: Callable[[], Awaitable[None]],
    ) -> None:  # fmt: skip
        """``changed`` is called when other variants than before may run."""
        self._care = care
        self._retaining = retaining
        self._board = board
        self._changed = changed
        self._thread = IdleThread("scrub")

    async def tend(self) -> Again:
        """Note what is used, notice what is lost, remove what is due."""
        statuses = self._board.world.statuses
        if await asyncio.wrap_future(self._thread.submit(partial(self._tend, statuses))):
            await self._changed()
        return Again(_LOOK_S)

    async def scrub(self) -> Again:
        """Read on; say when the next step keeps the pace that was set."""
        began = time.monotonic()
        stepped = await asyncio.wrap_future(self._thread.submit(self._care.scrub.step))
        if stepped.changed:
            await self._changed()
        if not stepped.more:
            return Again(_LOOK_S)
        pace_s = stepped.count / self._care.inventory.settings.scrub_bytes_per_s
        return Again(max(0.0, pace_s - (time.monotonic() - began)))

    def close(self) -> None:
        """Let the step that is under way end."""
        self._thread.close()

    def _tend(self, statuses: tuple[DeploymentStatus, ...]) -> bool:
        self._retaining.note(statuses)
        changed = self._care.health.look()
        self._care.collector.tend()
        return changed
