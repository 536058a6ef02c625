"""The node's small loops around the controller: passes, usage, machine facts."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from appliance.core.machine import MachineFacts
from appliance.errors import ApplianceError, NoSpaceError
from appliance.kit.loop import Again, Wake
from appliance.kit.reserve import Reserve
from appliance.ledger.db import Ledger
from appliance.node import spool

log = logging.getLogger(__name__)
_SPOOL_S = 0.5
_MACHINE_S = 60.0
_DISK_S = 2.0


class Passes:
    """Reconcile passes, one at a time, whether the loop or a person asks for one."""

    def __init__(self, reconcile: Callable[[], Awaitable[Again | None]], wake: Wake) -> None:
        self._reconcile = reconcile
        self._wake = wake
        self._one = asyncio.Lock()
        self.count = 0
        """How many came to an end; one that reported that an action failed is one of them."""

    async def __call__(self) -> Again | None:
        """Make a pass; what it raises makes the loop repeat it."""
        async with self._one:
            try:
                again = await self._reconcile()
            except ApplianceError:
                self.count += 1
                raise
            self.count += 1
            return again

    async def now(self) -> None:
        """Make a pass before returning, so that whoever asked sees its result."""
        with contextlib.suppress(ApplianceError):  # reported as a condition; the loop repeats it
            await self()
        self._wake.set()


class MachineWatch:
    """The newest reading of the machine; looking takes a thread, asking takes nothing."""

    def __init__(self, probe: Callable[[], MachineFacts]) -> None:
        self._probe = probe
        self._facts = probe()

    def __call__(self) -> MachineFacts:
        """Return the newest reading."""
        return self._facts

    async def look(self) -> Again:
        """Read the machine again."""
        self._facts = await asyncio.to_thread(self._probe)
        return Again(_MACHINE_S)


class UsageLoop:
    """Takes in what gateways spooled; on a full disk it is what the reserve is for."""

    def __init__(
        self,
        folder: Path,
        ledger: Ledger,
        reserve: Reserve,
        heard: Callable[[Mapping[str, Any]], object] = lambda _: None,
    ) -> None:
        """``heard`` is told, on a thread, of each record that was taken in."""
        self._folder = folder
        self._ledger = ledger
        self._reserve = reserve
        self._heard = heard

    async def look(self) -> Again:
        """Take in what is new."""
        try:
            await asyncio.to_thread(spool.take_in, self._folder, self._ledger, heard=self._heard)
            await asyncio.to_thread(self._reserve.restore)
        except NoSpaceError:
            self._reserve.use()
            raise
        return Again(_SPOOL_S)


class DiskLoop:
    """Gives the reserve up when the disk is full, and takes it back when there is room again.

    Whoever writes next to nothing would else notice a full disk only when an effect is lost.
    """

    def __init__(self, reserve: Reserve) -> None:
        self._reserve = reserve

    async def look(self) -> Again:
        """Look once."""
        await asyncio.to_thread(self._reserve.use_if_full)
        await asyncio.to_thread(self._reserve.restore)
        return Again(_DISK_S)
