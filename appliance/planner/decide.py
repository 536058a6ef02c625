"""From what is in force and what is here to the replicas that should run, with reasons.

A model that is not in the catalogue, one that nobody vouches for any more, a context that it was
not trained for and memory that is not there are answers, not errors: each becomes a condition with
its arithmetic.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from appliance.core.documents import ModelDeployment
from appliance.core.ids import Digest
from appliance.core.machine import MachineFacts
from appliance.core.model import Denial, Replica, Variant
from appliance.core.quantity import format_bytes
from appliance.core.state import Condition, Truth
from appliance.planner.estimate import Estimate, estimate, limit_bytes

RESERVED_BYTES = 512 << 20
"""Left to the system and to the appliance's own processes."""

_SMALL_CONTEXT = 2048
"""Tokens; fewer are of no use to anybody."""

_ENGINES = {"gguf": "llama-cpp"}


@dataclass(frozen=True, slots=True)
class Decision:
    """What one deployment gets: replicas to run, and the conditions that say why."""

    name: str
    variant: Variant | None
    replicas: tuple[Replica, ...]
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which variants a deployment may be served with.

    ``candidates`` may start, best first; when there are none, ``why`` and ``reason`` say why.
    ``lingering`` are at least as good and denied: they are not started, but where one runs it goes
    on, because taking a model away that serves is for whoever revokes it to say.
    """

    candidates: tuple[Variant, ...]
    lingering: Mapping[Variant, Denial] = field(default_factory=dict)
    reason: str = ""
    why: str = ""


def decide(
    deployments: Iterable[ModelDeployment],
    catalogue: Iterable[Variant],
    machine: MachineFacts,
    *,
    slots: int,
    denied: Mapping[Digest, Denial] = MappingProxyType({}),
    alive: Collection[str] = (),
) -> dict[str, Decision]:
    """Return a decision for each deployment, by name.

    Memory is given out in the order of names, so that the answer does not depend on what happens
    to run already; only what must not be started any more is there because it runs.

    Args:
        deployments: What is wanted.
        catalogue: What is here.
        machine: What it must fit.
        slots: Those of each engine.
        denied: What must not be started, by manifest.
        alive: The revisions of engines that run.
    """
    known = list(catalogue)
    left = machine.memory_bytes
    if left is not None:
        left = max(0, left - RESERVED_BYTES)
    decisions = {}
    for deployment in sorted(deployments, key=lambda d: d.name):
        choice = select(deployment, known, denied)
        lingering = _lingering(deployment, choice, slots, alive)
        decision, used = _decide(deployment, choice, lingering, left, slots)
        decisions[deployment.name] = decision
        left = None if left is None else max(0, left - used)
    return decisions


def _decide(
    deployment: ModelDeployment,
    choice: Choice,
    lingering: dict[str, Replica],
    left: int | None,
    slots: int,
) -> tuple[Decision, int]:
    replicas = tuple(lingering.values())
    candidate, fits = _fitting(deployment, choice.candidates, left, slots)
    if candidate is not None and fits[0].status is not Truth.FALSE:
        fresh = _replicas(deployment, candidate, slots)
        replicas = tuple(lingering.get(replica.id, replica) for replica in fresh)
    variant = next((replica.variant for replica in lingering.values()), candidate)
    conditions = (_verified(choice, lingering, candidate), *fits)
    used = sum(_used(replica) for replica in replicas)
    return Decision(deployment.name, variant, replicas, conditions), used


def _fitting(
    deployment: ModelDeployment, candidates: Iterable[Variant], left: int | None, slots: int
) -> tuple[Variant | None, tuple[Condition, ...]]:
    """Return the first candidate that may fit, else the last, with the condition ``Fits``."""
    found: tuple[Variant | None, tuple[Condition, ...]] = (None, ())
    for candidate in candidates:
        need = estimate(candidate, deployment.spec.context, slots)
        fits = fit(deployment, candidate, need, left)
        found = (candidate, (fits,))
        if fits.status is not Truth.FALSE:
            break
    return found


def _verified(
    choice: Choice, lingering: Mapping[str, Replica], candidate: Variant | None
) -> Condition:
    """Return the condition ``Verified`` of what serves, or would."""
    for replica in lingering.values():
        denial = choice.lingering[replica.variant]
        until = "what runs goes on until it ends, and is not started again"
        return Condition("Verified", Truth.FALSE, denial.reason, f"{denial.message}; {until}")
    if candidate is None:
        return Condition("Verified", Truth.FALSE, choice.reason, choice.why)
    return Condition(
        "Verified", Truth.TRUE, "Signed", f"{candidate.reference}, {candidate.manifest}"
    )


def _lingering(
    deployment: ModelDeployment, choice: Choice, slots: int, alive: Collection[str]
) -> dict[str, Replica]:
    found = (r for v in choice.lingering for r in _replicas(deployment, v, slots))
    return {replica.id: replica for replica in found if replica.revision in alive}


def _replicas(deployment: ModelDeployment, variant: Variant, slots: int) -> tuple[Replica, ...]:
    spec = deployment.spec
    limit = limit_bytes(estimate(variant, spec.context, slots))
    return tuple(
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


def _used(replica: Replica) -> int:
    need = estimate(replica.variant, replica.context, replica.slots)
    return need.total_bytes or replica.memory_limit_bytes


def select(
    deployment: ModelDeployment,
    catalogue: list[Variant],
    denied: Mapping[Digest, Denial] = MappingProxyType({}),
) -> Choice:
    """Return the variants that may serve, best first; when there are none, also say why.

    Best is the newest version, and in it the variant with the most weights: quality costs memory.
    What must not be started is passed over, for an older version if need be.
    """
    spec = deployment.spec
    name, _, pin = spec.model.partition("@")
    known = [v for v in catalogue if v.model == name]
    if not known:
        held = ", ".join(sorted({v.model for v in catalogue})) or "nothing"
        return _none(f"{name} is not in the catalogue, which holds {held}")
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
        return _none(f"no variant is {wanted}; here is {held}")
    candidates = _best(v for v in found if v.manifest not in denied)
    may_run = (v for v in found if v.manifest not in denied or not denied[v.manifest].stop)
    lingering = {v: denied[v.manifest] for v in _best(may_run) if v.manifest in denied}
    if candidates:
        return Choice(candidates, lingering)
    denial = denied[_best(found)[0].manifest]
    return Choice((), lingering, denial.reason, denial.message)


def _none(why: str) -> Choice:
    return Choice((), reason="NotInCatalogue", why=why)


def _best(found: Iterable[Variant]) -> tuple[Variant, ...]:
    """Return the variants of the newest version, best first."""
    known = list(found)
    newest = max((version_key(v.version) for v in known), default=())
    return tuple(
        sorted(
            (v for v in known if version_key(v.version) == newest),
            key=lambda v: (-v.weights_bytes, v.name),
        )
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


def version_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return what versions sort by: 1.10 is above 1.9, and 1.0 is above 1.0-rc1 and below 1.0.1."""
    parts = text.replace("-", ".").split(".")
    end = (0, 1, "")  # above a word, below a number
    return (*((1, int(p), "") if p.isdecimal() else (0, 0, p) for p in parts), end)
