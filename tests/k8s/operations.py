"""What the controller and the gateway ask of an API server: which call needs which verb.

Each is one call as ``appliance/kube`` makes it, on objects made for the occasion. A body that the
server finds wrong is as good as one it takes: it judged the right to send it first.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from appliance.errors import BadDocumentError, NotFoundError
from appliance.kube.client import KubeApi
from appliance.kube.errors import ConflictError, ExistsError
from appliance.kube.resources import (
    CLAIM_TEMPLATES,
    CONFIG_MAPS,
    CORE_EVENTS,
    DEFINITIONS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    EVENTS,
    LEASES,
    MODEL_DEPLOYMENTS,
    MODELS,
    NAMESPACES,
    NODES,
    OLD_ENDPOINT_SLICES,
    PODS,
    SERVICES,
    SITES,
    Resource,
)

Json = dict[str, Any]
ENGINES, SYSTEM = "edge-engines", "edge-system"
RUNTIME_CLASSES = Resource("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", namespaced=False)
DEVICE_CLASSES = Resource("resource.k8s.io", "v1", "deviceclasses", "DeviceClass", namespaced=False)


@dataclass(frozen=True)
class Operation:
    """One thing that is done, and the verb on a resource that it needs."""

    what: str
    kind: Resource
    verb: str
    namespace: str | None = None
    name: str = ""
    sub: str = ""
    everywhere: bool = False

    @property
    def right(self) -> tuple[str, str, str, str]:
        """Namespace ("" for all), group, resource and verb, as a role grants them."""
        resource = f"{self.kind.plural}/{self.sub}" if self.sub else self.kind.plural
        where = "" if self.everywhere else self.namespace or ""
        return where, self.kind.group, resource, self.verb

    def run(self, api: KubeApi) -> None:
        """Do it; raises ForbiddenError without the right."""
        with contextlib.suppress(NotFoundError, ExistsError, ConflictError, BadDocumentError):
            _DOING[self.verb](api, self)


def _body(operation: Operation) -> Json:
    metadata = {"name": operation.name or "right"}
    if operation.namespace:
        metadata["namespace"] = operation.namespace
    kind = operation.kind
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}


def _path(operation: Operation, *, one: bool = True) -> str:
    name = (operation.name or "right") if one else ""
    return operation.kind.path(operation.namespace, name, operation.sub)


def _watch(api: KubeApi, operation: Operation) -> None:
    watching = api.watch(_path(operation, one=False), "0", timeout_s=1)
    next(iter(watching), None)
    watching.close()


_DOING: dict[str, Callable[[KubeApi, Operation], object]] = {
    "get": lambda api, o: api.get(_path(o)),
    "list": lambda api, o: api.list(_path(o, one=False)),
    "watch": _watch,
    "create": lambda api, o: api.create(_path(o, one=False), _body(o)),
    "patch": lambda api, o: api.merge(_path(o), {"metadata": {"labels": {"a": "b"}}}),
    "update": lambda api, o: api.replace(_path(o), _body(o)),
    "delete": lambda api, o: api.delete(_path(o)),
}

_WHY = {
    "get": "read back before it is changed",
    "list": "look at all of them at start and at each resync",
    "watch": "hear of changes",
    "create": "make it, also by a first server-side apply",
    "patch": "server-side apply",
    "update": "replace what an apply cannot mend",
    "delete": "take away what is not wanted any more",
}


def _all(kind: Resource, verbs: str, where: str | None = None, **more: Any) -> list[Operation]:
    return [
        Operation(f"{_WHY[verb]}: {kind.plural}", kind, verb, where, **more)
        for verb in verbs.split()
    ]


def controller(budgets: Resource) -> list[Operation]:
    """Return what the controller does; ``budgets`` is the version that the server has."""
    engine = "get list watch create patch update delete"
    return [
        *_all(DEPLOYMENTS, engine, ENGINES),
        *_all(SERVICES, engine, ENGINES),
        *_all(budgets, engine, ENGINES),
        *_all(CLAIM_TEMPLATES, engine, ENGINES),
        *_all(PODS, "list watch", ENGINES),
        Operation("what an engine said before it failed", PODS, "get", ENGINES, sub="log"),
        *_all(MODEL_DEPLOYMENTS, "get create patch delete", ENGINES),
        *_all(MODEL_DEPLOYMENTS, "list watch"),
        *_all(MODEL_DEPLOYMENTS, "patch", "default", sub="status", everywhere=True),
        *_all(EVENTS, "create", ENGINES),
        *_all(CORE_EVENTS, "create", "default"),
        *_all(LEASES, "get list watch create patch update", SYSTEM),
        *_all(CONFIG_MAPS, "get patch create", SYSTEM, name="edge-verified"),
        *_all(MODELS, "get list watch create patch delete"),
        *_all(MODELS, "patch", sub="status"),
        *_all(SITES, "get list watch create patch delete"),
        *_all(SITES, "patch", sub="status"),
        *_all(NODES, "list watch"),
        *_all(NAMESPACES, "get", name=ENGINES),
        *_all(DEFINITIONS, "get"),
        *_all(RUNTIME_CLASSES, "list"),
        *_all(DEVICE_CLASSES, "list"),
    ]


def gateway(*, old: bool) -> list[Operation]:
    """Return what the gateway does; ``old``: the server has slices in v1beta1 only."""
    return _all(OLD_ENDPOINT_SLICES if old else ENDPOINT_SLICES, "list watch", ENGINES)
