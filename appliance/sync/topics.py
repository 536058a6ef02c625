"""The topic tree of DESIGN section 7. Pure: build and parse every topic."""

from dataclasses import dataclass

from appliance.core.ids import NodeId, node_id

ROOT = "ea1"
EVERY_NODE = f"{ROOT}/+/up/#"
"""What the hub listens to."""


@dataclass(frozen=True, slots=True)
class NodeTopics:
    """The topics of one node."""

    node: NodeId

    @property
    def desired(self) -> str:
        """Retained, QoS 1: the fleet's whole word, signed by the director."""
        return f"{ROOT}/{self.node}/dn/desired"

    @property
    def ack(self) -> str:
        """Retained, QoS 1: how far the hub has committed each stream, signed by its sync key."""
        return f"{ROOT}/{self.node}/dn/ack"

    @property
    def time(self) -> str:
        """QoS 1: a signed time for this node's nonce, by the hub's sync key."""
        return f"{ROOT}/{self.node}/dn/time"

    @property
    def state(self) -> str:
        """Retained, QoS 1, unsigned: online or not; also the will. Never evidence of Ready."""
        return f"{ROOT}/{self.node}/up/state"

    @property
    def reported(self) -> str:
        """Retained, QoS 1: the node's signed report."""
        return f"{ROOT}/{self.node}/up/reported"

    def stream(self, name: str) -> str:
        """QoS 1: signed batches of one stream."""
        return f"{ROOT}/{self.node}/up/s/{name}"


@dataclass(frozen=True, slots=True)
class Upward:
    """A topic that a node publishes to: which node, and what for."""

    node: NodeId
    kind: str
    stream: str | None = None


def parse_upward(topic: str) -> Upward | None:
    """Return what an upward topic is for, or None when it is not one of ours."""
    parts = topic.split("/")
    if len(parts) < 4 or parts[0] != ROOT or parts[2] != "up":
        return None
    try:
        node = node_id(parts[1])
    except ValueError:
        return None
    if len(parts) == 4 and parts[3] in ("state", "reported"):
        return Upward(node, parts[3])
    if len(parts) == 5 and parts[3] == "s":
        return Upward(node, "stream", parts[4])
    return None
