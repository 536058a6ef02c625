"""Which variants of what is here may serve a deployment, best first.

Best is the newest version, and in it the variant with the most weights: quality costs memory.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from appliance.core.documents import ModelDeployment
from appliance.core.ids import Digest
from appliance.core.model import Denial, Variant

ENGINES = {"gguf": "llama-cpp"}
"""What opens a format."""


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


def select(
    deployment: ModelDeployment,
    catalogue: list[Variant],
    denied: Mapping[Digest, Denial] = MappingProxyType({}),
) -> Choice:
    """Return the variants that may serve, best first; when there are none, also say why.

    What must not be started is passed over, for an older version if need be.
    """
    known = [v for v in catalogue if v.model == model_name(deployment)]
    found = [v for v in known if is_asked_for(deployment, v)]
    if not found:
        return Choice((), reason="NotInCatalogue", why=lacking(deployment, known, catalogue))
    candidates = _best(v for v in found if v.manifest not in denied)
    may_run = (v for v in found if v.manifest not in denied or not denied[v.manifest].stop)
    lingering = {v: denied[v.manifest] for v in _best(may_run) if v.manifest in denied}
    if candidates:
        return Choice(candidates, lingering)
    denial = denied[_best(found)[0].manifest]
    return Choice((), lingering, denial.reason, denial.message)


def model_name(deployment: ModelDeployment) -> str:
    """Return the model that a deployment asks for, without the pin."""
    return deployment.spec.model.partition("@")[0]


def is_asked_for(deployment: ModelDeployment, variant: Variant) -> bool:
    """Whether a variant of the right model is one that the document allows."""
    spec = deployment.spec
    return (
        spec.model.partition("@")[2] in ("", variant.version, variant.manifest)
        and spec.quantization in ("auto", variant.name)
        and spec.engine in ("auto", ENGINES.get(variant.format))
    )


def lacking(
    deployment: ModelDeployment, known: Iterable[Variant], catalogue: Iterable[Variant]
) -> str:
    """Return in words that nothing here is what a document asks for, and what is here."""
    spec = deployment.spec
    held = ", ".join(sorted(v.reference for v in known))
    if held:
        wanted = f"{spec.model}, quantization {spec.quantization}, engine {spec.engine}"
        return f"no variant is {wanted}; here is {held}"
    held = ", ".join(sorted({v.model for v in catalogue})) or "nothing"
    return f"{model_name(deployment)} is not in the catalogue, which holds {held}"


def quality(variant: Variant) -> tuple[int, str]:
    """Return what variants of one version sort by, best first."""
    return -variant.weights_bytes, variant.name


def version_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return what versions sort by: 1.10 is above 1.9, and 1.0 is above 1.0-rc1 and below 1.0.1."""
    parts = text.replace("-", ".").split(".")
    end = (0, 1, "")  # above a word, below a number
    return (*((1, int(p), "") if p.isdecimal() else (0, 0, p) for p in parts), end)


def _best(found: Iterable[Variant]) -> tuple[Variant, ...]:
    """Return the variants of the newest version, best first."""
    known = list(found)
    newest = max((version_key(v.version) for v in known), default=())
    return tuple(sorted((v for v in known if version_key(v.version) == newest), key=quality))
