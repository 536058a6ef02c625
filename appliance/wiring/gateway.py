"""The gateway of one node: of its own engines, or of the cluster that the node belongs to."""

import json
import logging
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.errors import UsageError
from appliance.gateway.app import Gateway, Reach
from appliance.gateway.balance import Balancer
from appliance.gateway.demand import DemandMarks
from appliance.gateway.engines import Engines
from appliance.gateway.routes import RouteFile, RouteSource
from appliance.gateway.spool import UsageSpool
from appliance.kit import asgi
from appliance.kit.clock import SystemClock
from appliance.kit.files import locked, make_folder, replace_quickly
from appliance.node import identity
from appliance.settings import GatewaySettings, KubernetesSettings
from appliance.wiring import places
from appliance.wiring.daemon import Ending, is_loopback, run_until

if TYPE_CHECKING:
    from appliance.kube.client import KubeApi

log = logging.getLogger(__name__)
IN_CLUSTER = "in-cluster"


async def run_gateway(
    state: Path, settings: GatewaySettings, cluster: KubernetesSettings | None = None
) -> None:
    """Run the gateway of a node until it is told to end.

    In a pod there is only ``run/``, read-only, and ``spool/``, and while a new version takes over
    two run side by side: there it takes no lock and leaves no address.

    Raises:
        NotFoundError: there is no node.
        UsageError: it would be open to others without a key.
        AddressBusyError: another program listens there.
        LockedError: this node has a gateway already.
    """
    found = cluster or KubernetesSettings()
    if found.kubeconfig == IN_CLUSTER:
        await _run(state, settings, found)
        return
    identity.load(state)
    make_folder(state / places.GATEWAY_LOCK.parent)
    with locked(state / places.GATEWAY_LOCK, what=f"the gateway of the node in {state}"):
        await _run(state, settings, found)


async def _run(state: Path, settings: GatewaySettings, cluster: KubernetesSettings) -> None:
    routes, *follow = _routes(RouteFile(state / places.ROUTES), cluster)
    reach = _reach(settings.host, cluster, has_key=bool(routes.current().keys))
    sock = asgi.listen_tcp(settings.host, settings.port)
    make_folder(state / places.SPOOL)
    make_folder(state / places.DEMAND)
    usage = UsageSpool(state / places.SPOOL)
    clock = SystemClock()
    node = _node(cluster)
    engines = Engines(routes, Balancer(node), DemandMarks(state / places.DEMAND, clock), settings)
    most = settings.most_body_bytes
    gateway = Gateway(routes, usage, engines, clock, reach=reach, most_body_bytes=most)
    in_pod = cluster.kubeconfig == IN_CLUSTER
    told = nullcontext() if in_pod else _told(state / places.GATEWAY_ADDRESS, settings.host, sock)
    log.info("listening on %s port %d", settings.host, sock.getsockname()[1])
    try:
        with told:
            serving = asgi.serve(gateway, sock)
            await run_until(Ending().asked, serving, engines.note_use(), *[f() for f in follow])
    finally:
        usage.close()


def _reach(host: str, cluster: KubernetesSettings, *, has_key: bool) -> Reach:
    if is_loopback(host):
        return Reach.THIS_MACHINE
    if cluster.kubeconfig:
        return Reach.CLUSTER
    if not has_key:
        raise UsageError(
            f"the gateway would be open to everybody who reaches {host}",
            hint="make a key first: appliance gateway key create NAME, or listen on 127.0.0.1",
        )
    return Reach.OTHERS


def _node(cluster: KubernetesSettings) -> str:
    """Return what the cluster calls this machine; without a cluster none is near or far."""
    return (cluster.node or socket.gethostname().lower()) if cluster.kubeconfig else ""


@contextmanager
def _told(path: Path, host: str, sock: socket.socket) -> Iterator[None]:
    """Say where we listen for as long as the block runs."""
    address = {"host": host, "port": sock.getsockname()[1], "pid": os.getpid()}
    replace_quickly(path, json.dumps(address).encode())
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _routes(
    file: RouteFile, cluster: KubernetesSettings
) -> tuple[RouteSource, *tuple[Callable[[], Coroutine[Any, Any, None]], ...]]:
    """Return where routes come from, and the loops that keep them new."""
    if not cluster.kubeconfig:
        return (file,)
    from appliance.kube.routes import ClusterRoutes  # noqa: PLC0415 - a cluster's gateway alone

    def connect() -> "KubeApi":
        from appliance.kube.client import KubeApi  # noqa: PLC0415 - 38 MiB

        path = None if cluster.kubeconfig == IN_CLUSTER else Path(cluster.kubeconfig)
        return KubeApi.connect(path, manager="edge-appliance-gateway", pool=2)

    routes = ClusterRoutes(file, connect, cluster.namespace, SystemClock())
    return routes, routes.follow
