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
    def commands(self) -> str:
        """What a node subscribes to: ``command`` of every id."""
        return self.command("+")

    def command(self, name: str) -> str:
        """QoS 1, expires, never retained: one verb with a counter, signed by the director."""
        return f"{ROOT}/{self.node}/dn/cmd/{name}"

    @property
    def certificate(self) -> str:
        """QoS 1: the certificates that the hub's CA issued to this node, its own first."""
        return f"{ROOT}/{self.node}/dn/cert"

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

    def outcome(self, name: str) -> str:
        """QoS 1: progress and outcome of a command, signed by the node."""
        return f"{ROOT}/{self.node}/up/cmd/{name}"

    @property
    def request(self) -> str:
        """QoS 1: PKCS#10 and a nonce, signed by the node's key: it asks for a certificate."""
        return f"{ROOT}/{self.node}/up/csr"


@dataclass(frozen=True, slots=True)
class Downward:
    """A topic that the hub publishes to: what for, and of a command its id."""

    kind: str
    name: str | None = None


_DOWN = ("desired", "ack", "time", "cert")
_PLAIN_UP = {"state": "state", "reported": "reported", "csr": "request"}
_NAMED_UP = {"s": "stream", "cmd": "outcome"}


def parse_downward(topic: str, node: NodeId) -> Downward | None:
    """Return what a topic of ``node`` is for, or None when it is not one that the hub speaks on."""
    root, _, rest = topic.partition(f"/{node}/dn/")
    if root != ROOT:
        return None
    if rest in _DOWN:
        return Downward(rest)
    kind, _, name = rest.partition("/")
    return Downward(kind, name) if kind == "cmd" and name and "/" not in name else None


@dataclass(frozen=True, slots=True)
class Upward:
    """A topic that a node publishes to: which node, what for, and which stream or command."""

    node: NodeId
    kind: str
    name: str | None = None


def parse_upward(topic: str) -> Upward | None:
    """Return what an upward topic is for, or None when it is not one of ours."""
    parts = topic.split("/")
    if len(parts) < 4 or parts[0] != ROOT or parts[2] != "up":
        return None
    try:
        node = node_id(parts[1])
    except ValueError:
        return None
    if len(parts) == 4 and parts[3] in _PLAIN_UP:
        return Upward(node, _PLAIN_UP[parts[3]])
    if len(parts) == 5 and parts[3] in _NAMED_UP and parts[4]:
        return Upward(node, _NAMED_UP[parts[3]], parts[4])
    return None
