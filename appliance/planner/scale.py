"""How many replicas a deployment should have now.

Time and demand are facts that somebody else gathered. A demand that nobody remembers is none: what
may sleep sleeps after a restart, and the first request wakes it.
"""

import datetime
from dataclasses import dataclass

from appliance.core.documents import ModelDeployment, Scaling
from appliance.core.state import Condition, Truth

IDLE_AFTER_S = 15 * 60.0
"""How long without a request counts as idle where ``scaling.idleAfter`` does not say."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How many replicas there should be; ``asleep`` ones are woken by a request.

    ``changes_in_s`` is when this answer changes although no request comes; None when it does not.
    """

    replicas: int
    asleep: bool = False
    changes_in_s: float | None = None


def scale(
    deployment: ModelDeployment,
    last_demand: datetime.datetime | None,
    now: datetime.datetime,
) -> Scale:
    """Return how many replicas a deployment should have.

    Without ``scaling`` that is ``replicas``; with it ``replicas`` within its bounds. ``min: 0`` and
    no request for ``idleAfter`` is none, and a request within it at least one. A demand from the
    future, by a clock that was set back, is one from now.
    """
    asked, bounds = deployment.spec.replicas, deployment.spec.scaling
    if bounds is None:
        return Scale(asked)
    within = min(max(asked, bounds.min), bounds.max)
    if bounds.min:
        return Scale(within)
    left = _awake_for(bounds, last_demand, now)
    if left <= 0:
        return Scale(0, asleep=True)
    return Scale(max(1, within), changes_in_s=left)


def limited(deployment: ModelDeployment) -> Condition | None:
    """Return what to say where ``replicas`` is outside of ``scaling``; None where it is not.

    That is no mistake: ``kubectl scale`` and autoscalers write ``replicas`` without looking.
    """
    asked, bounds = deployment.spec.replicas, deployment.spec.scaling
    if bounds is None or bounds.min <= asked <= bounds.max:
        return None
    if asked > bounds.max:
        reason, message = "AboveMax", f"{asked} asked, {bounds.max} allowed by scaling.max"
    else:
        reason, message = "BelowMin", f"{asked} asked, {bounds.min} kept by scaling.min"
    return Condition("ScalingLimited", Truth.TRUE, reason, message)


def _awake_for(
    bounds: Scaling, last_demand: datetime.datetime | None, now: datetime.datetime
) -> float:
    if last_demand is None:
        return 0.0
    idle_after = IDLE_AFTER_S if bounds.idle_after is None else bounds.idle_after.seconds
    return idle_after - max(0.0, (now - last_demand).total_seconds())
