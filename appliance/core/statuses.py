"""What the controller says about each kind in Kubernetes, defined once as the specs are.

Nobody reads a status from a file: these classes are the schema that an API server holds statuses
to (``kube/objects/crd.py``). Lists of nodes merge by name: each node writes its own entry. What
the controller wrote must never be refused for its length: texts may be as long as Kubernetes' own.
"""

from typing import Annotated, Literal

from pydantic import Field

from appliance.core.catalogue import Sha256
from appliance.core.part import Part
from appliance.core.rules import ListMap

NodeName = Annotated[str, Field(max_length=253)]
Text = Annotated[str, Field(max_length=32768)]
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]


class StatusCondition(Part):
    """One statement about the object, in Kubernetes' standard form."""

    type: Annotated[str, Field(min_length=1, max_length=316, description="What is stated: Ready.")]
    status: Annotated[
        Literal["True", "False", "Unknown"], Field(description="Whether it holds, if known.")
    ]
    observed_generation: Annotated[
        Count | None, Field(description="The generation of the object that this is about.")
    ] = None
    last_transition_time: Annotated[
        str,
        Field(
            max_length=64,
            description="When the status last changed.",
            json_schema_extra={"format": "date-time"},
        ),
    ]
    reason: Annotated[
        str,
        Field(
            min_length=1,
            max_length=1024,
            pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
            description="Why, in one word for programs.",
        ),
    ]
    message: Annotated[Text, Field(description="Why, in words for people.")]


Conditions = Annotated[
    tuple[StatusCondition, ...],
    Field(
        strict=False,
        max_length=32,
        description="Statements about the object: Ready, Progressing, Degraded, Fits and others.",
    ),
    ListMap("type"),
]


class ModelDeploymentStatus(Part):
    observed_generation: Annotated[
        Count | None, Field(description="The generation that the rest is about.")
    ] = None
    replicas: Annotated[
        Count | None, Field(description="How many replicas there are, ready or not.")
    ] = None
    ready_replicas: Annotated[
        Count | None, Field(description="How many replicas answer requests.")
    ] = None
    selector: Annotated[
        str | None,
        Field(max_length=1024, description="The labels of its pods, for autoscalers."),
    ] = None
    variant: Annotated[
        str | None, Field(max_length=64, description="The variant that serves, or is to.")
    ] = None
    version: Annotated[
        str | None, Field(max_length=64, description="The version that serves, or is to.")
    ] = None
    digest: Annotated[Sha256 | None, Field(description="The manifest that serves, or is to.")] = (
        None
    )
    tokens_per_second: Annotated[
        float | None,
        Field(ge=0, description="Tokens answered in a second, all replicas together; of late."),
    ] = None
    owner: Annotated[
        Literal["fleet", "local", "cluster"] | None,
        Field(
            description=(
                "Whose word it is: the hub's (fleet), that of appliance apply on a node (local), "
                "or of somebody who speaks to the API server (cluster)."
            )
        ),
    ] = None
    nodes: Annotated[
        tuple[NodeName, ...],
        Field(strict=False, max_length=1024, description="The nodes that its replicas run on."),
    ] = ()
    conditions: Conditions = ()


class ModelDenial(Part):
    manifest: Annotated[Sha256, Field(description="Which variant, by its manifest.")]
    reason: Annotated[str, Field(max_length=1024, description="Why, in one word for programs.")]
    message: Annotated[Text, Field(description="Why, in words for people.")]
    stop: Annotated[
        bool, Field(description="Whether what runs has to stop too, and not only not to start.")
    ] = False


class ModelNode(Part):
    name: Annotated[NodeName, Field(description="The node, by its name in Kubernetes.")]
    held: Annotated[
        tuple[Sha256, ...],
        Field(
            strict=False,
            max_length=1024,
            description="The manifests whose weights are on this node, whole and verified.",
        ),
    ] = ()
    denied: Annotated[
        tuple[ModelDenial, ...],
        Field(strict=False, max_length=1024, description="What must not be started there."),
    ] = ()


class ModelStatus(Part):
    nodes: Annotated[
        tuple[ModelNode, ...],
        Field(strict=False, max_length=1024, description="Who holds what; each node says its own."),
        ListMap("name"),
    ] = ()


class SiteGpu(Part):
    uuid: Annotated[str, Field(max_length=128, description="The GPU's own number.")]
    name: Annotated[str, Field(max_length=256, description="What its maker calls it.")]
    memory_bytes: Annotated[
        Count | None, Field(description="Its memory; absent where nobody can tell.")
    ] = None
    fenced: Annotated[
        str | None,
        Field(max_length=1024, description="Why nothing is placed on it; absent on a healthy one."),
    ] = None


class SiteNode(Part):
    name: Annotated[NodeName, Field(description="The node, by its name in Kubernetes.")]
    id: Annotated[str | None, Field(max_length=63, description="The node's id in the fleet.")] = (
        None
    )
    version: Annotated[
        str | None, Field(max_length=64, description="The release of the controller there.")
    ] = None
    memory_bytes: Annotated[
        Count | None, Field(description="The node's memory; absent where nobody can tell.")
    ] = None
    gpus: Annotated[
        tuple[SiteGpu, ...],
        Field(strict=False, max_length=64, description="The node's GPUs."),
    ] = ()
    disk_pressure: Annotated[
        bool | None,
        Field(description="Whether its disk is so full that Kubernetes would evict pods."),
    ] = None


class SiteStatus(Part):
    nodes: Annotated[
        tuple[SiteNode, ...],
        Field(
            strict=False, max_length=1024, description="The site's nodes; each node says its own."
        ),
        ListMap("name"),
    ] = ()


STATUSES: dict[str, type[Part]] = {
    "ModelDeployment": ModelDeploymentStatus,
    "Model": ModelStatus,
    "Site": SiteStatus,
}
