"""Routes in a cluster: models and keys from the node's snapshot, engines from EndpointSlices.

The snapshot says what may be served and to whom; it is the controller's word, and only that. Where
the engines are at this moment the gateway sees for itself, so that pods that move are followed
although the controller is down. While the API server is away, what was seen last holds; before
anything was seen, what the snapshot says.

An engine is asked while it is ready. Once it is told to end it gets no new request, although it
still answers those that it has.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from appliance.core.routes import Endpoint, RouteSnapshot
from appliance.errors import ApplianceError
from appliance.kit.backoff import growing
from appliance.kit.clock import Clock
from appliance.kube.informer import Informer, Selection
from appliance.kube.marks import DEPLOYMENT
from appliance.kube.resources import ENDPOINT_SLICES, OLD_ENDPOINT_SLICES, Resource

if TYPE_CHECKING:
    from appliance.kube.client import Json, KubeApi

log = logging.getLogger(__name__)

_SERVICE_LABEL = "kubernetes.io/service-name"
_PORT_NAME = "http"
_FAMILIES = ("IPv4", "IPv6")


@dataclass(frozen=True, slots=True)
class Slice:
    """What one EndpointSlice says of a deployment: the engines that may be asked, and how."""

    deployment: str
    family: str
    endpoints: tuple[Endpoint, ...]


def read(found: "Json") -> Slice | None:
    """Return what an EndpointSlice of ``v1`` or ``v1beta1`` says; None if it is none of ours.

    Servers before 1.21 may leave our label away; there the Service's name is the deployment's.
    """
    labels = found["metadata"].get("labels") or {}
    deployment = labels.get(DEPLOYMENT) or labels.get(_SERVICE_LABEL)
    family = found.get("addressType")
    port = _port(found.get("ports") or ())
    if not deployment or family not in _FAMILIES or port is None:
        return None
    endpoints = (_endpoint(e, family, port) for e in found.get("endpoints") or () if _takes(e))
    return Slice(deployment, family, tuple(endpoints))


def _port(ports: "Iterable[Json]") -> int | None:
    """Return the port named http, else the first of TCP."""
    usable = [p for p in ports if p.get("port") and p.get("protocol", "TCP") == "TCP"]
    usable.sort(key=lambda p: p.get("name") != _PORT_NAME)
    return usable[0]["port"] if usable else None


def _takes(endpoint: "Json") -> bool:
    """Whether an engine may get new requests; what a server does not say counts as yes.

    A Service may publish engines that are not ready, so ``ready`` alone is not enough.
    """
    said = endpoint.get("conditions") or {}
    ready = said.get("ready") is not False and said.get("serving") is not False
    return ready and said.get("terminating") is not True and bool(endpoint.get("addresses"))


def _endpoint(endpoint: "Json", family: str, port: int) -> Endpoint:
    address = endpoint["addresses"][0]  # all addresses of one endpoint lead to the same pod
    host = f"[{address}]" if family == "IPv6" else address
    pod = (endpoint.get("targetRef") or {}).get("name")
    topology = endpoint.get("topology") or endpoint.get("deprecatedTopology") or {}
    node = endpoint.get("nodeName") or topology.get("kubernetes.io/hostname") or ""
    return Endpoint(pod or address, f"http://{host}:{port}", node)


def by_deployment(slices: Iterable[Slice]) -> dict[str, tuple[Endpoint, ...]]:
    """Return each deployment's engines, every pod once.

    A pod may stand in several slices: in one for each family, and in two while the server moves it.
    """
    found: dict[str, dict[str, Endpoint]] = {}
    for one in sorted(slices, key=lambda s: _FAMILIES.index(s.family)):
        pods = found.setdefault(one.deployment, {})
        for endpoint in one.endpoints:
            pods.setdefault(endpoint.replica, endpoint)
    return {name: tuple(pods[pod] for pod in sorted(pods)) for name, pods in found.items()}


def with_endpoints(
    snapshot: RouteSnapshot, engines: Mapping[str, tuple[Endpoint, ...]]
) -> RouteSnapshot:
    """Return a snapshot whose engines are those of a cluster; a route is named as its deployment.

    What the snapshot does not name is not served, whatever runs in the cluster.
    """
    routes = (replace(r, endpoints=engines.get(r.model, ())) for r in snapshot.routes)
    return replace(snapshot, routes=tuple(routes))


class Snapshots(Protocol):
    """Where the controller's word comes from."""

    def current(self) -> RouteSnapshot:
        """Return the newest; the same object while nothing changed."""

    @property
    def was_read(self) -> bool:
        """Whether there ever was one."""


class ClusterRoutes:
    """The routes of a gateway in a cluster. Use it on the event loop on which ``follow`` runs."""

    def __init__(
        self, snapshots: Snapshots, connect: "Callable[[], KubeApi]", namespace: str, clock: Clock
    ) -> None:
        """``connect`` is called, on a thread, until it succeeds: at start nobody may be there."""
        self._snapshots = snapshots
        self._connect = connect
        self._namespace = namespace
        self._clock = clock
        self._informer: Informer[Slice] | None = None
        self._is_new = False
        self._engines: dict[str, tuple[Endpoint, ...]] | None = None
        self._merged: tuple[RouteSnapshot, RouteSnapshot] | None = None

    @property
    def was_read(self) -> bool:
        """Whether a snapshot was ever read; the cluster is not waited for."""
        return self._snapshots.was_read

    @property
    def is_following(self) -> bool:
        """Whether the engines are those that the cluster has now."""
        informer = self._informer
        return informer is not None and informer.synced.is_set() and informer.is_connected

    def current(self) -> RouteSnapshot:
        """Return the snapshot's models with the cluster's engines."""
        snapshot = self._snapshots.current()
        informer = self._informer
        if informer is None or not informer.synced.is_set():
            return snapshot
        if self._is_new or self._engines is None:
            self._engines = by_deployment(informer.items().values())
            self._is_new, self._merged = False, None
        if self._merged is None or self._merged[0] is not snapshot:
            self._merged = (snapshot, with_endpoints(snapshot, self._engines))
        return self._merged[1]

    async def follow(self) -> None:
        """Watch the cluster, for ever."""
        api, kind = await self._connected()
        selection = Selection(kind.path(self._namespace))
        self._informer = Informer(api, selection, read, self._note)
        self._informer.start()
        try:
            await asyncio.Event().wait()
        finally:
            await self._informer.close()
            api.close()

    def _note(self, _: str) -> None:
        self._is_new = True

    async def _connected(self) -> "tuple[KubeApi, Resource]":
        delays = growing(0.5, 15)
        while True:
            try:
                return await asyncio.to_thread(self._ask_server)
            except ApplianceError as error:
                log.warning("the cluster's engines cannot be followed yet: %s", error)
                await self._clock.sleep(next(delays))

    def _ask_server(self) -> "tuple[KubeApi, Resource]":
        api = self._connect()
        try:
            group = api.get(f"/apis/{ENDPOINT_SLICES.group}")
        except BaseException:
            api.close()
            raise
        has_v1 = any(v.get("version") == "v1" for v in group.get("versions") or ())
        return api, ENDPOINT_SLICES if has_v1 else OLD_ENDPOINT_SLICES
