"""ModelDeployments as who plans reads them: the document or what is wrong with it, and the rest.

Made once as an object arrives, on the watch's thread. What nobody reads, such as managed fields and
the resource version, is not kept, so that its changes are none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from appliance.core.documents import ModelDeployment
from appliance.core.model import Variant
from appliance.core.state import (
    Condition,
    DeploymentStatus,
    DesiredDeployment,
    ObservedReplica,
    Origin,
    Truth,
)
from appliance.kube.objects import read
from appliance.kube.small import NOTHING, packed, unpacked
from appliance.kube.words.owned import DEMAND, owner_of

Json = dict[str, Any]


_ALSO_SEEN = ("Progressing", "Degraded")
"""Conditions that are made of others; see ``status``."""


@dataclass(frozen=True, slots=True)
class SeenDeployment:
    """One object. ``finding`` is why it is no document that is in force; then nothing is done."""

    name: str
    namespace: str
    uid: str
    generation: int
    document: ModelDeployment | None
    finding: Condition | None = None
    origin: Origin = Origin.CLUSTER
    demand: str | None = None
    said: bytes = NOTHING
    """The status, packed: a thousand of them weigh as much as the rest."""

    @property
    def status(self) -> Json:
        """What was last said of it."""
        return unpacked(self.said)

    @property
    def key(self) -> str:
        """What an informer knows it by."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads objects of all namespaces."""

    namespace: str

    def __call__(self, found: Json) -> SeenDeployment | None:
        """Return what is kept of an object; None of one that is being deleted."""
        metadata = found["metadata"]
        if "deletionTimestamp" in metadata:
            return None
        document, finding = self._document(found)
        notes = metadata.get("annotations") or {}
        return SeenDeployment(
            metadata["name"],
            metadata.get("namespace", ""),
            metadata["uid"],
            int(metadata.get("generation", 0)),
            document,
            finding,
            owner_of(metadata.get("labels") or {}, notes, metadata["name"]),
            notes.get(DEMAND),
            packed(found.get("status") or {}),
        )

    def _document(self, found: Json) -> tuple[ModelDeployment | None, Condition | None]:
        where = found["metadata"].get("namespace", "")
        if where != self.namespace:
            message = f"only ModelDeployments in the namespace {self.namespace} are served"
            return None, Condition("Ready", Truth.FALSE, "WrongNamespace", message)
        annotations = {
            k: v for k, v in (found["metadata"].get("annotations") or {}).items() if k != DEMAND
        }
        read_from = {**found, "metadata": {**found["metadata"], "annotations": annotations}}
        document = read.document(read_from)
        if isinstance(document, Condition):
            return None, document
        assert isinstance(document, ModelDeployment)
        return document, None


def told(
    seen: SeenDeployment,
    desired: DesiredDeployment,
    engines: Mapping[str, ObservedReplica],
    variants: Mapping[str, Variant],
) -> DeploymentStatus:
    """Return what whoever plans last said of a deployment, for the nodes that do not plan.

    Args:
        seen: The object.
        desired: Its document, and in what it departs from the fleet's word.
        engines: Its engines as this node sees them.
        variants: Those that this site has, by manifest.
    """
    status, document = seen.status, desired.document
    scaling = document.spec.scaling
    conditions = tuple(
        Condition(c["type"], Truth(c["status"]), c["reason"], c["message"])
        for c in status.get("conditions") or ()
        if c["type"] not in _ALSO_SEEN
    )
    reasons = {c.reason for c in conditions if c.type == "Ready"}
    return DeploymentStatus(
        name=seen.name,
        origin=seen.origin,
        drift=desired.drift,
        model=document.spec.model,
        variant=variants.get(status.get("digest", "")),
        replicas=status.get("replicas", document.spec.replicas),
        ready=status.get("readyReplicas", 0),
        conditions=conditions,
        engines=tuple(engines[name] for name in sorted(engines)),
        asleep="ScaledToZero" in reasons and scaling is not None,
        wakes=scaling is not None and not scaling.min,
    )
