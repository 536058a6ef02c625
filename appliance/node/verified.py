"""Keeps this node's entries in the list that the admission policies read."""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from appliance.kit.loop import Again
from appliance.kube.objects import verified
from appliance.kube.objects.publish import manager_of
from appliance.kube.resources import CONFIG_MAPS

if TYPE_CHECKING:
    from appliance.kube.client import Json, KubeApi

log = logging.getLogger(__name__)


class VerifiedList:
    """Applies what this node verified, when that changed, and now and then although it did not."""

    def __init__(
        self, api: "KubeApi", node: str, namespace: str, own: Callable[[], "Json"]
    ) -> None:
        """``own`` returns the ConfigMap of this node alone; it is asked in a thread."""
        self._api = api
        self._path = CONFIG_MAPS.path(namespace, verified.NAME)
        self._manager = manager_of(node)
        self._own = own

    async def look(self) -> Again | None:
        """Apply it.

        Raises:
            PeerUnreachableError, ForbiddenError: as their names say.
        """
        await asyncio.to_thread(self._look)
        return None

    def _look(self) -> None:
        self._api.apply(self._path, self._own(), manager=self._manager, force=True)
