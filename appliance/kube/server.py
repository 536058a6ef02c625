"""What an API server has, and what an old one cannot do for us.

We write for current APIs and ask the server at start which of them it serves. What has an API of
its own is believed by discovery, whatever the version says: a server may be started with an API
turned off. What changes only how a field is treated (rules in a CRD, restart policies) cannot be
seen there, so that the version decides, from the release that turned it on for everybody.
"""

import asyncio
import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.errors import NotFoundError, PeerUnreachableError
from appliance.kit.loop import Again
from appliance.kube.errors import ForbiddenError
from appliance.kube.resources import (
    BUDGETS,
    ENDPOINT_SLICES,
    OLD_BUDGETS,
    OLD_ENDPOINT_SLICES,
    Resource,
)

if TYPE_CHECKING:
    from appliance.kube.client import Json, KubeApi

log = logging.getLogger(__name__)

_LOOK_S = 600.0
_ADMISSION = "admissionregistration.k8s.io/v1"
_CLAIMS = "resource.k8s.io/v1"
_RUNTIME_CLASSES = "/apis/node.k8s.io/v1/runtimeclasses"
_DEVICE_CLASSES = f"/apis/{_CLAIMS}/deviceclasses"

CRD_RULES_SINCE = (1, 25)
STRICT_FIELDS_SINCE = (1, 25)
POD_SECURITY_SINCE = (1, 23)
SIDECARS_SINCE = (1, 29)
GRPC_PROBES_SINCE = (1, 24)


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a server has.

    ``runtime_classes`` and ``device_classes`` are the names of those that exist; ``None`` means
    that we may not look. Claims need both the API (``claims``) and a driver, which is there when
    it has brought a device class.
    """

    version: str
    release: tuple[int, int]
    claims: bool
    """DRA: ``resource.k8s.io/v1``; without it GPUs are counted by device plugins."""
    crd_rules: bool
    """CEL in CRDs is checked."""
    admission_policies: bool
    """ValidatingAdmissionPolicy v1."""
    pod_security: bool
    """Pod Security admission, by labels on namespaces."""
    strict_fields: bool
    """An unknown field is refused; an older server drops it in silence."""
    budgets_v1: bool
    slices_v1: bool
    events_v1: bool
    autoscaling_v2: bool
    sidecars: bool
    grpc_probes: bool
    runtime_classes: frozenset[str] | None = None
    device_classes: frozenset[str] | None = None

    @property
    def budgets(self) -> Resource:
        """Where PodDisruptionBudgets are."""
        return BUDGETS if self.budgets_v1 else OLD_BUDGETS

    @property
    def slices(self) -> Resource:
        """Where EndpointSlices are."""
        return ENDPOINT_SLICES if self.slices_v1 else OLD_ENDPOINT_SLICES

    def cannot(self) -> list[str]:
        """Return a sentence for each thing that matters and that this server leaves undone."""
        this = f"this server ({'.'.join(map(str, self.release))})"
        lacks = {
            f"{this} does not check the rules between the fields of a ModelDeployment itself; the "
            "controller does, once it is stored": self.crd_rules,
            f"{this} does not refuse fields it does not know: a misspelt one is dropped in silence "
            "below those that the schema closes": self.strict_fields,
            f"{this} has no admission policies: that only verified digests run, and that engines "
            "stay contained, is kept by the controller alone": self.admission_policies,
            f"{this} has no Pod Security admission: nothing keeps other pods with privileges out "
            "of the engines' namespace": self.pod_security,
            "GPUs are counted by device plugins, not claimed (DRA): a share of a GPU by memory "
            "cannot be asked for": self.claims,
        }
        return [sentence for sentence, has in lacks.items() if not has]


def abilities(
    version: "Json",
    groups: "Json",
    resources: Mapping[str, Collection[str]],
    *,
    runtime_classes: frozenset[str] | None = None,
    device_classes: frozenset[str] | None = None,
) -> Abilities:
    """Return what a server has, from what it says of itself.

    Args:
        version: Its ``/version``.
        groups: Its ``/apis``.
        resources: Plural names in those group versions whose content matters here.
        runtime_classes: Names of its RuntimeClasses; None when we may not look.
        device_classes: Names of its DeviceClasses.

    Raises:
        PeerUnreachableError: what answers there is no API server.
    """
    release = _release(version)
    served = {v["groupVersion"] for group in groups.get("groups") or () for v in group["versions"]}
    return Abilities(
        version=str(version.get("gitVersion", "")),
        release=release,
        claims="resourceclaims" in resources.get(_CLAIMS, ()),
        crd_rules=release >= CRD_RULES_SINCE,
        admission_policies="validatingadmissionpolicies" in resources.get(_ADMISSION, ()),
        pod_security=release >= POD_SECURITY_SINCE,
        strict_fields=release >= STRICT_FIELDS_SINCE,
        budgets_v1="policy/v1" in served,
        slices_v1="discovery.k8s.io/v1" in served,
        events_v1="events.k8s.io/v1" in served,
        autoscaling_v2="autoscaling/v2" in served,
        sidecars=release >= SIDECARS_SINCE,
        grpc_probes=release >= GRPC_PROBES_SINCE,
        runtime_classes=runtime_classes,
        device_classes=device_classes,
    )


def detect(api: "KubeApi") -> Abilities:
    """Ask a server what it has. Blocking; five or six calls.

    Raises:
        PeerUnreachableError: it is away, or no API server.
    """
    version, groups = api.get("/version"), api.get("/apis")
    resources = {which: _resources(api, which) for which in (_ADMISSION, _CLAIMS)}
    has_claims = bool(resources[_CLAIMS])
    return abilities(
        version,
        groups,
        resources,
        runtime_classes=_names(api, _RUNTIME_CLASSES),
        device_classes=_names(api, _DEVICE_CLASSES) if has_claims else frozenset(),
    )


class Server:
    """The newest answer to what the server has; asking it takes nothing.

    It is looked at again every ten minutes: a cluster is upgraded under a controller that runs.
    """

    def __init__(self, api: "KubeApi") -> None:
        self.abilities: Abilities | None = None
        """``None`` until the server was reached once."""
        self._api = api

    async def look(self) -> Again:
        """Look again.

        Raises:
            PeerUnreachableError: the server is away; what was known goes on to count.
        """
        found = await asyncio.to_thread(detect, self._api)
        if self.abilities is None or self.abilities.version != found.version:
            log.info("the API server is %s; %s", found.version, "; ".join(found.cannot()) or "full")
        self.abilities = found
        return Again(_LOOK_S)


def _release(version: "Json") -> tuple[int, int]:
    """Return 1.34 of what distributions write as ``34+`` or ``v1.34.1+k3s1``."""
    found = re.match(r"v?(\d+)\.(\d+)", f"{version.get('major')}.{version.get('minor')}")
    found = found or re.match(r"v?(\d+)\.(\d+)", str(version.get("gitVersion")))
    if found is None:
        raise PeerUnreachableError("what answers there does not say which Kubernetes it is")
    return int(found[1]), int(found[2])


def _resources(api: "KubeApi", group_version: str) -> frozenset[str]:
    try:
        found = api.get(f"/apis/{group_version}")
    except NotFoundError:
        return frozenset()
    return frozenset(str(resource["name"]) for resource in found.get("resources") or ())


def _names(api: "KubeApi", path: str) -> frozenset[str] | None:
    try:
        items, _ = api.list(path)
    except (ForbiddenError, NotFoundError):
        return None
    return frozenset(str(item["metadata"]["name"]) for item in items)
