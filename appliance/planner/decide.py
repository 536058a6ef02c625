"""From what is in force and what is here to the replicas that should run, with reasons.

A model that is not in the catalogue, one that nobody vouches for any more, a context that it was
not trained for and memory that is not there are answers, not errors: each becomes a condition with
its arithmetic. Here is what a machine does that is alone; for several, see ``spread``.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from appliance.core.documents import ModelDeployment
from appliance.core.model import Replica, Variant
from appliance.core.quantity import format_bytes
from appliance.core.state import Condition, Truth
from appliance.planner.estimate import Estimate, estimate
from appliance.planner.place import (
    RESERVED_BYTES,
    Decision,
    Place,
    context_too_long,
    goes_on,
    replicas_of,
    signed,
    used_bytes,
)
from appliance.planner.select import Choice, select
from appliance.planner.spread import spread

_SMALL_CONTEXT = 2048
"""Tokens; fewer are of no use to anybody."""


def decide(
    deployments: Iterable[ModelDeployment],
    places: Sequence[Place],
    *,
    slots: int,
    alive: Mapping[str, str] = MappingProxyType({}),
    wanted: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Decision]:
    """Return a decision for each deployment, by name.

    On one place without a name, memory is given out in the order of names, all or nothing, so that
    the answer does not depend on what happens to run already; only what must not be started any
    more is there because it runs. Named places are nodes of a cluster, and ``spread`` decides.

    Args:
        deployments: What is wanted.
        places: Where it may run.
        slots: Those of each engine.
        alive: The revisions of engines that run, and on which node each does.
        wanted: How many replicas a deployment should have now, where that is not ``replicas``.
    """
    asked = [(d, wanted.get(d.name, d.spec.replicas)) for d in deployments]
    if len(places) != 1 or places[0].node:
        return spread(asked, places, slots=slots, alive=alive)
    (place,) = places
    known = list(place.variants)
    left = place.room_bytes
    decisions = {}
    for deployment, replicas in sorted(asked, key=lambda a: a[0].name):
        choice = select(deployment, known, place.denied)
        alone = _Alone(deployment, choice, replicas, slots)
        decision, used = alone.decide(alive, left)
        decisions[deployment.name] = decision
        left = None if left is None else max(0, left - used)
    return decisions


class _Alone:
    """One deployment on a machine that is alone."""

    def __init__(
        self, deployment: ModelDeployment, choice: Choice, replicas: int, slots: int
    ) -> None:
        self._deployment = deployment
        self._choice = choice
        self._count = replicas
        self._slots = slots

    def decide(self, alive: Mapping[str, str], left: int | None) -> tuple[Decision, int]:
        """Return the decision, and how many bytes it uses of those ``left``."""
        lingering = self._lingering(alive)
        replicas = tuple(lingering.values())
        candidate, fits = self._fitting(left)
        if candidate is not None and fits[0].status is not Truth.FALSE:
            fresh = self._replicas(candidate)
            replicas = tuple(lingering.get(replica.id, replica) for replica in fresh)
        variant = next((replica.variant for replica in lingering.values()), candidate)
        conditions = (self._verified(lingering, candidate), *fits)
        used = sum(used_bytes(replica) for replica in replicas)
        name = self._deployment.name
        return Decision(name, variant, replicas, conditions, self._count), used

    def _fitting(self, left: int | None) -> tuple[Variant | None, tuple[Condition, ...]]:
        """Return the first candidate that may fit, else the last, with the condition ``Fits``."""
        found: tuple[Variant | None, tuple[Condition, ...]] = (None, ())
        for candidate in self._choice.candidates:
            need = estimate(candidate, self._deployment.spec.context, self._slots)
            fits = fit(self._deployment, candidate, need, left, self._count)
            found = (candidate, (fits,))
            if fits.status is not Truth.FALSE:
                break
        return found

    def _verified(self, lingering: Mapping[str, Replica], candidate: Variant | None) -> Condition:
        """Return the condition ``Verified`` of what serves, or would."""
        for replica in lingering.values():
            return goes_on(self._choice.lingering[replica.variant])
        if candidate is None:
            return Condition("Verified", Truth.FALSE, self._choice.reason, self._choice.why)
        return signed(candidate)

    def _lingering(self, alive: Mapping[str, str]) -> dict[str, Replica]:
        found = (r for v in self._choice.lingering for r in self._replicas(v))
        return {replica.id: replica for replica in found if replica.revision in alive}

    def _replicas(self, variant: Variant) -> tuple[Replica, ...]:
        return replicas_of(self._deployment, variant, self._slots, range(self._count))


def fit(
    deployment: ModelDeployment, variant: Variant, need: Estimate, left: int | None, replicas: int
) -> Condition:
    """Return the condition ``Fits``: yes, no or not known, always with the arithmetic."""
    if (too_long := context_too_long(deployment, variant)) is not None:
        return too_long
    sum_up = f"{replicas} x ({need.arithmetic()})"
    if left is None:
        return Condition("Fits", Truth.UNKNOWN, "MemoryNotKnown", f"{sum_up}; memory not known")
    least = need.known_bytes * replicas
    prefix = "at least " if need.total_bytes is None else ""
    message = f"{sum_up}: {prefix}{format_bytes(least)} of {format_bytes(left)} left"
    if least > left:
        return Condition("Fits", Truth.FALSE, "NotEnoughMemory", message)
    if need.total_bytes is None:
        return Condition("Fits", Truth.UNKNOWN, "NeedNotKnown", message)
    return Condition("Fits", Truth.TRUE, "Fits", message)


def cannot_serve(variant: Variant, memory_bytes: int | None) -> str:
    """Return why a variant cannot serve even alone and at its least on a machine; empty if it can.

    Its least is one request at a time with a small context. Memory nobody knows excludes nothing.

    Args:
        variant: What came.
        memory_bytes: All memory of the machine; None when it is not known.
    """
    if memory_bytes is None:
        return ""
    need = estimate(variant, min(_SMALL_CONTEXT, variant.context_max or _SMALL_CONTEXT), slots=1)
    left = max(0, memory_bytes - RESERVED_BYTES)
    if need.known_bytes <= left:
        return ""
    return f"{need.arithmetic()} of {format_bytes(left)}"
