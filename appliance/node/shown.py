"""Statuses on their way to the API server: only what changed, few at a time, beside the passes."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.core.documents import ModelDeployment
from appliance.core.state import DeploymentStatus
from appliance.errors import ApplianceError, NotFoundError
from appliance.kit.clock import Clock
from appliance.kit.loop import Again
from appliance.kube.objects.deployments import SeenDeployment
from appliance.kube.objects.status import (
    About,
    Happening,
    happenings,
    is_detail,
    refusal_of,
    status_of,
)
from appliance.kube.resources import MODEL_DEPLOYMENTS
from appliance.kube.small import packed, unpacked

if TYPE_CHECKING:
    from appliance.kube.client import Json, KubeApi

log = logging.getLogger(__name__)

_AT_ONCE = 8
_RATE_S = 60.0
_KEPT_S = 3600.0
_MOST_ALONE = 5
"""How many statuses a minute may be written for nothing but a rate or another wording."""

Note = Callable[[SeenDeployment, Happening], object]


@dataclass(frozen=True, slots=True)
class Telling:
    """What a status also says. ``cannot`` is what the server leaves undone for a document."""

    tokens: Callable[[], Mapping[str, float]] = dict
    cannot: Callable[[ModelDeployment], Sequence[str]] = lambda _: ()
    note: Note = lambda *_: None


class Allowance:
    """What may be written for a detail alone: each name once a minute, and few in all."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}

    def last(self, name: str) -> float:
        """Return when it was its turn, for those who have waited longest to come first."""
        return self._last.get(name, -_KEPT_S)

    def take(self, name: str) -> bool:
        """Return whether it may be, and count it."""
        now = self._clock.monotonic()
        self._last = {name: at for name, at in self._last.items() if now - at < _KEPT_S}
        recent = [known for known, at in self._last.items() if now - at < _RATE_S]
        if name in recent or len(recent) >= _MOST_ALONE:
            return False
        self._last[name] = now
        return True


class StatusWriter:
    """Writes statuses to ModelDeployments. ``want`` as often as there is news; ``look`` writes."""

    def __init__(
        self, api: "KubeApi", leads: Callable[[], bool], clock: Clock, telling: Telling,
        wake: Callable[[], object],
    ) -> None:  # fmt: skip
        """``wake`` is called when there may be something to write."""
        self._api = api
        self._leads = leads
        self._clock = clock
        self._telling = telling
        self._wake = wake
        self._seen: Mapping[str, SeenDeployment] = {}
        self._wanted: dict[str, DeploymentStatus] = {}
        self._wrote: dict[str, tuple[bytes, bytes]] = {}
        self._settled: dict[str, tuple[object, ...]] = {}
        self._details = Allowance(clock)

    def want(
        self, seen: Mapping[str, SeenDeployment], statuses: Iterable[DeploymentStatus]
    ) -> None:
        """Take what each object should say."""
        self._seen = seen
        self._wanted = {found.name: found for found in statuses}
        self._wake()

    async def look(self) -> Again:
        """Write what differs.

        Raises:
            ApplianceError: some could not be written; the next look tries them again.
        """
        if not self._leads():
            self._wrote.clear()
            self._settled.clear()
            return Again(_RATE_S)
        uids = {s.uid for s in self._seen.values()}
        self._wrote = {uid: found for uid, found in self._wrote.items() if uid in uids}
        self._settled = {uid: found for uid, found in self._settled.items() if uid in uids}
        rates = self._telling.tokens()
        first = sorted(self._seen.values(), key=lambda s: self._details.last(s.name))
        due = [(s, d) for s in first if (d := self._due(s, rates)) is not None]
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(seen: SeenDeployment, status: "Json") -> None:
            async with turns:
                if self._leads():
                    await self._write(seen, status)

        results = await asyncio.gather(*(one(*d) for d in due), return_exceptions=True)
        failed = [r for r in results if isinstance(r, BaseException)]
        for error in failed:
            if not isinstance(error, ApplianceError):
                raise error
        if failed:
            raise failed[0]
        return Again(_RATE_S)

    def _due(self, seen: SeenDeployment, rates: Mapping[str, float]) -> "Json | None":
        found = self._wanted.get(seen.name)
        about = About(seen.generation, self._clock.utc())
        if seen.finding is not None:
            return refusal_of(seen.finding, about, self._before(seen))
        if found is None or seen.document is None:
            return None
        cannot = tuple(self._telling.cannot(seen.document))
        asked = (seen, found, cannot)
        if self._settled.get(seen.uid) == asked and seen.name not in rates:
            return None
        about = About(seen.generation, about.at, cannot, rates.get(seen.name))
        before = self._before(seen)
        status = status_of(found, about, before)
        if status is None:
            self._settled[seen.uid] = asked
        elif is_detail(before, status) and not self._details.take(seen.name):
            return None
        return status

    def _before(self, seen: SeenDeployment) -> "Json":
        """Return what the object says, also when it was not seen again since we wrote it."""
        held, wrote = self._wrote.get(seen.uid, (b"", b""))
        return unpacked(wrote) if wrote and held == seen.said else seen.status

    async def _write(self, seen: SeenDeployment, status: "Json") -> None:
        body = {
            "apiVersion": MODEL_DEPLOYMENTS.api_version,
            "kind": MODEL_DEPLOYMENTS.kind,
            "metadata": {"name": seen.name, "namespace": seen.namespace, "uid": seen.uid},
            "status": status,
        }
        before = self._before(seen)
        path = MODEL_DEPLOYMENTS.path(seen.namespace, seen.name, "status")
        try:
            await asyncio.to_thread(self._api.apply, path, body, force=True)
        except NotFoundError:
            return  # deleted since
        self._wrote[seen.uid] = (seen.said, packed(status))
        for happening in happenings(before, status):
            self._telling.note(seen, happening)
