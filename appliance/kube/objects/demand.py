"""Demand across the machines of a site: each tells the ModelDeployment when it was wanted there.

Requests come in at any machine, and one plans for all. So every controller notes a newer demand as
an annotation, which whoever plans reads: at once when requests begin to wait, else at most once a
minute for each object. What another machine told may hence be a minute behind the truth, and counts
as if it were not.
"""

import asyncio
import datetime
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from appliance.core.demand import Demand
from appliance.errors import NotFoundError
from appliance.kit.clock import Clock, parse_rfc3339
from appliance.kit.loop import Again
from appliance.kube.resources import MODEL_DEPLOYMENTS

if TYPE_CHECKING:
    from appliance.kube.client import KubeApi

ANNOTATION = "edge-appliance.dev/demand"
EVERY = datetime.timedelta(seconds=60)
_SECOND = datetime.timedelta(seconds=1)
_LOOK_S = 2.0

Moments = Mapping[str, datetime.datetime | None]


def read(annotation: str | None) -> datetime.datetime | None:
    """Return what an object's annotation says; None if nothing, or nothing that is a time."""
    try:
        return None if annotation is None else parse_rfc3339(annotation)
    except ValueError:
        return None


def due(demand: Mapping[str, Demand], told: Moments) -> dict[str, datetime.datetime]:
    """Return what should be told now, in whole seconds.

    Args:
        demand: What this machine knows, by deployment.
        told: What each object says already. Only those that are in it are told of.
    """
    found = {}
    for name, before in told.items():
        if name not in demand:
            continue
        own = demand[name]
        at = own.at.replace(microsecond=0)
        if before is None or at - before >= EVERY:
            found[name] = at
        elif own.waiting_since is not None and own.waiting_since > before:
            found[name] = max(at, before + _SECOND)
    return found


def combined(
    own: Mapping[str, datetime.datetime], elsewhere: Moments, now: datetime.datetime
) -> dict[str, datetime.datetime]:
    """Return when each deployment was wanted last, here or, for all that is known, elsewhere."""
    found = dict(own)
    for name, at in elsewhere.items():
        if at is not None:
            found[name] = max(found.get(name, at), min(at + EVERY, now))
    return found


class DemandTeller:
    """Tells what is due, and knows what it told itself."""

    def __init__(
        self, api: "KubeApi", namespace: str, demand: Callable[[], Mapping[str, Demand]],
        annotations: Callable[[], Mapping[str, str | None]], clock: Clock,
    ) -> None:  # fmt: skip
        """Prepare a teller.

        Args:
            api: The server.
            namespace: Where the ModelDeployments are.
            demand: What this machine knows.
            annotations: What the objects that may sleep say, as far as it was seen; only they
                are told of, and of others nobody needs to know.
            clock: For the present.
        """
        self._api = api
        self._namespace = namespace
        self._demand = demand
        self._annotations = annotations
        self._clock = clock
        self._told: dict[str, datetime.datetime] = {}

    def last_demand(self) -> dict[str, datetime.datetime]:
        """Return when each deployment was wanted last on any machine of the site."""
        own = {name: found.at for name, found in self._demand().items()}
        seen = self._seen()
        others = {n: at for n, at in seen.items() if at is not None and at != self._told.get(n)}
        return combined(own, others, self._clock.utc())

    async def look(self) -> Again:
        """Tell what is due.

        Raises:
            PeerUnreachableError: the server is away; it is told later.
        """
        seen = self._seen()
        latest = self._clock.utc() + EVERY
        self._told = {n: at for n, at in self._told.items() if n in seen and at <= latest}
        told = {name: self._newest(name, at) for name, at in seen.items()}
        for name, at in due(self._demand(), told).items():
            await asyncio.to_thread(self._tell, name, at)
        return Again(_LOOK_S)

    def _seen(self) -> Moments:
        """Return what the objects say; who wrote what is still to come had a wrong clock."""
        latest = self._clock.utc() + EVERY
        found = {name: read(text) for name, text in self._annotations().items()}
        return {n: None if at is not None and at > latest else at for n, at in found.items()}

    def _newest(self, name: str, at: datetime.datetime | None) -> datetime.datetime | None:
        """Return what an object says, also when it was not seen again since we wrote it."""
        own = self._told.get(name)
        return max(own, at) if own is not None and at is not None else own or at

    def _tell(self, name: str, at: datetime.datetime) -> None:
        path = MODEL_DEPLOYMENTS.path(self._namespace, name)
        text = at.isoformat().replace("+00:00", "Z")
        try:
            self._api.merge(path, {"metadata": {"annotations": {ANNOTATION: text}}})
        except NotFoundError:
            return  # deleted since
        self._told[name] = at
