"""Leases: who plans for the site, and which nodes are alive.

Nobody compares clocks. A lease is stale when *we* have seen the same record for as long as it
says it lasts, by our own monotonic clock; what its times say is for people. A holder counts from
before it sent the renewal, and stops a third earlier than anybody may take the lease: between the
two, nobody leads. Every write names the version it read, so that of two takers one is refused.

``kubernetes.leaderelection`` of the library was not used: it measures with the wall clock, which
is set by hand at these sites, and has no release, and no way to end but to kill its process.
"""

import asyncio
import contextlib
import datetime
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.errors import ApplianceError, NotFoundError
from appliance.kit.backoff import full_jitter
from appliance.kube.errors import ConflictError
from appliance.kube.resources import LEASES

if TYPE_CHECKING:
    from appliance.kube.client import Json, KubeApi

log = logging.getLogger(__name__)

_END_S = 2.0


def boottime() -> float:
    """Return seconds since boot, those in which the machine was suspended among them.

    ``time.monotonic`` stands still in suspend: a holder that slept would believe in its lease.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Term:
    """How long a lease lasts, when its holder gives up without renewal, and how often it renews.

    Raises:
        ValueError: they do not stand in that order.
    """

    duration_s: int = 30
    deadline_s: float = 20.0
    renew_s: float = 5.0

    def __post_init__(self) -> None:
        if not self.renew_s < self.deadline_s < self.duration_s:
            raise ValueError("a lease is renewed before its deadline, which is before its end")


@dataclass(frozen=True, slots=True)
class Record:
    """What a Lease says. ``mark`` changes with every renewal, and means nothing else."""

    holder: str
    duration_s: float
    mark: tuple[str, ...]

    @classmethod
    def of(cls, lease: "Json") -> "Record":
        """Return what a Lease object says."""
        spec = lease.get("spec") or {}
        holder = str(spec.get("holderIdentity") or "")
        keys = ("renewTime", "acquireTime", "leaseTransitions", "leaseDurationSeconds")
        mark = (holder, *(str(spec.get(key)) for key in keys))
        return cls(holder, float(spec.get("leaseDurationSeconds") or 0), mark)


class Sighting:
    """Since when one record has been seen unchanged, by our own clock."""

    def __init__(self, now: Callable[[], float] = boottime) -> None:
        self._now = now
        self._record: Record | None = None
        self._since = 0.0

    def see(self, record: Record) -> None:
        """Take note of what a Lease says now."""
        if self._record is None or self._record.mark != record.mark:
            self._record, self._since = record, self._now()

    @property
    def holder(self) -> str:
        """Who held it when it was last seen; empty: nobody, or never seen."""
        return "" if self._record is None else self._record.holder

    @property
    def is_stale(self) -> bool:
        """Whether its holder let it run out while we watched."""
        return self._record is not None and self._now() - self._since > self._record.duration_s


@dataclass(frozen=True, slots=True)
class Candidate:
    """Who wants to hold a lease.

    Args:
        identity: Unique to this process, and begins with the node's id.
        heirs: The beginning of identities whose process has surely ended, so that a controller
            that was killed and started again need not wait for itself. Empty: there are none.
    """

    identity: str
    heirs: str = ""

    @classmethod
    def of(cls, node: str, boot: str, nonce: str) -> "Candidate":
        """Return the candidate of a node whose state folder is locked by this process.

        The lock proves that earlier processes of this boot have ended. Of another boot it proves
        nothing: that may be a copy of the state folder on another machine.
        """
        heirs = f"{node}_{boot[:8]}_"
        return cls(heirs + nonce, heirs)

    def succeeds(self, holder: str) -> bool:
        """Whether a holder is we ourselves, or what we come after."""
        return holder == self.identity or bool(self.heirs and holder.startswith(self.heirs))


class LeaseHolder:
    """Tries to hold one Lease for as long as ``run`` runs. Ask ``holds`` before each act.

    What a holder sent before its deadline may still arrive after it: what it does must be safe to
    do twice, which level-triggered server-side apply is.
    """

    def __init__(
        self,
        api: "KubeApi",
        where: tuple[str, str],
        candidate: Candidate,
        term: Term = Term(),
        *,
        changed: Callable[[], object] = lambda: None,
        now: Callable[[], float] = boottime,
    ) -> None:
        """``where`` is namespace and name; ``changed`` is called when ``holds`` has changed."""
        self.holder = ""
        """Who held it when it was last seen; empty: nobody, or never seen."""
        self._api = api
        self._folder = LEASES.path(where[0])
        self._path = LEASES.path(*where)
        self._name = where[1]
        self._candidate = candidate
        self._term = term
        self._changed = changed
        self._now = now
        self._until: float | None = None
        self._mine: Json | None = None
        self._sighting = Sighting(now)
        self._told = False

    @property
    def holds(self) -> bool:
        """Whether we hold it at this moment. Reads memory and the clock."""
        return self._until is not None and self._now() < self._until

    async def run(self) -> None:
        """Hold the lease whenever that is possible, until cancelled; then give it back."""
        renewal: asyncio.Future[None] | None = None
        try:
            delays = full_jitter(self._term.renew_s / 4, self._term.renew_s)
            while True:
                renewal = asyncio.ensure_future(asyncio.to_thread(self._try))
                await self._until_done_or_lost(renewal)
                try:
                    await renewal
                    delays = full_jitter(self._term.renew_s / 4, self._term.renew_s)
                    wait = self._term.renew_s
                except ApplianceError as error:
                    log.warning("the lease %s: %s", self._name, error)
                    wait = next(delays)
                self._tell()
                await self._sleep(wait)
        finally:
            if renewal is not None:
                await _ended(renewal)
            await self._release()

    async def _until_done_or_lost(self, renewal: "asyncio.Future[None]") -> None:
        """Wait for a renewal; say so when the lease is lost before it answers."""
        while not renewal.done():
            await asyncio.wait({renewal}, timeout=self._left_s())
            self._tell()

    async def _sleep(self, seconds: float) -> None:
        left = self._left_s()
        await asyncio.sleep(seconds if left is None else min(seconds, left))
        self._tell()

    def _left_s(self) -> float | None:
        until = self._until
        left = 0.0 if until is None else until - self._now()
        return left if left > 0 else None

    def _tell(self) -> None:
        holds = self.holds
        if holds == self._told:
            return
        self._told = holds
        log.info("%s the lease %s", "holding" if holds else "no longer holding", self._name)
        self._changed()

    # --- in a thread -----------------------------------------------------------------------------

    def _try(self) -> None:
        """Renew, take or leave it, whichever it is time for. Blocking; two calls at most.

        Raises:
            ApplianceError: the server is away or says no; nothing is known to have changed.
        """
        sent = self._now()
        mine, self._mine = self._mine, None
        lease = mine or self._read()
        if not self._may_have(lease):
            self._until = None
            return
        try:
            if lease is None:
                self._mine = self._api.create(self._folder, self._body({}))
            else:
                self._mine = self._api.replace(self._path, self._body(lease))
        except (ConflictError, NotFoundError):
            return  # changed since it was read; whoever took it waited for our deadline
        self._until = sent + self._term.deadline_s
        self.holder = self._candidate.identity
        self._sighting.see(Record.of(self._mine))

    def _read(self) -> "Json | None":
        try:
            return self._api.get(self._path)
        except NotFoundError:
            return None

    def _may_have(self, lease: "Json | None") -> bool:
        """Whether it is ours or free. One that somebody deleted runs out like any other."""
        if lease is not None:
            self._sighting.see(Record.of(lease))
        self.holder = self._sighting.holder
        return not self.holder or self._candidate.succeeds(self.holder) or self._sighting.is_stale

    def _body(self, lease: "Json") -> "Json":
        now = _micro_time()
        old = lease.get("spec") or {}
        goes_on = old.get("holderIdentity") == self._candidate.identity
        spec = {
            "holderIdentity": self._candidate.identity,
            "leaseDurationSeconds": self._term.duration_s,
            "acquireTime": old.get("acquireTime", now) if goes_on else now,
            "renewTime": now,
            "leaseTransitions": int(old.get("leaseTransitions") or 0) + (not goes_on),
        }
        metadata = {**(lease.get("metadata") or {}), "name": self._name}
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": metadata,
            "spec": spec,
        }

    async def _release(self) -> None:
        """Give it back, so that nobody need wait for it to run out. A failure costs only that."""
        held, self._until = self.holds, None
        self._tell()
        self._mine = None
        if held:
            with contextlib.suppress(ApplianceError):
                await asyncio.to_thread(self._give_back)

    def _give_back(self) -> None:
        lease = self._api.get(self._path)
        if Record.of(lease).holder == self._candidate.identity:
            spec = {k: v for k, v in lease["spec"].items() if k != "holderIdentity"}
            self._api.replace(self._path, {**lease, "spec": spec})


class Heartbeat:
    """One node's own Lease, renewed for as long as ``run`` runs: others see that it is alive."""

    def __init__(
        self,
        api: "KubeApi",
        where: tuple[str, str],
        identity: str,
        *,
        every_s: float = 10.0,
        duration_s: int = 40,
    ) -> None:
        """``where`` is namespace and name of the Lease; ``identity`` the node's id."""
        self._api = api
        self._path = LEASES.path(*where)
        self._identity = identity
        self._every_s = every_s
        self._duration_s = duration_s

    async def run(self) -> None:
        """Renew until cancelled. The Lease stays, and runs out."""
        told = ""
        while True:
            try:
                await asyncio.to_thread(self.beat)
                told = ""
            except ApplianceError as error:
                if str(error) != told:
                    told = str(error)
                    log.warning("no heartbeat: %s", error)
            await asyncio.sleep(self._every_s)

    def beat(self) -> None:
        """Renew it once. Blocking.

        Raises:
            ApplianceError: the server is away or says no.
        """
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._duration_s,
            "renewTime": _micro_time(),
        }
        body = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "spec": spec}
        body["metadata"] = {"name": self._path.rsplit("/", 1)[1]}
        self._api.apply(self._path, body, force=True)


async def _ended(renewal: "asyncio.Future[None]") -> None:
    """Wait for a renewal that is under way: it must not renew what is being given back."""
    await asyncio.wait({renewal}, timeout=_END_S)
    with contextlib.suppress(ApplianceError, asyncio.InvalidStateError):
        renewal.result()


def _micro_time() -> str:
    now = datetime.datetime.now(datetime.UTC)
    return now.isoformat(timespec="microseconds").replace("+00:00", "Z")
