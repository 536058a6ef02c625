"""Bundles that come to this node: from a folder at once, over the network in the site's hours."""

import asyncio
import datetime
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.bundle.media import roads
from appliance.bundle.media.medium import FolderMedium
from appliance.bundle.media.pace import pace_of, patiently, windows_of
from appliance.bundle.media.queue import Step
from appliance.bundle.take.accept import Imported, Importer
from appliance.core.documents import SiteSpec
from appliance.hardware import sticks
from appliance.kit.clock import Clock
from appliance.ledger import meta
from appliance.ledger.db import Ledger
from appliance.node import site
from appliance.settings import NetworkSettings
from appliance.trust import floor

Tell = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody asked to import: a path or an address, and how."""

    source: str
    by: str
    dry: bool = False
    at_once: bool = False
    """Do not wait for the transfer window."""


@dataclass(frozen=True, slots=True)
class Fetching:
    """Imports, by whichever road."""

    ledger: Ledger
    importer: Importer
    clock: Clock
    network: NetworkSettings
    waiting: set[asyncio.Task[Any]] = field(default_factory=set)
    """What only waits for a window: it may be cancelled at any time, and nothing is lost."""

    async def bring(self, wanted: Wanted, tell: Tell) -> Imported:
        """Import a bundle; over the network, wait for the window whenever it is closed.

        Raises:
            UsageError: the source is neither a path nor an address of a bundle.
            ApplianceError: as ``Importer.run`` and ``medium_at``.
        """
        if not roads.is_remote(wanted.source):
            return await asyncio.to_thread(self._from_folder, wanted, tell)
        spec = self._site()
        pace = pace_of(
            spec,
            self._proven_now,
            bytes_per_second=self.network.bytes_per_second,
            at_once=wanted.at_once,
        )
        tell(Step("looking for the bundle"))
        with closing(
            await asyncio.to_thread(roads.remote_at, wanted.source, self.network, pace)
        ) as medium:

            async def once() -> Imported:
                return await asyncio.to_thread(
                    self.importer.run, medium, wanted.by, tell, dry=wanted.dry
                )

            return await patiently(once, windows_of(spec), _Waits(self.clock, self.waiting), tell)

    def _from_folder(self, wanted: Wanted, tell: Tell) -> Imported:
        source: Path | FolderMedium = Path(wanted.source)
        stick = sticks.holding(Path(wanted.source), sticks.mounted())
        if stick is not None:
            source = FolderMedium(Path(wanted.source))
            source.name = stick.name
        return self.importer.run(source, wanted.by, tell, dry=wanted.dry)

    def _site(self) -> SiteSpec | None:
        found = self.ledger.read(site.in_force)
        return None if found is None else found.spec

    def _proven_now(self) -> datetime.datetime | None:
        now = floor.now(self.ledger.read(meta.floor), self.clock.utc())
        return now.at if now.proven else None


class _Waits:
    """A clock that notes who sleeps by it."""

    def __init__(self, clock: Clock, waiting: set[asyncio.Task[Any]]) -> None:
        self._clock = clock
        self._waiting = waiting

    def utc(self) -> datetime.datetime:
        return self._clock.utc()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        try:
            await self._clock.sleep(seconds)
        finally:
            self._waiting.discard(task)
