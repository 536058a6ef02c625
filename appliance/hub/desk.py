"""What the hub's service asks of whoever deals with one matter."""

from collections.abc import Iterable
from typing import Protocol

from appliance.hub.store import NodeRow
from appliance.sync.mqtt import Message


class Desk(Protocol):
    """One matter between the hub and its nodes, such as commands or certificates."""

    async def take(self, row: NodeRow, name: str | None, payload: bytes) -> bool | None:
        """Take in what a node sent; ``name`` is the last part of its topic, if it has one.

        Returns:
            False when it is known to have said nothing new.

        Raises:
            RefusedError: it is not the node's, or malformed; it is noted as refused.
        """

    def messages(self, row: NodeRow) -> Iterable[Message]:
        """Return what is to be said to a node now, when it may have heard nothing so far."""
