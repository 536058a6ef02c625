"""What a node has more of where it is in a cluster. Nothing else loads what speaks to Kubernetes.

The cluster may be away when the node starts, and so may be the file that says how to reach it: k3s
writes its own on its first start. Until then the node serves, imports and answers as ever.
"""

import asyncio
import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance.errors import ApplianceError, ConflictError
from appliance.kit.clock import SystemClock, rfc3339
from appliance.kit.loop import Again, Wake, drive
from appliance.kube import logs
from appliance.kube.client import KubeApi
from appliance.kube.marks import MANAGER
from appliance.wiring.commands import stop_engines
from appliance.wiring.connected import Connected
from appliance.wiring.core import Here

_ARENA_MAX = -8
"""``M_ARENA_MAX`` of glibc's ``mallopt``."""


def _spare_memory() -> None:
    """Have a dozen watching threads share two heaps: by default each gets, and keeps, its own."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_ARENA_MAX, 2)


class Cluster:
    """A node's part in its cluster; connected once it can be, and for ever after."""

    def __init__(self, node: Here) -> None:
        _spare_memory()
        self._node = node
        self._connected: Connected | None = None
        self._why_not = "not reached yet"
        self._away_since: str | None = rfc3339(SystemClock().utc())

    async def reconcile(self) -> Again | None:
        """Make a pass; without a cluster there is nothing to do."""
        return None if self._connected is None else await self._connected.controller.reconcile()

    async def run(self) -> None:
        """Connect, and keep everything running that has to do with the cluster."""
        await drive_until(self._connect)
        assert self._connected is not None
        async with contextlib.AsyncExitStack() as stack:
            await self._connected.start(stack)
            await asyncio.gather(*self._connected.loops(), self._watch_link())

    async def _connect(self) -> bool:
        configured = self._node.settings.kubernetes.kubeconfig
        path = None if configured == "in-cluster" else Path(configured)
        try:
            api = await asyncio.to_thread(KubeApi.connect, path, manager=MANAGER)
        except ApplianceError as error:
            self._why_not = error.what
            raise
        self._connected = Connected(self._node, api)
        return True

    async def _watch_link(self) -> None:
        assert self._connected is not None
        while True:
            if self._connected.is_connected:
                self._away_since = None
            elif self._away_since is None:
                self._away_since = rfc3339(SystemClock().utc())
            await asyncio.sleep(1)

    def changed(self) -> None:
        """Tell the cluster soon of what has changed on this node."""
        if self._connected is not None:
            self._connected.news()

    async def restart(self, name: str) -> list[str]:
        """Stop the engines of a deployment; return their ids. The next pass starts them again.

        Raises:
            PeerUnreachableError: the cluster is away.
            ConflictError: another node of the site leads.
        """
        if self._connected is None:
            raise logs.away(self._why_not)
        if not self._connected.lease.holds:
            leader = self._connected.lease.holder
            raise ConflictError(f"{leader} leads this site, so engines are restarted from there")
        return await stop_engines(self._connected.driver, name)

    def log_lines(self, name: str, lines: int) -> dict[str, list[str]]:
        """Return what a deployment's engines said last. Blocking.

        Raises:
            PeerUnreachableError: the cluster is away.
        """
        if self._connected is None:
            raise logs.away(self._why_not)
        namespace = self._node.settings.kubernetes.namespace
        return logs.of_deployment(self._connected.api, namespace, name, lines)

    def status(self) -> dict[str, Any]:
        """Return what people are told of the cluster."""
        found = self._connected
        base = {"reachable": self._away_since is None, "away_since": self._away_since}
        if found is None:
            return {**base, "node": self._node.settings.kubernetes.node_name, "why": self._why_not}
        abilities = found.server.abilities
        return {
            **base,
            "node": self._node.settings.kubernetes.node_name,
            "server": None if abilities is None else abilities.version,
            "leads": found.lease.holds,
            "leader": found.lease.holder,
            "deployments": len(found.deployments),
            "calls": found.api.calls,
            "cannot": [] if abilities is None else abilities.cannot(),
        }


async def drive_until(step: Callable[[], Any]) -> None:
    """Repeat a step that raises until it works."""
    done = asyncio.Event()

    async def one() -> Again | None:
        await step()
        done.set()
        return None

    loop = asyncio.ensure_future(drive(one, Wake(), SystemClock(), name="the cluster", resync_s=15))
    await done.wait()
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
