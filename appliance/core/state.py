"""How things are: conditions, replicas as seen, deployments as reported."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from appliance.core.documents import ModelDeployment
from appliance.core.model import Variant


class Truth(StrEnum):
    """A condition's status, in Kubernetes' words."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Condition:
    """One statement about an object that a person understands without the source code."""

    type: str
    status: Truth
    reason: str
    message: str

    def to_wire(self) -> dict[str, str]:
        """Return plain JSON data."""
        return asdict(self)


class Phase(StrEnum):
    """Where a replica is in its life."""

    STARTING = "starting"
    READY = "ready"
    BACKOFF = "backoff"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class ObservedReplica:
    """A replica as its driver sees it now.

    ``restarts`` counts all, ``failures`` those in a row in which it never became ready.
    ``endpoint`` is where the engine answers: the path of a Unix socket, or ``http://IP:PORT`` in a
    cluster, where ``node`` names the machine it runs on. ``retry_in_s`` is set in
    ``BACKOFF`` only, and so is ``log_tail``, the last lines of the engine's log. ``missing`` lists
    the containment that this machine could not give.
    """

    id: str
    deployment: str
    revision: str
    phase: Phase
    endpoint: str | None = None
    launcher: str = ""
    pid: int | None = None
    restarts: int = 0
    failures: int = 0
    retry_in_s: float | None = None
    message: str = ""
    log_tail: tuple[str, ...] = ()
    memory_bytes: int | None = None
    memory_limit: str = ""
    contained: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    node: str = ""


class Origin(StrEnum):
    """Who asked for an object; ``CLUSTER``: somebody who speaks to the API server."""

    FLEET = "fleet"
    LOCAL = "local"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class DesiredDeployment:
    """A deployment that is in force, and whose word it is.

    ``drift`` says in what a local word departs from the fleet's, and is empty otherwise.
    """

    document: ModelDeployment
    origin: Origin
    drift: str = ""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A document that was accepted once, and that this release does not allow."""

    kind: str
    name: str
    origin: Origin
    model: str
    why: str


@dataclass(frozen=True, slots=True)
class DesiredState:
    """All that is in force; ``removed`` are fleet objects that local staff took away.

    ``unreadable`` was accepted by a release that allowed more: what runs for it is left alone.
    """

    deployments: tuple[DesiredDeployment, ...] = ()
    removed: tuple[str, ...] = ()
    fleet_generation: int | None = None
    unreadable: tuple[Unreadable, ...] = ()


@dataclass(frozen=True, slots=True)
class DeploymentStatus:
    """One deployment as people and the hub see it.

    ``replicas`` are those that it should have now. One that is ``asleep`` should have none until a
    request wakes it; ``wakes``: it is allowed to sleep, whether it does or not.
    """

    name: str
    origin: Origin
    drift: str
    model: str
    variant: Variant | None
    replicas: int
    ready: int
    conditions: tuple[Condition, ...] = ()
    engines: tuple[ObservedReplica, ...] = ()
    asleep: bool = False
    wakes: bool = False

    def condition(self, kind: str) -> Condition | None:
        """Return the condition of one type, if it was stated."""
        return next((c for c in self.conditions if c.type == kind), None)

    @property
    def is_ready(self) -> bool:
        """Whether all that was asked for serves."""
        found = self.condition("Ready")
        return found is not None and found.status is Truth.TRUE

    def to_wire(self) -> dict[str, Any]:
        """Return plain JSON data: the ``status`` of a resource."""
        variant = self.variant
        return {
            "name": self.name,
            "origin": self.origin,
            "drift": self.drift,
            "model": self.model,
            "variant": None if variant is None else variant.name,
            "version": None if variant is None else variant.version,
            "digest": None if variant is None else variant.manifest,
            "replicas": self.replicas,
            "ready": self.ready,
            "conditions": [c.to_wire() for c in self.conditions],
        }
