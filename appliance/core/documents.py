"""The documents people write, each defined once.

From these classes come validation with line numbers, the JSON schema for editors, the reference
page and the Kubernetes CRD. They are frozen; what was parsed is trusted from then on. A field's
``description`` is what the reference page says about it. Reading them is ``core/reading.py``; what
goes into a bundle is ``core/definitions.py``.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from appliance.core.fields import Bytes, Duration, WallTime
from appliance.core.ids import NAME_ALLOWED, NAME_PATTERN

API_VERSION = "edge-appliance.dev/v1alpha1"

MODEL_NAME = r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?"
VERSION = r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}"
_MODEL_PATTERN = rf"^{MODEL_NAME}(@({VERSION}|sha256:[0-9a-f]{{64}}))?$"


class Part(BaseModel):
    """Part of a document: strict, frozen, in camelCase."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        alias_generator=to_camel,
    )


class Metadata(Part):
    name: Annotated[
        str, Field(pattern=NAME_PATTERN, description=f"The object's name: {NAME_ALLOWED}.")
    ]
    labels: Annotated[
        dict[str, str], Field(description="Words to select by; they change nothing by themselves.")
    ] = {}
    annotations: Annotated[
        dict[str, str], Field(description="Notes for people and tools; nothing here reads them.")
    ] = {}


class Document(Part):
    """What all kinds have in common."""

    kind_name: ClassVar[str]
    api_version: Annotated[
        Literal["edge-appliance.dev/v1alpha1"], Field(description="The schema this follows.")
    ]
    kind: str
    metadata: Metadata

    @property
    def name(self) -> str:
        return self.metadata.name

    def to_wire(self) -> dict[str, Any]:
        """Return the document as it was written, without the defaults."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


# --- ModelDeployment -----------------------------------------------------------------------------


class Resources(Part):
    gpu: Annotated[int | None, Field(ge=0, le=64, description="GPUs for each replica.")] = None
    gpu_memory: Annotated[
        Bytes | None, Field(description="A share of one GPU by memory, such as 6Gi.")
    ] = None
    mig: Annotated[
        str | None,
        Field(
            pattern=r"^[0-9]g\.[0-9]+gb$", description="A MIG slice by profile, such as 1g.10gb."
        ),
    ] = None


class Percentiles(Part):
    p50: Annotated[Duration | None, Field(description="Half of the requests are faster.")] = None
    p95: Annotated[Duration | None, Field(description="95 of 100 requests are faster.")] = None
    p99: Annotated[Duration | None, Field(description="99 of 100 requests are faster.")] = None


class Objectives(Part):
    time_to_first_token: Annotated[
        Percentiles | None, Field(description="From the request to its first token.")
    ] = None
    inter_token_latency: Annotated[
        Percentiles | None, Field(description="From one token to the next.")
    ] = None
    concurrency: Annotated[
        int | None, Field(ge=1, le=4096, description="Requests served at the same time.")
    ] = None


class Scaling(Part):
    min: Annotated[int, Field(ge=0, le=64, description="0 scales to zero when idle.")] = 1
    max: Annotated[int, Field(ge=1, le=64, description="Never more replicas than this.")] = 1
    idle_after: Annotated[
        Duration | None, Field(description="How long without a request counts as idle.")
    ] = None
    prewarm: Annotated[
        Literal["none", "predictive"], Field(description="Start ahead of the usual hours.")
    ] = "none"

    @model_validator(mode="after")
    def _ordered(self) -> "Scaling":
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max})")
        return self


class Canary(Part):
    weight: Annotated[int, Field(ge=1, le=100, description="Percent of requests it receives.")]
    for_: Annotated[
        Duration, Field(alias="for", description="How long it must stay healthy to take over.")
    ]


class Release(Part):
    canary: Annotated[Canary | None, Field(description="Try a new version on a share first.")] = (
        None
    )
    check: Annotated[
        Literal["none", "golden"], Field(description="golden: run the golden prompts first.")
    ] = "golden"


EngineName = Literal[
    "auto", "llama-cpp", "vllm", "sglang", "tgi", "tensorrt-llm", "triton", "openai-http"
]


class ModelDeploymentSpec(Part):
    model: Annotated[
        str,
        Field(
            pattern=_MODEL_PATTERN,
            description=(
                "A model in the catalogue; name@1.2.0 pins a version, name@sha256:... a manifest."
            ),
        ),
    ]
    engine: Annotated[
        EngineName, Field(description="Which engine serves it; auto picks one that can.")
    ] = "auto"
    quantization: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$",
            description="auto, or one variant of the model such as Q4_K_M.",
        ),
    ] = "auto"
    replicas: Annotated[
        int, Field(ge=0, le=64, description="How many engines serve it side by side.")
    ] = 1
    resources: Annotated[Resources | None, Field(description="Hardware for each replica.")] = None
    context: Annotated[
        int, Field(ge=64, le=16_777_216, description="Tokens per request, prompt and answer.")
    ] = 4096
    objectives: Annotated[
        Objectives | None, Field(description="What matters instead of which hardware.")
    ] = None
    priority: Annotated[
        Literal["critical", "standard", "batch"],
        Field(description="Who goes first when not all can."),
    ] = "standard"
    scaling: Annotated[Scaling | None, Field(description="Between which numbers to scale.")] = None
    release: Annotated[Release | None, Field(description="How a new version takes over.")] = None


class ModelDeployment(Document):
    """A model that is to be served."""

    kind_name: ClassVar[str] = "ModelDeployment"
    kind: Literal["ModelDeployment"]
    spec: ModelDeploymentSpec

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
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$", description="ISO 4217, such as EUR.")]
    per_kilowatt_hour: Annotated[float, Field(ge=0, description="Price of one kWh.")]


class Disk(Part):
    store: Annotated[Bytes | None, Field(description="The most that models may take.")] = None
    floor: Annotated[
        Bytes | None, Field(description="Imports stop when less than this is free.")
    ] = None


class Retention(Part):
    audit: Annotated[Duration | None, Field(description="How long the audit log is kept.")] = None
    metrics: Annotated[Duration | None, Field(description="How long metrics are kept.")] = None


Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class Hours(Part):
    days: Annotated[
        tuple[Day, ...],
        Field(min_length=1, strict=False, description="The days on which it opens."),
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
        Field(strict=False, description="When bundles may come over the network; empty: always."),
    ] = ()


class Network(Part):
    bytes_per_second: Annotated[
        Bytes | None, Field(description="The most that transfers take of the link, such as 2M.")
    ] = None


class SiteSpec(Part):
    labels: Annotated[
        dict[str, str], Field(description="What the hub selects sites by, such as region.")
    ] = {}
    time_zone: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z]+(/[A-Za-z0-9_+-]+){0,2}$",
            description="IANA time zone such as Europe/Zurich; it only opens windows.",
        ),
    ] = "UTC"
    electricity: Annotated[Electricity | None, Field(description="The tariff.")] = None
    grams_co2_per_kilowatt_hour: Annotated[
        float | None, Field(ge=0, description="Carbon intensity of the electricity here.")
    ] = None
    disk: Annotated[Disk | None, Field(description="Budgets.")] = None
    retention: Annotated[Retention | None, Field(description="How long records stay.")] = None
    windows: Annotated[SiteWindows | None, Field(description="Hours by the site's clock.")] = None
    network: Annotated[Network | None, Field(description="What transfers may take.")] = None


class Site(Document):
    """What is particular to one place."""

    kind_name: ClassVar[str] = "Site"
    kind: Literal["Site"]
    spec: SiteSpec
