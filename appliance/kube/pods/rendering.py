"""What one replica is made of in a cluster. Pure: values in, manifests out.

A replica is a Deployment of one pod, because the planner places replicas: it alone knows which
machines hold the weights. What several replicas of a ModelDeployment share, a Service and a
PodDisruptionBudget, is rendered for the ModelDeployment. Everything is owned by it, so that the
cluster removes it when that is deleted while no controller runs.

What is written here is what the server gives back, to the letter: the driver compares the two.
Hence quantities in their canonical form and no field with its default where the server drops it.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from appliance.core import wire
from appliance.core.model import Replica
from appliance.errors import EngineError, MalformedError
from appliance.kube import small
from appliance.kube.marks import (
    DEPLOYMENT,
    ENGINE,
    MANAGED_BY,
    MANAGER,
    RENDERED,
    REPLICA,
    REVISION,
)
from appliance.kube.resources import (
    CLAIM_TEMPLATES,
    DEPLOYMENTS,
    MODEL_DEPLOYMENTS,
    SERVICES,
    Resource,
)
from appliance.kube.server import Abilities
from appliance.runtime.profile import EngineProfile, PodProbe, profiles
from appliance.runtime.workers.drain import DRAIN_S

Json = dict[str, Any]

ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - in a network of its own, behind a NetworkPolicy
NUMBER = 65532
"""Who engines are in their containers: the user and group without a name or a home."""

_MODELS = "/models"
_GPU, _MIG = "nvidia.com/gpu", "nvidia.com/mig-"
_GRACE_S = 5
_MOST_NAME, _MOST_SERVICE = 60, 63
"""How long the names of a ModelDeployment in a cluster and of a Service may be."""
_SLEEP_ACTION_SINCE = (1, 30)
_REPLICA = TypeAdapter(Replica)
_PART = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]*")
"""What a folder below the models may be called."""
CONTAINED = (
    "own user",
    "no new privileges",
    "no capabilities",
    "no writable disk",
    "system call filter",
    "no access to the API server",
)
NOT_CONTAINED = ("network policy (kept only where the cluster's network does)",)


@dataclass(frozen=True, slots=True)
class Owner:
    """The object that a replica belongs to."""

    name: str
    uid: str
    api_version: str = MODEL_DEPLOYMENTS.api_version
    kind: str = MODEL_DEPLOYMENTS.kind


@dataclass(frozen=True, slots=True)
class PodSettings:
    """What is the same for all engines of a cluster.

    ``models`` is where each machine has its models; ``image`` replaces the profile's.
    ``settle_s`` passes between an engine's end as an endpoint and the word to end, ``drain_s``
    is what it then has to finish. ``fenced`` are GPUs, by UUID, that must not be used.
    ``deadline_s`` is how long a start may take before the cluster calls it failed.
    """

    namespace: str
    models: Path
    image: str = ""
    accelerator: str = "cuda"
    runtime_class: str = ""
    device_class: str = "gpu.nvidia.com"
    mig_class: str = "mig.nvidia.com"
    fenced: frozenset[str] = frozenset()
    threads: int = 2
    cpu_millis: int = 250
    settle_s: float = 3.0
    drain_s: float = 30.0
    deadline_s: int = 900


@dataclass(frozen=True, slots=True)
class Manifest:
    """An object as it should be; ``mark`` changes with what is rendered.

    Three thousand are kept, and a body is read only when it is written: it is kept small.
    """

    resource: Resource
    name: str
    path: str
    packed: bytes
    mark: str

    @property
    def body(self) -> Json:
        """What is applied."""
        return small.unpacked(self.packed)


@dataclass(frozen=True, slots=True)
class Rendering:
    """Makes manifests for one cluster."""

    settings: PodSettings
    abilities: Abilities

    def replica(self, replica: Replica, profile: EngineProfile, owner: Owner) -> list[Manifest]:
        """Return what one replica is made of, what is needed first at the front.

        Raises:
            EngineError: its engine cannot run in a cluster, or there is no image for it.
        """
        labels = _labels(replica.engine, replica.deployment, replica.id)
        pod = self._pod(replica, profile)
        found: list[Manifest] = []
        if (replica.gpus or replica.mig) and self.abilities.claims:
            claim = self._claim(replica)
            name = f"{replica.id[:54]}-{_mark(claim)[:8]}"  # its spec can never be changed
            body = {**self._metadata(CLAIM_TEMPLATES, name, labels, owner), "spec": claim}
            found.append(_marked(CLAIM_TEMPLATES, body))
            pod["resourceClaims"] = [{"name": "gpu", "resourceClaimTemplateName": name}]
        body = {
            **self._metadata(DEPLOYMENTS, replica.id, labels, owner),
            "spec": {
                "replicas": 1,
                "revisionHistoryLimit": 1,
                "progressDeadlineSeconds": self.settings.deadline_s,
                "strategy": {"type": "Recreate"},
                "selector": {"matchLabels": {REPLICA: replica.id}},
                "template": {
                    "metadata": {"labels": labels, "annotations": {REVISION: replica.revision}},
                    "spec": pod,
                },
            },
        }
        notes = body["metadata"]["annotations"]
        notes[REVISION] = replica.revision
        notes[REPLICA] = wire.dumps(replica.to_wire()).decode()
        return [*found, _marked(DEPLOYMENTS, body)]

    def shared(self, deployment: str, profile: EngineProfile, owner: Owner) -> list[Manifest]:
        """Return what all replicas of a ModelDeployment have in common.

        Raises:
            EngineError: its engine cannot run in a cluster.
        """
        labels = _labels(profile.name, deployment)
        chosen = {DEPLOYMENT: deployment}
        port = profile.in_network().port
        service = {
            **self._metadata(SERVICES, service_name(deployment), labels, owner),
            "spec": {
                "clusterIP": "None",
                "selector": chosen,
                "ports": [{"name": "http", "port": port, "targetPort": port, "protocol": "TCP"}],
            },
        }
        budgets = self.abilities.budgets
        budget = {
            **self._metadata(budgets, deployment, labels, owner),
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": chosen}},
        }
        return [_marked(SERVICES, service), _marked(budgets, budget)]

    def _metadata(self, what: Resource, name: str, labels: Mapping[str, str], owner: Owner) -> Json:
        reference = {
            "apiVersion": owner.api_version,
            "kind": owner.kind,
            "name": owner.name,
            "uid": owner.uid,
            "controller": True,
            "blockOwnerDeletion": False,
        }
        return {
            "apiVersion": what.api_version,
            "kind": what.kind,
            "metadata": {
                "name": name,
                "namespace": self.settings.namespace,
                "labels": dict(labels),
                "annotations": {},
                "ownerReferences": [reference],
            },
        }

    def _pod(self, replica: Replica, profile: EngineProfile) -> Json:
        settings = self.settings
        variant = replica.variant
        weights = settings.models / variant.model / variant.version / variant.name
        pod: Json = {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "priorityClassName": f"edge-{replica.priority}",
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": NUMBER,
                "runAsGroup": NUMBER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "terminationGracePeriodSeconds": round(settings.settle_s + settings.drain_s) + _GRACE_S,
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": {DEPLOYMENT: replica.deployment}},
                }
            ],
            "containers": [self._container(replica, profile)],
            "volumes": [{"name": "model", "hostPath": {"path": str(weights), "type": "Directory"}}],
        }
        if scratch := profile.in_network().scratch_bytes:
            memory = {"medium": "Memory", "sizeLimit": quantity(scratch)}
            pod["volumes"].append({"name": "tmp", "emptyDir": memory})
        if replica.nodes:
            pod["affinity"] = {"nodeAffinity": _only_on(replica.nodes)}
        if settings.runtime_class:
            pod["runtimeClassName"] = settings.runtime_class
        return pod

    def _container(self, replica: Replica, profile: EngineProfile) -> Json:
        network = profile.in_network()
        accelerator = self.settings.accelerator if replica.gpus or replica.mig else "cpu"
        weights = f"{_MODELS}/{replica.variant.file}"
        mounts: list[Json] = [{"name": "model", "mountPath": _MODELS, "readOnly": True}]
        if network.scratch_bytes:
            mounts.append({"name": "tmp", "mountPath": "/tmp"})  # noqa: S108 - of the container
        return {
            "name": "engine",
            "image": self.settings.image or network.image(accelerator),
            "imagePullPolicy": "IfNotPresent",
            "args": profile.network_arguments(replica, weights, ANY_ADDRESS, self.settings.threads),
            "env": [{"name": DRAIN_S, "value": f"{self.settings.drain_s:g}"}],
            "ports": [{"name": "http", "containerPort": network.port, "protocol": "TCP"}],
            "resources": self._resources(replica),
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "startupProbe": _probe(network.startup),
            "readinessProbe": _probe(network.readiness),
            "livenessProbe": _probe(network.liveness),
            "lifecycle": {"preStop": self._before_the_end(profile)},
            "volumeMounts": mounts,
        }

    def _before_the_end(self, profile: EngineProfile) -> Json:
        """Return what keeps an engine answering while word goes round that it is no endpoint.

        Our images then drain by themselves. Others' end at SIGTERM: there, a shell waits for what
        runs; where the image lacks a shell or curl it is over at once, and so is the pod.
        """
        settings = self.settings
        seconds = max(1, round(settings.settle_s))
        if settings.image and not profile.in_network().is_ours(settings.image):
            script = _others_drain(profile, seconds, round(settings.drain_s))
            return {"exec": {"command": ["sh", "-c", script]}}
        if self.abilities.release >= _SLEEP_ACTION_SINCE:
            return {"sleep": {"seconds": seconds}}
        return {"exec": {"command": ["sleep", str(seconds)]}}

    def _resources(self, replica: Replica) -> Json:
        memory = quantity(replica.memory_limit_bytes)
        limits = {"memory": memory}
        needs: Json = {
            "limits": limits,
            "requests": {"cpu": _cpu(self.settings.cpu_millis), "memory": memory},
        }
        if (replica.gpus or replica.mig) and self.abilities.claims:
            needs["claims"] = [{"name": "gpu"}]
        elif replica.mig:
            limits[_MIG + replica.mig] = "1"
        elif replica.gpus:
            limits[_GPU] = str(replica.gpus)
        return needs

    def _claim(self, replica: Replica) -> Json:
        settings = self.settings
        domain = f'device.attributes["{settings.device_class}"]'
        rules: list[str] = []
        if replica.mig:
            rules.append(f'{domain}.profile == "{replica.mig}"')
        if settings.fenced:
            names = ", ".join(f'"{uuid}"' for uuid in sorted(settings.fenced))
            rules.append(f"!({domain}.{'parentUUID' if replica.mig else 'uuid'} in [{names}])")
        request: Json = {
            "deviceClassName": settings.mig_class if replica.mig else settings.device_class,
            "allocationMode": "ExactCount",
            "count": replica.gpus or 1,
        }
        if rules:
            request["selectors"] = [{"cel": {"expression": rule}} for rule in rules]
        return {"spec": {"devices": {"requests": [{"name": "gpu", "exactly": request}]}}}


def service_name(deployment: str) -> str:
    """Return a Service's name, which, unlike a ModelDeployment's, begins with a letter.

    One that is made for this is longer than a ModelDeployment's can be: it is nobody else's.
    """
    if deployment[0].isalpha():
        return deployment
    found = f"m-{deployment}"
    if len(found) > _MOST_NAME:
        return found[:_MOST_SERVICE].rstrip("-")
    digest = hashlib.sha256(deployment.encode()).hexdigest()
    return f"{found}-{digest}"[:_MOST_SERVICE]


def quantity(count: int) -> str:
    """Return bytes, rounded up to whole MiB, as the server itself writes them."""
    mebibytes = -(-count // (1 << 20))
    for unit in ("Mi", "Gi", "Ti"):
        if mebibytes % 1024 or unit == "Ti":
            return f"{mebibytes}{unit}"
        mebibytes //= 1024
    raise AssertionError


def replica_in(annotations: Mapping[str, str]) -> Replica | None:
    """Return the replica that a Deployment's annotations name, or None when they name none.

    Anybody who may write Deployments may have written them: one that we would not make is none.
    """
    try:
        text = annotations[REPLICA].encode()
        _REPLICA.validate_json(text, strict=True)
        found = Replica.from_wire(wire.loads(text, what="a replica"))
        profiles()[found.engine].in_network()
    except (KeyError, TypeError, ValueError, AttributeError, EngineError, MalformedError):
        return None
    variant = found.variant
    parts = (variant.model, variant.version, variant.name)
    return found if all(_PART.fullmatch(part) for part in parts) else None


def _labels(engine: str, deployment: str, replica: str = "") -> dict[str, str]:
    found = {MANAGED_BY: MANAGER, ENGINE: engine, DEPLOYMENT: deployment}
    return {**found, REPLICA: replica} if replica else found


def _marked(resource: Resource, body: Json) -> Manifest:
    mark = _mark(body)
    body["metadata"]["annotations"][RENDERED] = mark
    name, namespace = body["metadata"]["name"], body["metadata"]["namespace"]
    return Manifest(resource, name, resource.path(namespace, name), small.packed(body), mark)


def _mark(body: Json) -> str:
    return hashlib.sha256(wire.dumps(body)).hexdigest()[:16]


def _only_on(nodes: tuple[str, ...]) -> Json:
    rule = {"key": "kubernetes.io/hostname", "operator": "In", "values": sorted(nodes)}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}
    return {"requiredDuringSchedulingIgnoredDuringExecution": terms}


def _probe(probe: PodProbe) -> Json:
    return {
        "httpGet": {"path": probe.path, "port": "http", "scheme": "HTTP"},
        "periodSeconds": probe.period_s,
        "timeoutSeconds": probe.timeout_s,
        "failureThreshold": probe.failures,
        "successThreshold": 1,
    }


def _others_drain(profile: EngineProfile, settle_s: int, drain_s: int) -> str:
    """Return a script that ends when an engine that we did not build has nothing to answer."""
    if profile.busy is None or drain_s < 1:
        return f"sleep {settle_s}"
    url = f"http://127.0.0.1:{profile.in_network().port}{profile.busy.path}"
    names = "|".join(profile.busy.names)
    return (
        f"sleep {settle_s}; i=0; while [ $i -lt {drain_s} ] && "
        f"curl -sm 5 {url} | grep -Eq '^({names}) [1-9]'; do i=$((i+1)); sleep 1; done"
    )


def _cpu(millis: int) -> str:
    return f"{millis}m" if millis % 1000 else str(millis // 1000)
