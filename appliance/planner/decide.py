"""From what is in force and what is here to the replicas that should run, with reasons.

A model that is not in the catalogue, a context that it was not trained for and memory that is not
there are answers, not errors: each becomes a condition with its arithmetic.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from appliance.core.documents import ModelDeployment
from appliance.core.machine import MachineFacts
from appliance.core.model import Replica, Variant
from appliance.core.quantity import format_bytes
from appliance.core.state import Condition, Truth
from appliance.planner.estimate import Estimate, estimate, limit_bytes

RESERVED_BYTES = 512 << 20
"""Left to the system and to the appliance's own processes."""

_ENGINES = {"gguf": "llama-cpp"}


@dataclass(frozen=True, slots=True)
class Decision:
    """What one deployment gets: replicas to run, and the conditions that say why."""

    name: str
    variant: Variant | None
    replicas: tuple[Replica, ...]
    conditions: tuple[Condition, ...]


def decide(
    deployments: Iterable[ModelDeployment],
    catalogue: Iterable[Variant],
    machine: MachineFacts,
    *,
    slots: int,
) -> dict[str, Decision]:
    """Return a decision for each deployment, by name.

    Memory is given out in the order of names, so that the answer does not depend on what happens
    to run already.
    """
    known = list(catalogue)
    left = machine.memory_bytes
    if left is not None:
        left = max(0, left - RESERVED_BYTES)
    decisions = {}
    for deployment in sorted(deployments, key=lambda d: d.name):
        decision, used = _decide(deployment, known, left, slots)
        decisions[deployment.name] = decision
        left = None if left is None else max(0, left - used)
    return decisions


def _decide(
    deployment: ModelDeployment, catalogue: list[Variant], left: int | None, slots: int
) -> tuple[Decision, int]:
    spec = deployment.spec
    why_not, candidates = select(deployment, catalogue)
    if not candidates:
        missing = Condition("Verified", Truth.FALSE, "NotInCatalogue", why_not)
        return Decision(deployment.name, None, (), (missing,)), 0
    for variant in candidates:
        need = estimate(variant, spec.context, slots)
        fits = fit(deployment, variant, need, left)
        if fits.status is not Truth.FALSE:
            break
    signed = Condition("Verified", Truth.TRUE, "Signed", f"{variant.reference}, {variant.manifest}")
    conditions = (signed, fits)
    if fits.status is Truth.FALSE:
        return Decision(deployment.name, variant, (), conditions), 0
    limit = limit_bytes(need)
    replicas = tuple(
        Replica(
            id=f"{deployment.name}-{number}",
            deployment=deployment.name,
            variant=variant,
            engine=_ENGINES[variant.format],
            context=spec.context,
            slots=slots,
            memory_limit_bytes=limit,
        )
        for number in range(spec.replicas)
    )
    used = (need.total_bytes or limit) * spec.replicas
    return Decision(deployment.name, variant, replicas, conditions), used


def select(deployment: ModelDeployment, catalogue: list[Variant]) -> tuple[str, list[Variant]]:
    """Return the variants that may serve, best first; when there are none, also say why.

    Best is the newest version, and in it the variant with the most weights: quality costs memory.
    """
    spec = deployment.spec
    name, _, pin = spec.model.partition("@")
    known = [v for v in catalogue if v.model == name]
    if not known:
        held = ", ".join(sorted({v.model for v in catalogue})) or "nothing"
        return f"{name} is not in the catalogue, which holds {held}", []
    found = [
        v
        for v in known
        if pin in ("", v.version, v.manifest)
        and spec.quantization in ("auto", v.name)
        and spec.engine in ("auto", _ENGINES.get(v.format))
    ]
    if not found:
        held = ", ".join(sorted(v.reference for v in known))
        wanted = f"{spec.model}, quantization {spec.quantization}, engine {spec.engine}"
        return f"no variant is {wanted}; here is {held}", []
    newest = max(version_key(v.version) for v in found)
    return "", sorted(
        (v for v in found if version_key(v.version) == newest),
        key=lambda v: (-v.weights_bytes, v.name),
    )


def fit(
    deployment: ModelDeployment, variant: Variant, need: Estimate, left: int | None
) -> Condition:
    """Return the condition ``Fits``: yes, no or not known, always with the arithmetic."""
    spec = deployment.spec
    if variant.context_max is not None and spec.context > variant.context_max:
        message = (
            f"context {spec.context} is more than the {variant.context_max} tokens that "
            f"{variant.model} was trained for"
        )
        return Condition("Fits", Truth.FALSE, "ContextTooLong", message)
    sum_up = f"{spec.replicas} x ({need.arithmetic()})"
    if left is None:
        return Condition("Fits", Truth.UNKNOWN, "MemoryNotKnown", f"{sum_up}; memory not known")
    least = need.known_bytes * spec.replicas
    prefix = "at least " if need.total_bytes is None else ""
    message = f"{sum_up}: {prefix}{format_bytes(least)} of {format_bytes(left)} left"
    if least > left:
        return Condition("Fits", Truth.FALSE, "NotEnoughMemory", message)
    if need.total_bytes is None:
        return Condition("Fits", Truth.UNKNOWN, "NeedNotKnown", message)
    return Condition("Fits", Truth.TRUE, "Fits", message)


def version_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return what versions sort by: 1.10 is above 1.9, and 1.0 is above 1.0-rc1 and below 1.0.1."""
    parts = text.replace("-", ".").split(".")
    end = (0, 1, "")  # above a word, below a number
    return (*((1, int(p), "") if p.isdecimal() else (0, 0, p) for p in parts), end)
