"""The documents people write, each defined once.

From these classes come validation with line numbers, the JSON schema for editors, the reference
page and the CRDs (``kube/objects/crd.py``). They are frozen; what was parsed is trusted from
then on. A field's ``description`` is what the reference page and ``kubectl explain`` say about it.
What holds between fields stands in ``RULES`` beside them. Reading them is ``core/reading.py``; what
goes into a bundle is ``core/definitions.py``; what the catalogue holds, ``core/catalogue.py``.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.alias_generators import to_camel

from appliance.core.fields import Bytes, SomeBytes, SomeLatency, SomeTime, WallTime
from appliance.core.ids import NAME_ALLOWED, NAME_PATTERN
from appliance.core.part import API_VERSION, Document, Metadata, Part
from appliance.core.rules import Rule

__all__ = ["API_VERSION", "Document", "Metadata", "Part"]  # what they are made of belongs to them

MODEL_NAME = r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?"
VERSION = r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}"
_MODEL_PATTERN = rf"^{MODEL_NAME}(@({VERSION}|sha256:[0-9a-f]{{64}}))?$"

MOST_REPLICAS = 64
_LONGEST_REPLICA = len(f"-{MOST_REPLICAS - 1}")


# --- ModelDeployment -----------------------------------------------------------------------------


class DeploymentMetadata(Metadata):
    # Engines are named after it, NAME-0 to NAME-63, and such a name is a label's value.
    name: Annotated[
        str,
        Field(
            pattern=NAME_PATTERN,
            max_length=63 - _LONGEST_REPLICA,
            description=(
                "The name that clients ask for as the model: "
                f"{NAME_ALLOWED.replace('63', str(63 - _LONGEST_REPLICA))}."
            ),
        ),
    ]


class Resources(Part):
    RULES = (
        Rule(
            cel="[has(self.gpu), has(self.gpuMemory), has(self.mig)].filter(x, x).size() <= 1",
            holds=lambda r: [r.gpu, r.gpu_memory, r.mig].count(None) >= 2,
            message="gpu, gpuMemory and mig exclude each other; allowed: one of them",
        ),
    )
    gpu: Annotated[
        int | None, Field(ge=0, le=64, description="Whole GPUs for each replica, on one node.")
    ] = None
    gpu_memory: Annotated[
        SomeBytes | None,
        Field(description="A share of one GPU by memory, such as 6Gi, for each replica."),
    ] = None
    mig: Annotated[
        str | None,
        Field(
            pattern=r"^[0-9]g\.[0-9]+gb$",
            max_length=32,
            description="One MIG slice by its profile, such as 1g.10gb, for each replica.",
        ),
    ] = None


def _in_order(found: "Percentiles") -> bool:
    spans = [p.seconds for p in (found.p50, found.p95, found.p99) if p is not None]
    return spans == sorted(spans)


class Percentiles(Part):
    RULES = (
        Rule(
            cel="has(self.p50) || has(self.p95) || has(self.p99)",
            holds=lambda p: (p.p50, p.p95, p.p99) != (None, None, None),
            message="names no percentile; allowed: one or more of p50, p95 and p99",
        ),
        Rule(
            cel=(
                "(!has(self.p50) || !has(self.p95) || duration(self.p50) <= duration(self.p95))"
                " && (!has(self.p95) || !has(self.p99) || duration(self.p95) <= duration(self.p99))"
                " && (!has(self.p50) || !has(self.p99) || duration(self.p50) <= duration(self.p99))"
            ),
            holds=_in_order,
            message=(
                "a lower percentile takes longer than a higher one; allowed: p50 <= p95 <= p99"
            ),
        ),
    )
    p50: Annotated[
        SomeLatency | None, Field(description="Half of the requests are to be faster than this.")
    ] = None
    p95: Annotated[
        SomeLatency | None,
        Field(description="95 of 100 requests are to be faster than this, such as 500ms."),
    ] = None
    p99: Annotated[
        SomeLatency | None, Field(description="99 of 100 requests are to be faster than this.")
    ] = None


class Objectives(Part):
    time_to_first_token: Annotated[
        Percentiles | None,
        Field(
            description=(
                "How long a caller waits from the request to the first token of the answer. "
                "Prompt length and waiting in the queue count in it."
            )
        ),
    ] = None
    inter_token_latency: Annotated[
        Percentiles | None,
        Field(
            description=(
                "How long a caller waits from one token of an answer to the next. 40ms are 25 "
                "tokens per second, about as fast as people read."
            )
        ),
    ] = None
    concurrency: Annotated[
        int | None,
        Field(
            ge=1,
            le=4096,
            description=(
                "How many requests are served at the same time, over all replicas, while the "
                "latencies hold; more wait in the gateway's queue."
            ),
        ),
    ] = None


class Scaling(Part):
    RULES = (
        Rule(
            cel="self.min <= self.max",
            holds=lambda s: s.min <= s.max,
            message="min is above max; allowed: min from 0 to max",
            field=".min",
        ),
    )
    min: Annotated[
        int,
        Field(
            ge=0,
            le=MOST_REPLICAS,
            description="Never fewer replicas than this; 0 stops the model when it is idle.",
        ),
    ] = 1
    max: Annotated[
        int, Field(ge=1, le=MOST_REPLICAS, description="Never more replicas than this.")
    ] = 1
    idle_after: Annotated[
        SomeTime | None,
        Field(description="How long without a request counts as idle, such as 15m."),
    ] = None
    prewarm: Annotated[
        Literal["none", "predictive"],
        Field(description="predictive starts replicas ahead of the hours that are usually busy."),
    ] = "none"


class Canary(Part):
    weight: Annotated[
        int, Field(ge=1, le=100, description="How many of 100 requests the new version receives.")
    ]
    for_: Annotated[
        SomeTime,
        Field(
            alias="for",
            description="How long the new version must stay healthy before it takes over.",
        ),
    ]


class Release(Part):
    canary: Annotated[
        Canary | None, Field(description="Tries a new version on a share of the requests first.")
    ] = None
    check: Annotated[
        Literal["none", "golden"],
        Field(description="golden runs the model's golden prompts before it receives requests."),
    ] = "golden"


EngineName = Literal[
    "auto", "llama-cpp", "vllm", "sglang", "tgi", "tensorrt-llm", "triton", "openai-http"
]


class ModelDeploymentSpec(Part):
    model: Annotated[
        str,
        Field(
            pattern=_MODEL_PATTERN,
            max_length=136,
            description=(
                "A model in the catalogue; name@1.2.0 pins a version, name@sha256:... a manifest. "
                "A change is a release: the new version takes over as release says."
            ),
        ),
    ]
    engine: Annotated[
        EngineName, Field(description="Which engine serves the model; auto picks one that can.")
    ] = "auto"
    quantization: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$",
            max_length=32,
            description=(
                "One variant of the model, such as Q4_K_M; auto takes the best one that fits."
            ),
        ),
    ] = "auto"
    replicas: Annotated[
        int,
        Field(
            ge=0,
            le=MOST_REPLICAS,
            description=(
                "How many engines serve it side by side; kubectl scale and autoscalers set it. "
                "Where scaling is given, its min and max hold."
            ),
        ),
    ] = 1
    resources: Annotated[
        Resources | None,
        Field(description="Hardware for each replica; without it the planner finds what fits."),
    ] = None
    context: Annotated[
        int,
        Field(
            ge=64,
            le=16_777_216,
            description="How many tokens a request may have, prompt and answer together.",
        ),
    ] = 4096
    objectives: Annotated[
        Objectives | None,
        Field(
            description=(
                "What callers are to see, instead of which hardware it takes: the planner picks "
                "the variant, and the conditions say when an objective is missed."
            )
        ),
    ] = None
    priority: Annotated[
        Literal["critical", "standard", "batch"],
        Field(description="Who keeps running, and who is served first, when not all can."),
    ] = "standard"
    scaling: Annotated[
        Scaling | None,
        Field(
            description=(
                "Lets the appliance change the number of replicas between min and max by itself."
            )
        ),
    ] = None
    release: Annotated[
        Release | None, Field(description="How a new version takes over, and when it goes back.")
    ] = None


class ModelDeployment(Document):
    """A model that is to be served under a name, behind the appliance's OpenAI endpoint."""

    kind_name: ClassVar[str] = "ModelDeployment"
    kind: Literal["ModelDeployment"]
    metadata: DeploymentMetadata
    spec: Annotated[ModelDeploymentSpec, Field(description="What is to be served, and how.")]

    HONOURED: ClassVar[frozenset[str]] = frozenset(
        {"model", "engine", "quantization", "replicas", "context", "scaling"}
    )
    """What every driver acts on; of ``scaling``, all but ``prewarm``."""

    def not_yet_honoured(self, also: frozenset[str] = frozenset()) -> list[str]:
        """Return the fields that are set, valid, and that nothing acts on.

        ``also`` names fields that this node's driver acts on.
        """
        found = [to_camel(f) for f in sorted(self.spec.model_fields_set - self.HONOURED - also)]
        if self.spec.scaling is not None and self.spec.scaling.prewarm != "none":
            found.append("scaling.prewarm")
        resources = self.spec.resources
        if "resources" in also and resources is not None and resources.gpu_memory is not None:
            found.append("resources.gpuMemory")
        return found


# --- Site ----------------------------------------------------------------------------------------


class Electricity(Part):
    currency: Annotated[
        str, Field(pattern=r"^[A-Z]{3}$", max_length=3, description="In ISO 4217, such as EUR.")
    ]
    per_kilowatt_hour: Annotated[float, Field(ge=0, description="What one kWh costs.")]


class Disk(Part):
    store: Annotated[
        Bytes | None, Field(description="The most that models may take, such as 200Gi.")
    ] = None
    floor: Annotated[
        Bytes | None, Field(description="Imports stop when less than this is free, such as 10Gi.")
    ] = None


class Retention(Part):
    audit: Annotated[
        SomeTime | None, Field(description="How long the audit log is kept, such as 365d.")
    ] = None
    metrics: Annotated[
        SomeTime | None, Field(description="How long metrics are kept, such as 30d.")
    ] = None


Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class Hours(Part):
    days: Annotated[
        tuple[Day, ...],
        Field(min_length=1, max_length=7, strict=False, description="The days on which it opens."),
    ] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    from_: Annotated[
        WallTime, Field(alias="from", description="When it opens, by the site's clock: '22:00'.")
    ]
    to: Annotated[
        WallTime,
        Field(description="When it closes; no later than it opens means on the next day."),
    ]


class SiteWindows(Part):
    transfer: Annotated[
        tuple[Hours, ...],
        Field(
            strict=False,
            max_length=32,
            description="When bundles may come over the network; without any, always.",
        ),
    ] = ()


class Network(Part):
    bytes_per_second: Annotated[
        Bytes | None,
        Field(description="The most that transfers take of the link, such as 2M."),
    ] = None


class SiteSpec(Part):
    labels: Annotated[
        dict[str, Annotated[str, Field(max_length=256)]],
        Field(max_length=64, description="What the hub selects sites by, such as region: north."),
    ] = {}  # noqa: RUF012  (pydantic copies it)
    time_zone: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z]+(/[A-Za-z0-9_+-]+){0,2}$",
            max_length=64,
            description="The IANA time zone, such as Europe/Zurich; it only opens windows.",
        ),
    ] = "UTC"
    electricity: Annotated[
        Electricity | None, Field(description="The tariff, for reports of cost.")
    ] = None
    grams_co2_per_kilowatt_hour: Annotated[
        float | None, Field(ge=0, description="The carbon intensity of the electricity here.")
    ] = None
    disk: Annotated[Disk | None, Field(description="What models may take of the disk.")] = None
    retention: Annotated[Retention | None, Field(description="How long records stay.")] = None
    windows: Annotated[
        SiteWindows | None, Field(description="Hours by the site's clock in which things happen.")
    ] = None
    network: Annotated[Network | None, Field(description="What transfers may take.")] = None


class Site(Document):
    """What is particular to one place: its clock, its tariff, its disk and its link."""

    kind_name: ClassVar[str] = "Site"
    kind: Literal["Site"]
    spec: Annotated[SiteSpec, Field(description="What holds at this place.")]
