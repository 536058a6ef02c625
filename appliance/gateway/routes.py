"""The newest route snapshot, read again only when the controller replaced it."""

import logging
from pathlib import Path

from appliance.core.routes import RouteSnapshot
from appliance.errors import MalformedError

log = logging.getLogger(__name__)


class RouteFile:
    """The controller's snapshot file. A damaged one is passed over: the last good one holds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark: tuple[int, int, int] | None = None
        self._snapshot = RouteSnapshot()

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
        return self._snapshot
