"""Where routes come from: the newest snapshot, read again only when the controller replaced it."""

import logging
from pathlib import Path
from typing import Protocol

from appliance.core.routes import RouteSnapshot
from appliance.errors import MalformedError

log = logging.getLogger(__name__)


class RouteSource(Protocol):
    """What the gateway may serve at this moment."""

    def current(self) -> RouteSnapshot:
        """Return the newest routes; never fails, never waits, and is cheap enough to poll."""

    @property
    def was_read(self) -> bool:
        """Whether the controller's word was ever heard; until then nothing is known."""


class RouteFile:
    """The controller's snapshot file. A damaged one is passed over: the last good one holds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark: tuple[int, int, int] | None = None
        self._snapshot: RouteSnapshot | None = None

    @property
    def was_read(self) -> bool:
        """Whether one good snapshot was found since the start."""
        self.current()
        return self._snapshot is not None

    def current(self) -> RouteSnapshot:
        """Return the newest snapshot; empty before the controller ever wrote one."""
        try:
            found = self._path.stat()
            mark = (found.st_ino, found.st_mtime_ns, found.st_size)
            if mark != self._mark:
                self._snapshot = RouteSnapshot.load(self._path.read_bytes())
                self._mark = mark
        except FileNotFoundError:
            pass
        except MalformedError as error:
            log.error("%s; going on with the last one", error)
            self._mark = mark
        return self._snapshot or _NOTHING


_NOTHING = RouteSnapshot()
