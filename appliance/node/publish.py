"""Tells the cluster what this node holds, and what the machine has.

Level, not edge: each look compares what the node has with what the informers show, and writes only
the difference. A node whose entry somebody deleted says it again.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from appliance.errors import BadDocumentError
from appliance.kit.loop import Again
from appliance.kube.errors import ConflictError
from appliance.kube.objects.publish import (
    ModelView,
    Own,
    SiteView,
    Write,
    body,
    manager_of,
    model_writes,
    read_site,
    site_status,
    without,
)
from appliance.kube.resources import MODELS, SITES, Resource

if TYPE_CHECKING:
    from appliance.kube.client import Json, KubeApi
    from appliance.kube.informer import Informer

log = logging.getLogger(__name__)


class Publisher:
    """Keeps one node's entries in its Site and in the Models as they should be."""

    def __init__(
        self,
        api: "KubeApi",
        models: "Informer[ModelView]",
        sites: "Informer[SiteView]",
        own: Callable[[], Own],
        *,
        site: str,
    ) -> None:
        """``own`` is asked in a thread at each look; ``site`` is the name of this node's Site."""
        self._api = api
        self._models = models
        self._sites = sites
        self._own = own
        self._site = site
        self._refused: dict[str, str] = {}

    async def look(self) -> Again | None:
        """Write what differs.

        Raises:
            PeerUnreachableError: the server is away.
            ConflictError: another node was faster; the next look sees what it wrote.
            NotFoundError: the server does not have our kinds yet.
        """
        await self._models.synced.wait()
        await self._sites.synced.wait()
        own = await asyncio.to_thread(self._own)
        conflict: ConflictError | None = None
        await asyncio.to_thread(self._tell_site, own, self._sites.get(self._site))
        await self._leave_sites(own.node)
        for write in model_writes(own, self._models.items()):
            try:
                await asyncio.to_thread(self._write, write, own.node)
            except ConflictError as error:  # the others go on
                conflict = error
            except BadDocumentError as error:  # a name that Kubernetes cannot have: no retry helps
                self._note_refused(write.name, error)
        if conflict is not None:
            raise conflict
        return None

    def _tell_site(self, own: Own, shown: SiteView | None) -> None:
        told = body(SITES, self._site, status=site_status(own))
        if shown is None:
            bare = body(SITES, self._site, spec={})
            self._api.apply(SITES.path(name=self._site), bare, manager=manager_of(own.node))
        elif shown.node(own.node) == read_site(told).node(own.node):
            return
        self._apply_status(SITES, told, own.node)

    async def _leave_sites(self, node: str) -> None:
        """Take back what other Sites say of this node: it was in them, or somebody made it up."""
        for name, shown in self._sites.items().items():
            if name != self._site and shown.node(node) is not None:
                log.info("the site %s is not this node's: its entry there goes", name)
                await asyncio.to_thread(leave, self._api, SITES, name, node)

    def _write(self, write: Write, node: str) -> None:
        path, manager = MODELS.path(name=write.name), manager_of(node)
        if write.delete_uid:
            self._api.delete(path, uid=write.delete_uid)
        if write.leaves:
            leave(self._api, MODELS, write.name, node)
        if write.spec is not None:
            told = body(MODELS, write.name, spec=write.spec)
            self._api.apply(path, told, manager=manager, force=write.force)
        if write.status is not None:
            self._apply_status(MODELS, body(MODELS, write.name, status=write.status), node)

    def _apply_status(self, kind: Resource, told: "Json", node: str) -> None:
        """Nobody else may write a node's own entry: it is taken back by force."""
        path = kind.path(name=told["metadata"]["name"], sub="status")
        self._api.apply(path, told, manager=manager_of(node, "status"), force=True)

    def _note_refused(self, name: str, error: BadDocumentError) -> None:
        if self._refused.get(name) != error.what:
            self._refused[name] = error.what
            log.warning("the model %s cannot be shown in the cluster: %s", name, error)


def leave(api: "KubeApi", kind: Resource, name: str, node: str) -> None:
    """Take a node's word out of a Model or Site; also that of a node that is gone for good.

    Raises:
        ConflictError: it was written meanwhile; look again.
        NotFoundError: it is gone.
    """
    path = kind.path(name=name)
    spec, _ = without(node, api.get(path))
    found = api.merge(path, spec) if kind is MODELS else api.get(path)
    _, status = without(node, found)
    api.merge(kind.path(name=name, sub="status"), status)
