"""Watch, don't poll: what is on the server, in memory, and a word whenever it changes.

One list, then a watch that goes on from the version it has seen, through bookmarks, closed
connections and restarts of the server. A version that the server has forgotten leads to another
list, and so does the resync interval, which heals what a proxy in between swallowed.

Memory is bounded by ``slim``: each object becomes the value that its reader needs as it arrives,
and a change that nobody reads is no change.

``kubernetes.informer`` of the library was not used: it keeps whole objects, lists without pages,
reconnects without a pause, calls back on its own thread, and its ``stop`` waits for the read.
"""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from appliance.errors import ApplianceError
from appliance.kit.backoff import full_jitter
from appliance.kube.errors import GoneError

if TYPE_CHECKING:
    from appliance.kube.client import Json, KubeApi, Watch

log = logging.getLogger(__name__)

Value = TypeVar("Value")

_CLOSE_S = 0.8
_SHORT_S = 1.0
_PAGE = 200
"""A page's dictionaries are the most memory that a list takes, and each page is a call."""
_LISTING = threading.Lock()
"""One list at a time: pages weigh ten times what is kept of them, and all start at once."""
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True, slots=True)
class Selection:
    """What to watch: a path of ``resources.py``, and which of its objects."""

    path: str
    labels: str = ""
    fields: str = ""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a watch lasts, how often everything is listed again, and the delays after failures.

    Lists beyond the first count as API calls: a short ``resync_s`` spends the budget. ``watch_s``
    bounds how long a connection that died without a word (a switch lost power) looks alive.
    """

    watch_s: float = 120.0
    resync_s: float = 600.0
    first_s: float = 0.5
    most_s: float = 30.0


class Informer(Generic[Value]):
    """What one path of the server holds, by key: ``namespace/name``, or the name alone.

    Read it on the event loop or any thread; it is written on the event loop alone, right before
    ``changed``. While the server is away, the last that was seen stays.
    """

    def __init__(
        self,
        api: "KubeApi",
        what: Selection,
        slim: "Callable[[Json], Value | None]",
        changed: Callable[[str], object],
        pace: Pace = Pace(),
    ) -> None:
        """Prepare an informer; ``start`` starts it.

        Args:
            api: The server; this uses a connection of its own for the watch.
            what: What to watch.
            slim: Makes the value to keep; None leaves the object out. It runs on the watch's
                thread; an object that it cannot read (any exception) is left out and logged.
            changed: Called on the event loop with the key of what appeared, changed or went.
            pace: Times.
        """
        self.synced = asyncio.Event()
        """Set when the first list is in."""
        self.lists = 0
        """How many lists were asked for so far."""
        self._api = api
        self._what = what
        self._slim = slim
        self._changed = changed
        self._pace = pace
        self._held: dict[str, Value] = {}
        self._since = ""
        self._listed_at = 0.0
        self._connected = False
        self._closing = threading.Event()
        self._watching: Watch | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(
            target=self._run, name=f"watch {what.path}", daemon=True
        )  # a daemon: a read that nothing can wake must not keep the process

    @property
    def is_connected(self) -> bool:
        """Whether a watch stands now, so that what is held is new."""
        return self._connected

    def start(self) -> None:
        """Start to watch; call it on the event loop, once."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def close(self) -> None:
        """End the watch, within a second also when the server says nothing."""
        self._closing.set()
        if (watching := self._watching) is not None:
            watching.close()
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join, _CLOSE_S)

    def get(self, key: str) -> Value | None:
        """Return what is held under a key."""
        return self._held.get(key)

    def items(self) -> dict[str, Value]:
        """Return all that is held, as it is at this moment."""
        return dict(self._held)

    def __len__(self) -> int:
        return len(self._held)

    # --- on the watch's thread -------------------------------------------------------------------

    def _run(self) -> None:
        delays = full_jitter(self._pace.first_s, self._pace.most_s)
        told = ""
        while not self._closing.is_set():
            try:
                lasted = self._once()
            except ApplianceError as error:
                if str(error) != told:
                    told = str(error)
                    log.warning("watching %s: %s; trying again", self._what.path, error)
            except Exception:
                log.exception("watching %s failed; trying again", self._what.path)
            else:
                if lasted:
                    delays, told = full_jitter(self._pace.first_s, self._pace.most_s), ""
                    continue
            self._closing.wait(next(delays))

    def _once(self) -> bool:
        """List if need be and watch once; return whether that went as it should."""
        began, before = time.monotonic(), self._since
        try:
            if not before or began - self._listed_at >= self._pace.resync_s:
                self._list()
            if not self._closing.is_set():
                self._follow()
        except GoneError:
            log.info("watching %s: that version is forgotten; listing again", self._what.path)
            self._since = ""
            return False
        finally:
            self._connected = False
        return self._since != before or time.monotonic() - began >= _SHORT_S

    def _list(self) -> None:
        while not _LISTING.acquire(timeout=_CLOSE_S / 4):
            if self._closing.is_set():
                return
        try:
            held, version = self._listed()
        finally:
            _LISTING.release()
        self._post(self._replace, held)
        self._since, self._listed_at = version, time.monotonic()

    def _listed(self) -> tuple[dict[str, Value], str]:
        what, version = self._what, ""
        held: dict[str, Value] = {}
        self.lists += 1
        pages = self._api.pages(what.path, labels=what.labels, fields=what.fields, page=_PAGE)
        for items, version in pages:  # noqa: B007
            while items:  # each is dropped as soon as it is slim
                item = items.pop()
                value = self._slimmed(item)
                if value is not None:
                    held[key_of(item)] = value
        return held, version

    def _follow(self) -> None:
        what, pace = self._what, self._pace
        left = pace.resync_s - (time.monotonic() - self._listed_at)
        seconds = max(1.0, min(pace.watch_s, left))
        watching = self._api.watch(
            what.path, self._since, labels=what.labels, fields=what.fields, timeout_s=seconds
        )
        self._watching = watching
        if self._closing.is_set():  # close() may have come before there was anything to close
            watching.close()
        self._connected = True
        try:
            for event in watching:
                self._take(event)
        finally:
            self._watching = None
            watching.close()

    def _take(self, event: "Json") -> None:
        found = event["object"]
        if event["type"] in ("ADDED", "MODIFIED"):
            self._post(self._put, key_of(found), self._slimmed(found))
        elif event["type"] == "DELETED":
            self._post(self._put, key_of(found), None)
        self._since = found["metadata"]["resourceVersion"]  # a bookmark has nothing but this

    def _slimmed(self, found: "Json") -> Value | None:
        try:
            return self._slim(found)
        except Exception:
            log.exception("%s %s cannot be read; left out", self._what.path, key_of(found))
            return None

    def _post(self, call: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the event loop has ended, and with it everybody who reads
            self._closing.set()

    # --- on the event loop -----------------------------------------------------------------------

    def _put(self, key: str, value: Value | None) -> None:
        if self._closing.is_set() or self._held.get(key) == value:
            return
        if value is None:
            del self._held[key]
        else:
            self._held[key] = value
        self._changed(key)

    def _replace(self, held: dict[str, Value]) -> None:
        if self._closing.is_set():
            return
        before, self._held = self._held, held
        self.synced.set()
        for key in difference(before, held):
            self._changed(key)


def difference(before: Mapping[str, Value], after: Mapping[str, Value]) -> Iterator[str]:
    """Yield the keys whose values differ, also where only one side has them."""
    for key in before.keys() | after.keys():
        if before.get(key) != after.get(key):
            yield key


def key_of(found: "Json") -> str:
    """Return the key of an object."""
    metadata = found["metadata"]
    namespace = metadata.get("namespace")
    return sys.intern(f"{namespace}/{metadata['name']}" if namespace else metadata["name"])
