"""The health of this node's GPUs: seen, fenced, released and reset.

A look compares what the driver sees with what the ledger remembers; XID errors come in between, on
a thread. Both only ever add fences. They survive restarts, and end by a person's word alone.
"""

import asyncio
import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from appliance.core.machine import Fence, GpuHealth
from appliance.errors import ApplianceError, LockedError, NotFoundError, UsageError
from appliance.kit.clock import Clock, rfc3339
from appliance.kit.loop import Again
from appliance.ledger import gpus, streams
from appliance.ledger.db import Ledger
from appliance.ledger.gpus import KnownGpu
from appliance.ledger.streams import Fact, Stream
from appliance.planner import fence as rules
from appliance.planner.fence import Owner

log = logging.getLogger(__name__)

_LOOK_S = 60.0
_LOOK_FENCED_S = 5.0
"""How soon to see who still uses a GPU that was fenced."""


class Watch(Protocol):
    """Waits for XID errors in the background."""

    watched: frozenset[str]
    note: str

    def start(self) -> None:
        """Begin; idempotent."""

    def stop(self) -> None:
        """End, and let go of the driver; blocks for some seconds at most."""


class GpuDriver(Protocol):
    """What we need of a GPU's driver; all of it blocks. ``hardware.nvidia`` is one."""

    def health(self) -> GpuHealth:
        """Look at all GPUs. Never raises."""

    def processes(self) -> Mapping[str, frozenset[int] | None]:
        """Return the pids on each GPU; None, or no entry: not known. Never raises."""

    def reset(self, uuid: str) -> None:
        """Reset one that nobody uses.

        Raises:
            ApplianceError: it could not.
        """

    def XidWatch(  # noqa: N802 - a class where the driver is a module
        self, tell: Callable[[str, int], None], trouble: Callable[[], None]
    ) -> Watch:
        """Return what waits for XID errors: ``tell`` gets them, ``trouble`` asks for a look."""


class Gpus:
    """The GPUs of one node."""

    def __init__(
        self, ledger: Ledger, clock: Clock, driver: GpuDriver,
        owners: Callable[[], Iterable[Owner]],
    ) -> None:  # fmt: skip
        self.owners = owners
        """Tells whose a process is. Asked on a thread; it may read files, or ask a server."""
        self.on_change: Callable[[str, Fence | None], object] = lambda *_: None
        """Called with a GPU that was fenced or released, on any thread, after it was recorded."""
        self._ledger = ledger
        self._clock = clock
        self._driver = driver
        self._watch = driver.XidWatch(self._xid, lambda: None)
        self._seen = GpuHealth(None, "nobody has looked yet")
        self._stops: dict[str, str] = {}
        self._heard: deque[tuple[str, str]] = deque()
        self._taking = threading.Lock()

    def fenced(self) -> dict[str, Fence]:
        """Return why GPUs are fenced, by UUID."""
        known = self._ledger.read(gpus.known)
        return {uuid: gpu.fence for uuid, gpu in known.items() if gpu.fence is not None}

    def visible(self) -> tuple[str, ...] | None:
        """Return the GPUs that an engine may use, by UUID; None while none is fenced: all."""
        known = self._ledger.read(gpus.known).values()
        if all(gpu.fence is None for gpu in known):
            return None
        return tuple(gpu.uuid for gpu in known if gpu.fence is None)

    def reasons(self) -> dict[str, str]:
        """Return why GPUs are fenced, in words, by UUID."""
        return {uuid: fence.message for uuid, fence in self.fenced().items()}

    def stops(self) -> Mapping[str, str]:
        """Return which replicas the last look found on a fenced GPU, and why they must leave it.

        Reads memory only.
        """
        return self._stops

    async def look(self) -> Again:
        """Look at all GPUs; soon again while something is still on a fenced one.

        Raises:
            NoSpaceError: what was seen could not be recorded.
        """
        await asyncio.to_thread(self.look_now)
        return Again(_LOOK_FENCED_S if self._stops else _LOOK_S)

    def look_now(self) -> None:
        """The same, blocking."""
        self._seen = seen = self._driver.health()
        if seen.gpus:
            self._watch.start()
        at = rfc3339(self._clock.utc())
        known = self._ledger.read(gpus.known)
        for gpu in seen.gpus or ():
            if gpu.uuid is not None and (gpu.uuid not in known or known[gpu.uuid].name is None):
                self._ledger.record(
                    partial(gpus.remember, uuid=gpu.uuid, name=gpu.name, at=at)
                ).result()
        self._take_in()
        for uuid, why in rules.gone(self._ledger.read(gpus.known), seen).items():
            self._fence(uuid, rules.GONE, why, "the controller")
        self._look_for_users()

    def fence(self, name: str, why: str, by: str) -> str:
        """Fence a GPU because a person says so; return its UUID. Fencing twice changes nothing.

        Raises:
            NotFoundError, UsageError: no GPU has this name, or several do.
        """
        uuid = self._resolve(name)
        self._fence(uuid, rules.ASKED, why, by)
        self._look_for_users()
        return uuid

    def release(self, name: str, by: str) -> str:
        """Let a GPU be used again; one that is gone is forgotten. Return its UUID.

        Raises:
            NotFoundError, UsageError: no GPU has this name, or several do, or it is not fenced.
        """
        uuid = self._resolve(name)
        missing = uuid in rules.gone([uuid], self._driver.health())
        self._release(uuid, "gpu-release", by, forget=missing)
        return uuid

    def reset(self, name: str, by: str) -> str:
        """Reset a fenced GPU that nothing uses, then let it be used again; return its UUID.

        Raises:
            NotFoundError, UsageError: no GPU has this name, or several do, or it is not fenced.
            LockedError: something uses it, or nobody can say.
            ApplianceError: it could not be reset. It stays fenced.
        """
        uuid = self._resolve(name)
        if uuid not in self.fenced():
            raise UsageError(
                f"GPU {uuid} is not fenced, so an engine may start on it at any moment",
                hint=f"appliance gpu fence {uuid} --why TEXT, and reset it when its engines left",
            )
        self._refuse_in_use(uuid)
        self._watch.stop()
        try:
            self._driver.reset(uuid)
        finally:
            self._watch.start()
        self._release(uuid, "gpu-reset", by)
        return uuid

    def close(self) -> None:
        """Let go of the driver."""
        self._watch.stop()

    def to_wire(self) -> dict[str, Any]:
        """Return all that is known as plain JSON data; blocks for as long as the driver does."""
        known = self._ledger.read(gpus.known)
        users = self._users()
        missing = rules.gone(known, self._seen)
        return {
            "note": self._seen.note,
            "xid": self._watch.note,
            "gpus": [self._wire(gpu, users.get(gpu.uuid), missing) for gpu in known.values()],
        }

    def _wire(
        self, gpu: KnownGpu, users: list[dict[str, Any]] | None, missing: Mapping[str, str]
    ) -> dict[str, Any]:
        return {
            **asdict(gpu),
            "present": None if self._seen.gpus is None else gpu.uuid not in missing,
            "xid_watched": gpu.uuid in self._watch.watched,
            "users": users,
        }

    def _xid(self, uuid: str, xid: int) -> None:
        """Take in an XID error, on the watch's thread."""
        why = rules.of_xid(xid)
        if not why:
            log.info("GPU %s: XID %d is an error of the application", uuid, xid)
            return
        self._heard.append((uuid, why))
        try:
            self._take_in()
        except ApplianceError as error:  # a full disk: the next look tries again
            log.error("GPU %s: %s, which could not be recorded: %s", uuid, why, error)

    def _take_in(self) -> None:
        """Fence what was heard of; the watch and a look may both come to it at once."""
        with self._taking:
            while self._heard:
                uuid, why = self._heard[0]
                self._fence(uuid, rules.XID, why, "the controller")
                self._heard.popleft()
        self._look_for_users()

    def _fence(self, uuid: str, reason: str, message: str, by: str) -> None:
        why = Fence(reason, message, by, rfc3339(self._clock.utc()))
        body = {"uuid": uuid, **why.to_wire()}

        def effect(db: sqlite3.Connection) -> bool:
            if not gpus.fence(db, uuid, why):
                return False
            streams.append(db, Fact(Stream.AUDIT, "gpu-fence", why.at, body))
            streams.append(db, Fact(Stream.EVENTS, "gpu-fenced", why.at, body))
            return True

        if self._ledger.record(effect).result():
            log.warning("GPU %s is fenced: %s", uuid, message)
            self.on_change(uuid, why)

    def _release(self, uuid: str, verb: str, by: str, *, forget: bool = False) -> None:
        at = rfc3339(self._clock.utc())
        body = {"uuid": uuid, "by": by}

        def effect(db: sqlite3.Connection) -> bool:
            if not gpus.release(db, uuid):
                return False
            if forget:
                gpus.forget(db, uuid)
            streams.append(db, Fact(Stream.AUDIT, verb, at, body))
            streams.append(db, Fact(Stream.EVENTS, "gpu-released", at, body))
            return True

        if not self._ledger.record(effect).result():
            raise UsageError(f"GPU {uuid} is not fenced")
        self._look_for_users()
        self.on_change(uuid, None)

    def _refuse_in_use(self, uuid: str) -> None:
        users = self._users().get(uuid)
        if users is None:
            raise LockedError(
                f"who uses GPU {uuid} is not known: the driver does not say",
                hint="a GPU that is lost comes back by a restart of the machine alone;"
                " then: appliance gpu release",
            )
        if users:
            names = ", ".join(u["replica"] or f"process {u['pid']}" for u in users)
            raise LockedError(
                f"GPU {uuid} is in use by {names}",
                hint="engines leave a fenced GPU by themselves; appliance gpu list shows who is"
                " left, and other programs must be ended",
            )

    def _look_for_users(self) -> None:
        fenced = self.reasons()
        users = self._users() if fenced else {}
        replicas = {
            uuid: None if found is None else [u["replica"] for u in found if u["replica"]]
            for uuid, found in users.items()
        }
        self._stops = rules.to_stop(replicas, fenced)

    def _users(self) -> dict[str, list[dict[str, Any]] | None]:
        owners = list(self.owners())
        return {
            uuid: None
            if pids is None
            else [
                {"pid": pid, "replica": rules.owner(pid, _cgroup(pid), owners)}
                for pid in sorted(pids)
            ]
            for uuid, pids in self._driver.processes().items()
        }

    def _resolve(self, name: str) -> str:
        found = [uuid for uuid in self._ledger.read(gpus.known) if uuid.startswith(name)]
        if len(found) > 1:
            raise UsageError(f"{name} may be {' or '.join(found)}")
        if not found or not name:
            raise NotFoundError(f"no GPU {name!r} was ever seen here", hint="appliance gpu list")
        return found[0]


def _cgroup(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cgroup").read_text(errors="replace")
    except OSError:
        return ""
