"""Where something may run, and what every decision is made of."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from appliance.core.documents import ModelDeployment
from appliance.core.ids import Digest
from appliance.core.machine import Gpu
from appliance.core.model import Denial, Replica, Variant
from appliance.core.state import Condition, Truth
from appliance.planner.estimate import estimate, limit_bytes
from appliance.planner.select import ENGINES

RESERVED_BYTES = 512 << 20
"""Left to the system and to the appliance's own processes."""


@dataclass(frozen=True, slots=True)
class Place:
    """One machine: what it holds, what it has, and what must not be started on it.

    ``node`` is its name in the cluster, and empty for a machine that is alone. ``variants`` are
    those whose weights are there. Memory or GPUs that are None are not known. ``gpus`` leaves out
    those that are fenced. A place that is not ``schedulable`` keeps what it runs and gets no more.
    """

    node: str = ""
    variants: tuple[Variant, ...] = ()
    memory_bytes: int | None = None
    gpus: tuple[Gpu, ...] | None = None
    denied: Mapping[Digest, Denial] = field(default_factory=dict)
    schedulable: bool = True

    @property
    def room_bytes(self) -> int | None:
        """What engines may have of its memory."""
        return None if self.memory_bytes is None else max(0, self.memory_bytes - RESERVED_BYTES)


@dataclass(frozen=True, slots=True)
class Decision:
    """What one deployment gets: replicas to run, and the conditions that say why.

    ``wanted`` is how many replicas it should have now; ``replicas`` may be fewer.
    """

    name: str
    variant: Variant | None
    replicas: tuple[Replica, ...]
    conditions: tuple[Condition, ...]
    wanted: int = 1


def replicas_of(
    deployment: ModelDeployment, variant: Variant, slots: int, numbers: Collection[int],
    *, in_cluster: bool = False,
) -> tuple[Replica, ...]:  # fmt: skip
    """Return the replicas of these numbers; only a cluster honours GPUs and priority."""
    spec = deployment.spec
    resources = spec.resources if in_cluster else None
    limit = limit_bytes(estimate(variant, spec.context, slots))
    return tuple(
        _kept(
            Replica(
                id=f"{deployment.name}-{number}",
                deployment=deployment.name,
                variant=variant,
                engine=ENGINES[variant.format],
                context=spec.context,
                slots=slots,
                memory_limit_bytes=limit,
                gpus=0 if resources is None else resources.gpu or 0,
                mig="" if resources is None else resources.mig or "",
                priority=spec.priority if in_cluster else "standard",
            )
        )
        for number in numbers
    )


@lru_cache(maxsize=8192)
def _kept(replica: Replica) -> Replica:
    """Return the first that was equal: asked the same at each pass, the same comes back."""
    return replica


@lru_cache(maxsize=8192)
def may_run_on(replica: Replica, nodes: tuple[str, ...]) -> Replica:
    """Return a replica with the nodes that may take it."""
    return replace(replica, nodes=nodes)


def used_bytes(replica: Replica) -> int:
    """Return what a replica counts for where it runs."""
    need = estimate(replica.variant, replica.context, replica.slots)
    return need.total_bytes or replica.memory_limit_bytes


def signed(variant: Variant) -> Condition:
    """Return the condition ``Verified`` of what somebody vouches for."""
    return Condition("Verified", Truth.TRUE, "Signed", f"{variant.reference}, {variant.manifest}")


def goes_on(denial: Denial) -> Condition:
    """Return the condition ``Verified`` of what may not start and runs."""
    until = "what runs goes on until it ends, and is not started again"
    return Condition("Verified", Truth.FALSE, denial.reason, f"{denial.message}; {until}")


def context_too_long(deployment: ModelDeployment, variant: Variant) -> Condition | None:
    """Return the condition ``Fits`` of a context that a model was not trained for, else None."""
    most = variant.context_max
    if most is None or deployment.spec.context <= most:
        return None
    message = (
        f"context {deployment.spec.context} is more than the {most} tokens that "
        f"{variant.model} was trained for"
    )
    return Condition("Fits", Truth.FALSE, "ContextTooLong", message)
