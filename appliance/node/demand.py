"""Who asks for which model on this node, and how much comes of it.

It is fed with what the gateway leaves in the spool: usage facts, each at a request's end, and marks
of demand, at once. It is memory only: after a restart a model counts as asked for when it is asked
for again, and marks that are still on disk are read as they are.
"""

import datetime
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from appliance.core.demand import MOST_BYTES, Demand, Mark
from appliance.core.usage import Generated, tokens_per_second
from appliance.errors import MalformedError
from appliance.kit.clock import Clock, parse_rfc3339
from appliance.kit.loop import Again

log = logging.getLogger(__name__)

_LOOK_S = 0.1
_WINDOW = datetime.timedelta(seconds=60)
_EPISODE = datetime.timedelta(seconds=3)
"""After so long without a mark, of one a second, nobody waits any more; the next begins anew."""
_OLD = datetime.timedelta(days=1)
_JUMP = datetime.timedelta(seconds=2)
"""Beyond this the clock was set, and did not only go a little wrong."""
_SETTLED_NS = 100_000_000
_MOST_GENERATED = 100_000


class Activity:
    """What this node's gateway is asked for. Safe to feed on one thread and read on another."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._demand: dict[str, Demand] = {}
        self._generated: deque[Generated] = deque(maxlen=_MOST_GENERATED)
        self._lock = threading.Lock()
        self._seen = clock.utc(), clock.monotonic()

    def demand(self) -> dict[str, Demand]:
        """Return the demand for each model that was ever asked for, never later than now."""
        with self._lock:
            now = self._now()
            return {
                model: Demand(min(found.at, now), found.waiting_since, found.waited_at)
                for model, found in self._demand.items()
            }

    def last_demand(self) -> dict[str, datetime.datetime]:
        """Return when each model was wanted last, never later than now: the clock may be set."""
        return {model: found.at for model, found in self.demand().items()}

    def tokens_per_second(self) -> dict[str, float]:
        """Return what each model generated over the last minute; those that did nothing are 0.

        A model that nobody ever asked for is not in it.
        """
        now = self._clock.utc()
        made = tokens_per_second(list(self._generated), now, _WINDOW)
        return {model: made.get(model, 0.0) for model in self._demand.copy()}

    def marked(self, mark: Mark) -> bool:
        """Take in a mark; return whether a request waits that the controller did not know of.

        Raises:
            ValueError: it does not say when.
        """
        said = parse_rfc3339(mark.at)
        with self._lock:
            return self._marked(mark, min(said, self._now()))

    def _marked(self, mark: Mark, at: datetime.datetime) -> bool:
        before = self._demand.get(mark.model, Demand(at))
        latest = max(before.at, at)
        if not mark.waiting:  # it is there: whoever waits from now on waits anew
            self._demand[mark.model] = Demand(latest)
            return False
        fresh = before.waited_at is None or at - before.waited_at > _EPISODE
        since = at if fresh else before.waiting_since
        self._demand[mark.model] = Demand(latest, since, at)
        return fresh

    def served(self, record: Mapping[str, Any]) -> None:
        """Take in the record of a request that is over; one for no model of ours says nothing."""
        found = Generated.of(record)
        if found is None:
            return
        with self._lock:
            self._now()
            before = self._demand.get(found.model)
            if before is None or before.at < found.until:  # nobody waited since, as marks go
                self._demand[found.model] = Demand(found.until)
        if found.tokens:
            self._generated.append(found)

    def _now(self) -> datetime.datetime:
        """Return the time. If the clock was set since the last look, move what is known with it.

        Else a day in 2038 would keep a model awake until then, and one in 1970 would put to sleep
        what is in use.
        """
        utc, monotonic = self._clock.utc(), self._clock.monotonic()
        jump = utc - self._seen[0] - datetime.timedelta(seconds=monotonic - self._seen[1])
        self._seen = utc, monotonic
        if abs(jump) > _JUMP:
            self._demand = {m: _moved(found, jump) for m, found in self._demand.items()}
        return utc


def _moved(found: Demand, by: datetime.timedelta) -> Demand:
    """Return a demand as the clock would have told it, had it been set before."""
    try:
        since, waited = (
            None if at is None else at + by for at in (found.waiting_since, found.waited_at)
        )
        return Demand(found.at + by, since, waited)
    except OverflowError:  # a mark that was none: it says year 1, or 9999
        return found


class MarkFolder:
    """The folder of marks: each is read once, and removed when it is a day old."""

    def __init__(self, folder: Path, activity: Activity, clock: Clock) -> None:
        self._folder = folder
        self._activity = activity
        self._clock = clock
        self._changed_ns = 0
        self._seen: dict[str, int] = {}

    def read(self) -> bool:
        """Take in new marks; return whether a request waits that was not known to. Cheap if not."""
        try:
            changed_ns = self._folder.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        if changed_ns == self._changed_ns:
            return False
        paths = [p for p in self._folder.iterdir() if not p.name.startswith(".")]
        self._seen = {p.name: self._seen.get(p.name, 0) for p in paths}
        fresh = [self._read(path) for path in paths]
        # A change within the file system's clock tick would leave the folder's time as it was.
        if time.time_ns() - changed_ns > _SETTLED_NS:
            self._changed_ns = changed_ns
        return any(fresh)

    def _read(self, path: Path) -> bool:
        try:
            written_ns = path.stat().st_mtime_ns
            if written_ns == self._seen[path.name]:
                return False
            self._seen[path.name] = written_ns
            with path.open("rb") as file:
                mark = Mark.load(file.read(MOST_BYTES))
            if self._clock.utc() - parse_rfc3339(mark.at) > _OLD:
                path.unlink(missing_ok=True)
                return False
            return self._activity.marked(mark)
        except FileNotFoundError:
            return False
        except (MalformedError, ValueError) as error:
            log.error("%s is not a mark of demand, and removed: %s", path.name, error)
            path.unlink(missing_ok=True)
            return False


class DemandLoop:
    """Looks for marks ten times a second; ``wake`` is called when a request waits."""

    def __init__(self, marks: MarkFolder, wake: Callable[[], object]) -> None:
        self._marks = marks
        self._wake = wake

    async def look(self) -> Again:
        """Take in what is new: one look at a folder's time, unless there is something."""
        if self._marks.read():
            self._wake()
        return Again(_LOOK_S)
