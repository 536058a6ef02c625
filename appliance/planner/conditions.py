"""From a decision and what is seen to what people and the hub read."""

from collections.abc import Iterable, Mapping

from appliance.core.state import (
    Condition,
    DeploymentStatus,
    DesiredDeployment,
    ObservedReplica,
    Phase,
    Truth,
    Unreadable,
)
from appliance.planner.place import Decision
from appliance.planner.scale import limited

_FAILURES_TO_GIVE_UP = 3
"""An engine that served and crashed is worth waiting for; one that never comes up is not."""


def status(
    desired: DesiredDeployment,
    decision: Decision,
    running: Mapping[str, ObservedReplica],
    *,
    honoured: frozenset[str] = frozenset(),
    asleep: bool = False,
) -> DeploymentStatus:
    """Return one deployment's status.

    Args:
        desired: What is in force.
        decision: What it gets.
        running: What runs, of this deployment and maybe of others.
        honoured: Fields that the driver acts on besides those that all do.
        asleep: Whether it is at zero until a request wakes it.
    """
    document = desired.document
    engines = tuple(r for r in running.values() if r.deployment == document.name)
    current = {replica.id: replica.revision for replica in decision.replicas}
    serving = [e for e in engines if e.phase is Phase.READY and current.get(e.id) == e.revision]
    conditions = [
        *decision.conditions,
        _ready(len(serving), decision, engines, asleep=asleep),
    ]
    if (limit := limited(document)) is not None:
        conditions.append(limit)
    if ignored := document.not_yet_honoured(honoured):
        message = f"valid, but not acted on by this release: {', '.join(ignored)}"
        conditions.append(Condition("Honoured", Truth.FALSE, "NotYet", message))
    if desired.drift:
        conditions.append(Condition("Drifted", Truth.TRUE, "LocalOverride", desired.drift))
    return DeploymentStatus(
        name=document.name,
        origin=desired.origin,
        drift=desired.drift,
        model=document.spec.model,
        variant=decision.variant,
        replicas=decision.wanted,
        ready=len(serving),
        conditions=tuple(conditions),
        engines=tuple(sorted(engines, key=lambda e: e.id)),
        asleep=asleep,
        wakes=document.spec.scaling is not None and not document.spec.scaling.min,
    )


def kept_out(desired: Unreadable, running: Mapping[str, ObservedReplica]) -> DeploymentStatus:
    """Return the status of a deployment that this release does not allow: what runs goes on."""
    engines = tuple(r for r in running.values() if r.deployment == desired.name)
    ready = sum(e.phase is Phase.READY for e in engines)
    words = f"an earlier release took it, this one does not, and leaves what runs: {desired.why}"
    return DeploymentStatus(
        desired.name, desired.origin, "", desired.model, None, len(engines), ready,
        (Condition("Ready", Truth.FALSE, "Invalid", words),),
        tuple(sorted(engines, key=lambda e: e.id)),
    )  # fmt: skip


def cannot_start(found: DeploymentStatus) -> str:
    """Return why nothing will answer for a deployment soon; empty when something may."""
    if found.replicas == 0 and not found.asleep:
        return "it is scaled to zero replicas"
    for condition in found.conditions:
        if condition.type in ("Verified", "Fits") and condition.status is Truth.FALSE:
            return condition.message
    hopeless = [
        e for e in found.engines if e.phase is Phase.BACKOFF and e.failures >= _FAILURES_TO_GIVE_UP
    ]
    if hopeless and len(hopeless) == len(found.engines):
        return hopeless[0].message
    return ""


def _ready(
    serving: int, decision: Decision, engines: Iterable[ObservedReplica], *, asleep: bool
) -> Condition:
    replicas = decision.wanted
    blocked = [c for c in decision.conditions if c.status is Truth.FALSE]
    if blocked and not 0 < replicas <= serving:
        return Condition("Ready", Truth.FALSE, blocked[0].reason, blocked[0].message)
    if asleep:
        return Condition("Ready", Truth.TRUE, "ScaledToZero", "idle; a request wakes it")
    if not replicas:
        return Condition(
            "Ready", Truth.TRUE, "ScaledToZero", "no replica is asked for; none serves"
        )
    if serving >= replicas:
        return Condition("Ready", Truth.TRUE, "Serving", f"{serving} of {replicas} serve")
    failing = [e for e in engines if e.phase is Phase.BACKOFF]
    if failing:
        return Condition("Ready", Truth.FALSE, "EngineFails", failing[0].message)
    return Condition("Ready", Truth.FALSE, "Starting", f"{serving} of {replicas} serve")
