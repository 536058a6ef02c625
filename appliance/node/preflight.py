"""Warns before models fill the disk so far that the kubelet evicts pods."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from appliance.errors import ApplianceError
from appliance.hardware import kubelet
from appliance.kit.clock import Clock, rfc3339
from appliance.kit.loop import Again
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream
from appliance.node import site
from appliance.planner.pressure import Outlook, begins_at, outlook

log = logging.getLogger(__name__)

_LOOK_S = 600.0


class DiskPreflight:
    """Looks at the disk that models and the kubelet share; a change is told once."""

    def __init__(
        self, state: Path, ledger: Ledger, clock: Clock, stored: Callable[[], int],
        configz: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:  # fmt: skip
        """Make it; nothing is read yet.

        Args:
            state: The state folder.
            ledger: Where the Site in force is, and where a change is noted.
            clock: For the note.
            stored: What models take, in bytes.
            configz: Returns the kubelet's own configuration from the API server, blocking; it may
                raise what ``KubeApi.get`` raises. None: nobody can be asked.
        """
        self.outlook = Outlook(None, "nobody has looked yet")
        self.on_change: Callable[[Outlook], object] = lambda _: None
        """Called, on any thread, when pressure has become likely or is so no more."""
        self.root = Path("/")
        self._state = state
        self._ledger = ledger
        self._clock = clock
        self._stored = stored
        self._configz = configz

    async def look(self) -> Again:
        """Look again."""
        await asyncio.to_thread(self.look_now)
        return Again(_LOOK_S)

    def look_now(self) -> None:
        """The same, blocking.

        Raises:
            NoSpaceError: a change could not be noted.
        """
        found = self._look()
        before, self.outlook = self.outlook, found
        if not found.likely and not before.likely:
            return
        if found.likely != before.likely:
            (log.warning if found.likely else log.info)("disk: %s", found.message)
            body = {"likely": found.likely, "message": found.message}
            at = rfc3339(self._clock.utc())
            self._ledger.note(Fact(Stream.EVENTS, "disk-pressure", at, body)).result()
            self.on_change(found)

    def to_wire(self) -> dict[str, Any]:
        """Return plain JSON data."""
        found = self.outlook
        return {"likely": found.likely, "message": found.message, "floor_bytes": found.floor}

    def _look(self) -> Outlook:
        budget = self._ledger.read(site.disk_budget)
        there = kubelet.watched(self._state / "store", self.root)
        begins = None
        if there is not None:
            try:
                begins = begins_at(kubelet.thresholds(self._asked(), self.root), there)
            except ValueError as error:
                log.warning("a threshold of the kubelet's cannot be read: %s", error)
        stored = self._stored()
        return outlook(there, begins, stored, budget.store_bytes, budget.floor_bytes)

    def _asked(self) -> Mapping[str, Any] | None:
        """Return the kubelet's own word; away or forbidden, its files have to do."""
        if self._configz is None:
            return None
        try:
            found = self._configz().get("kubeletconfig")
        except ApplianceError:
            return None
        return found if isinstance(found, Mapping) else None
