"""Engines in pods that must leave a GPU of this node.

The node that has the GPU sees who uses it, whoever plans. So it takes the replica's Deployment
away itself, and whoever plans makes it again where it may run, without that GPU. A pod that is
ending already is not counted: what was made in its place must not be taken away too.
"""

import asyncio
import logging
from typing import TYPE_CHECKING

from appliance.errors import ApplianceError
from appliance.kit.loop import Again
from appliance.kube.marks import OURS, REPLICA
from appliance.kube.resources import DEPLOYMENTS, PODS
from appliance.node.gpus import Gpus
from appliance.planner.fence import Owner

if TYPE_CHECKING:
    from appliance.kube.client import KubeApi

log = logging.getLogger(__name__)

_LOOK_S = 5.0


class Leaving:
    """Moves replicas off the fenced GPUs of one node of a cluster."""

    def __init__(self, api: "KubeApi", gpus: Gpus, *, namespace: str, node: str) -> None:
        self._api = api
        self._gpus = gpus
        self._namespace = namespace
        self._node = node
        self._processes = gpus.owners
        gpus.owners = self.owners

    def owners(self) -> list[Owner]:
        """Return how the processes of engines are told, in pods of this node and outside them.

        While the API server is away those in pods cannot be told; they go on until it is back.
        """
        found = list(self._processes())
        where = f"spec.nodeName={self._node}"
        try:
            pods, _ = self._api.list(PODS.path(self._namespace), labels=OURS, fields=where)
        except ApplianceError as error:
            log.warning("whose processes are on the GPUs is not known: %s", error)
            return found
        for pod in pods:
            replica = pod["metadata"]["labels"].get(REPLICA)
            if replica and "deletionTimestamp" not in pod["metadata"]:
                found.append(Owner(replica, mark=pod["metadata"]["uid"]))
        return found

    async def look(self) -> Again:
        """Take away what must leave.

        Raises:
            PeerUnreachableError, ForbiddenError: it could not; the next look tries again.
        """
        for replica, why in self._gpus.stops().items():
            log.warning("%s leaves: %s", replica, why)
            await asyncio.to_thread(self._api.delete, DEPLOYMENTS.path(self._namespace, replica))
        return Again(_LOOK_S)
