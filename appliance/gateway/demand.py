"""Telling the controller that a model is wanted, by a mark in a folder of the spool."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from appliance.core.demand import Mark, file_name
from appliance.errors import ApplianceError
from appliance.kit.clock import Clock, rfc3339
from appliance.kit.files import replace_quickly

log = logging.getLogger(__name__)
_EVERY_S = 1.0


class DemandMarks:
    """Writes at most one mark a second for each model; only models that have a route are named."""

    def __init__(
        self, folder: Path, clock: Clock, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """``folder`` exists."""
        self._folder = folder
        self._clock = clock
        self._monotonic = monotonic
        self._last: dict[str, float] = {}

    def mark(self, model: str, *, waiting: bool) -> None:
        """Say that a model is wanted; a disk that takes no mark makes nobody wait for less."""
        now = self._monotonic()
        if now - self._last.get(model, -_EVERY_S) < _EVERY_S:
            return
        self._last[model] = now
        mark = Mark(model, rfc3339(self._clock.utc()), waiting)
        try:
            replace_quickly(self._folder / file_name(model), mark.dump(), mode=0o640)
        except (ApplianceError, OSError) as error:
            log.error("the controller may not hear that %s is wanted: %s", model, error)
