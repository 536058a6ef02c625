"""What is said of a ModelDeployment: status, conditions in the standard shape, Events. Pure.

A status is written when something that matters has changed. The arithmetic in a message is not:
what is left on a node moves with every neighbour, and a thousand objects would be written for one.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from appliance.core.documents import ModelDeployment
from appliance.core.state import Condition, DeploymentStatus, Phase, Truth
from appliance.kit.clock import rfc3339
from appliance.kube.marks import DEPLOYMENT
from appliance.kube.pods.observed import WELL
from appliance.kube.server import Abilities

Json = dict[str, Any]

_ARITHMETIC = frozenset(
    {"Fits", "MemoryNotKnown", "NeedNotKnown", "NotEnoughMemory", "NotEnoughGpus", "NoNode"}
)
_WORTH_TELLING = 0.2
"""By how much, of what was told, the tokens per second must have changed to be told again."""


@dataclass(frozen=True, slots=True)
class About:
    """What a status says besides how the deployment is.

    ``cannot`` are sentences on what this server leaves undone for this object. ``at`` is now.
    ``tokens_per_second`` is None where it is not to be told now.
    """

    generation: int
    at: datetime.datetime
    cannot: Sequence[str] = field(default_factory=tuple)
    tokens_per_second: float | None = None


def status_of(found: DeploymentStatus, about: About, before: Json) -> Json | None:
    """Return the status to write; None when nothing that matters has changed since ``before``."""
    variant = found.variant
    tokens = _tokens(about.tokens_per_second, before.get("tokensPerSecond"))
    whole: Json = {
        "observedGeneration": about.generation,
        "replicas": sum(e.phase is not Phase.STOPPING for e in found.engines),
        "readyReplicas": found.ready,
        "selector": f"{DEPLOYMENT}={found.name}",
        "variant": None if variant is None else variant.name,
        "version": None if variant is None else variant.version,
        "digest": None if variant is None else variant.manifest,
        "tokensPerSecond": tokens,
        "owner": str(found.origin),
        "nodes": sorted({e.node for e in found.engines if e.node}),
        "conditions": _standard(conditions(found, about.cannot), about, before),
    }
    now = {key: value for key, value in whole.items() if value is not None}
    return None if _essence(now) == _essence(before) else now


def is_detail(before: Json, now: Json) -> bool:
    """Whether two statuses differ in nothing but messages and tokens per second."""
    return bool(before) and _essence(_bare(before)) == _essence(_bare(now))


def _bare(status: Json) -> Json:
    conditions = [{**c, "message": ""} for c in status.get("conditions") or ()]
    return {**status, "conditions": conditions, "tokensPerSecond": None}


def refusal_of(finding: Condition, about: About, before: Json) -> Json | None:
    """Return the status of an object that is not in force; None when that is what it says.

    What runs for it is left alone, and what the status says of that stays.
    """
    whole = {**before, "observedGeneration": about.generation}
    stated = [finding, Condition("Progressing", Truth.FALSE, finding.reason, finding.message)]
    kept = {c["type"] for c in before.get("conditions") or ()} - {c.type for c in stated}
    whole["conditions"] = [
        *_standard(stated, about, before),
        *(c for c in before.get("conditions") or () if c["type"] in kept),
    ]
    return None if _essence(whole) == _essence(before) else whole


def conditions(found: DeploymentStatus, cannot: Sequence[str] = ()) -> list[Condition]:
    """Return all that is stated of a deployment."""
    stated = {c.type: c for c in found.conditions}
    ready = stated.pop("Ready")
    message = "; ".join([ready.message, *cannot])
    drifted = stated.pop("Drifted", None) or Condition(
        "Drifted", Truth.FALSE, "AsDeclared", "it stands as its owner wrote it"
    )
    return [
        Condition(ready.type, ready.status, ready.reason, message),
        _progressing(found, ready),
        _degraded(found, ready),
        *stated.values(),
        drifted,
    ]


def undone(document: ModelDeployment, server: Abilities) -> list[str]:
    """Return what this server leaves undone for a document; empty on a current one."""
    spec = document.spec
    related = spec.scaling is not None or spec.release is not None or spec.objectives is not None
    found = []
    if related and not server.crd_rules:
        found.append("the controller, not the server, checks fields against each other")
    if not server.admission_policies:
        found.append("no admission policy guards its pods")
    resources = spec.resources
    if resources is not None and (resources.gpu or resources.mig) and not server.claims:
        found.append("GPUs are counted by device plugins, not claimed")
    release = ".".join(map(str, server.release))
    return [f"on Kubernetes {release}: {', '.join(found)}"] if found else []


def _progressing(found: DeploymentStatus, ready: Condition) -> Condition:
    starting = sum(e.phase is Phase.STARTING for e in found.engines)
    ending = sum(e.phase is Phase.STOPPING for e in found.engines)
    if starting or ending:
        words = [f"{starting} start"] * bool(starting) + [f"{ending} end"] * bool(ending)
        return Condition("Progressing", Truth.TRUE, "Replacing", ", ".join(words))
    if ready.status is Truth.FALSE and ready.reason == "Starting":
        return Condition("Progressing", Truth.TRUE, "Starting", "engines are about to start")
    if ready.status is Truth.TRUE:
        return Condition("Progressing", Truth.FALSE, "Settled", "nothing is left to do")
    return Condition("Progressing", Truth.FALSE, ready.reason, "waits for what Ready says")


def _degraded(found: DeploymentStatus, ready: Condition) -> Condition:
    failing = [e for e in found.engines if e.phase is Phase.BACKOFF]
    if failing:
        return Condition("Degraded", Truth.TRUE, "EngineFails", failing[0].message)
    if 0 < found.ready < found.replicas:
        message = f"{found.ready} of {found.replicas} serve"
        return Condition("Degraded", Truth.TRUE, "FewerThanWanted", message)
    impaired = [e for e in found.engines if e.phase is Phase.READY and e.message != WELL]
    if impaired:  # such as somebody else's Service of its name: no gateway reaches it
        return Condition("Degraded", Truth.TRUE, "NotAsDeclared", impaired[0].message)
    verified = found.condition("Verified")
    if found.ready and verified is not None and verified.status is Truth.FALSE:
        return Condition("Degraded", Truth.TRUE, verified.reason, verified.message)
    if ready.status is Truth.TRUE or not found.ready:
        return Condition("Degraded", Truth.FALSE, "AsExpected", "nothing that serves is impaired")
    return Condition("Degraded", Truth.TRUE, ready.reason, ready.message)


def _standard(stated: Sequence[Condition], about: About, before: Json) -> list[Json]:
    """Return conditions as Kubernetes has them; a time stays for as long as its status does."""
    known = {c["type"]: c for c in before.get("conditions") or ()}
    at = rfc3339(about.at.replace(microsecond=0)).replace(".000Z", "Z")
    found = []
    for condition in stated:
        old = known.get(condition.type, {})
        same = old.get("status") == condition.status
        found.append(
            {
                "type": condition.type,
                "status": str(condition.status),
                "reason": condition.reason,
                "message": condition.message,
                "observedGeneration": about.generation,
                "lastTransitionTime": old.get("lastTransitionTime", at) if same else at,
            }
        )
    return found


def _tokens(now: float | None, before: float | None) -> float | None:
    if now is None:
        return before
    if before is not None and abs(now - before) <= _WORTH_TELLING * before:
        return before
    return round(now, 1)


def _essence(status: Json) -> Json:
    """Return a status without what may differ and say the same."""
    kept = {
        c["type"]: (
            c["status"],
            c["reason"],
            c.get("observedGeneration"),
            "" if c["reason"] in _ARITHMETIC else c["message"],
        )
        for c in status.get("conditions") or ()
    }
    rest = {k: v for k, v in status.items() if k != "conditions" and v not in (None, [], ())}
    return {**rest, "conditions": kept}


# --- Events ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that came to pass, as an Event says it."""

    is_warning: bool
    reason: str
    message: str


def happenings(before: Json, now: Json) -> list[Happening]:
    """Return what came to pass between two statuses: what people would want to be told of."""
    found = []
    old = {c["type"]: c for c in before.get("conditions") or ()}
    for condition in now["conditions"]:
        was = old.get(condition["type"], {})
        if (was.get("status"), was.get("reason")) == (condition["status"], condition["reason"]):
            continue
        bad = condition["status"] == ("True" if condition["type"] == "Degraded" else "False")
        if condition["type"] == "Ready":
            warns = bad and condition["reason"] != "Starting"
            found.append(Happening(warns, condition["reason"], condition["message"]))
        elif condition["type"] == "Degraded" and bad and was.get("status") != "True":
            found.append(Happening(True, condition["reason"], condition["message"]))
    reasons = [told.reason for told in found]
    return [h for n, h in enumerate(found) if h.reason not in reasons[:n]]
