"""From the documents' one definition to the CustomResourceDefinitions of a cluster.

Pure. A server wants a *structural* schema: every node has a type, nothing is referred to, and no
alternative has a type of its own. Keywords are therefore taken over by name, and one that this
module does not know is an error while the manifests are written: a check that was lost on the way
would be missed by nobody until somebody relied on it. Unknown fields are not forbidden here, since
a structural schema cannot: servers drop them, and refuse them where the client asks for it.
"""

import inspect
from typing import Any

import yaml

from appliance.core import reading
from appliance.core.rules import KEYWORD
from appliance.core.statuses import STATUSES
from appliance.kube.resources import GROUP, MODEL_DEPLOYMENTS, MODELS, SITES, Resource

Json = dict[str, Any]

CATEGORY = "edge-ai"
RESOURCES = (MODEL_DEPLOYMENTS, MODELS, SITES)
SHORT_NAMES = {"ModelDeployment": ["md"], "Model": ["mdl"], "Site": []}
HEADER = (
    "# Written by `make docs` from the documents in appliance/core (documents.py, catalogue.py,\n"
    "# statuses.py) by appliance/kube/objects/crd.py. Do not edit.\n"
)

_KEPT = (
    "description", "type", "format", "default", "enum", "pattern", "minLength", "maxLength",
    "minimum", "maximum", "minItems", "maxItems", "maxProperties", "required",
    "x-kubernetes-list-type", "x-kubernetes-list-map-keys", KEYWORD,
)  # fmt: skip
_READ_HERE = {"title", "const", "properties", "items", "additionalProperties", "$defs", "$ref"}
_SCALE = {
    "specReplicasPath": ".spec.replicas",
    "statusReplicasPath": ".status.replicas",
    "labelSelectorPath": ".status.selector",
}
_FIRST_NODE = ".status.nodes[0].name"
"""Of several matches of a path servers show the first alone, and say so nowhere."""

_READY = '.status.conditions[?(@.type=="Ready")]'


def _column(name: str, path: str, description: str, **more: Any) -> Json:
    return {
        "name": name, "type": "string", "jsonPath": path, "description": description, **more,
    }  # fmt: skip


_AGE = _column("Age", ".metadata.creationTimestamp", "How long it has been there.", type="date")
COLUMNS: dict[str, list[Json]] = {
    "ModelDeployment": [
        _column("Model", ".spec.model", "The model that is asked for."),
        _column("Variant", ".status.variant", "The variant that serves."),
        _column("Ready", f"{_READY}.status", "Whether all replicas that are asked for serve."),
        _column("Replicas", ".spec.replicas", "How many are asked for.", type="integer"),
        _column(
            "Tokens/s", ".status.tokensPerSecond", "Tokens answered in a second.", type="number"
        ),
        _AGE,
        _column("Owner", ".status.owner", "Whose word it is.", priority=1),
        _column("Nodes", ".status.nodes", "Where its replicas run.", priority=1),
        _column("Reason", f"{_READY}.reason", "Why it is, or is not, ready.", priority=1),
    ],
    "Model": [
        _column("Variants", ".spec.summary", "Versions and their variants."),
        _column("Licence", ".spec.licence", "The licence."),
        _column("Node", _FIRST_NODE, "The first of the nodes that said what they hold of it."),
        _AGE,
        _column("Publisher", ".spec.publisher", "Who signed it.", priority=1),
    ],
    "Site": [
        _column("Time zone", ".spec.timeZone", "The time zone that its windows follow."),
        _column("Node", _FIRST_NODE, "The first of the site's nodes."),
        _AGE,
    ],
}


class _Plain(yaml.SafeDumper):
    """Writes what occurs twice twice: nobody reads anchors."""

    def ignore_aliases(self, _: Any) -> bool:
        return True


def files() -> dict[str, str]:
    """Return the manifests by file name."""
    return {
        f"{resource.plural}.yaml": HEADER
        + yaml.dump(definition(resource), Dumper=_Plain, sort_keys=False, width=100)
        for resource in RESOURCES
    }


def for_old_servers(found: Any) -> Any:
    """Return a definition without its CEL rules.

    A server before 1.25 knows none, and refuses a server-side apply that names them.
    """
    if isinstance(found, dict):
        return {k: for_old_servers(v) for k, v in found.items() if k != KEYWORD}
    return [for_old_servers(v) for v in found] if isinstance(found, list) else found


def definition(resource: Resource) -> Json:
    """Return the CustomResourceDefinition of one of our kinds."""
    names = {
        "plural": resource.plural,
        "singular": resource.kind.lower(),
        "kind": resource.kind,
        "listKind": f"{resource.kind}List",
        "shortNames": SHORT_NAMES[resource.kind],
        "categories": [CATEGORY],
    }
    subresources: Json = {"status": {}}
    if resource is MODEL_DEPLOYMENTS:
        subresources["scale"] = dict(_SCALE)
    version = {
        "name": resource.version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema(resource.kind)},
        "subresources": subresources,
        "additionalPrinterColumns": COLUMNS[resource.kind],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {key: value for key, value in names.items() if value},
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "versions": [version],
        },
    }


def schema(kind: str) -> Json:
    """Return the structural schema of a kind, its status included.

    Of the metadata a definition may only narrow the name; the server knows the rest itself.
    """
    whole = reading.KINDS[kind].model_json_schema(by_alias=True)
    status = _without_defaults(STATUSES[kind].model_json_schema(by_alias=True))
    metadata = reading.resolve(whole, whole["properties"]["metadata"])
    return {
        "description": inspect.getdoc(reading.KINDS[kind]),
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {
                "type": "object",
                "properties": {"name": _structural(whole, metadata["properties"]["name"])},
            },
            "spec": _structural(whole, whole["properties"]["spec"]),
            "status": {
                "description": "How it is, as the controller sees it. Nobody else writes it.",
                **_structural(status, status),
            },
        },
    }


def _without_defaults(node: Any) -> Any:
    """A status holds what somebody wrote; a server that added to it would look like a change."""
    if isinstance(node, dict):
        return {k: _without_defaults(v) for k, v in node.items() if k != "default"}
    return [_without_defaults(v) for v in node] if isinstance(node, list) else node


def _structural(whole: Json, node: Json) -> Json:
    node = reading.resolve(whole, node)
    if unknown := node.keys() - {*_KEPT, *_READ_HERE}:
        raise ValueError(f"no structural schema can say {', '.join(sorted(unknown))}: {node}")
    found = {key: node[key] for key in _KEPT if key in node and node[key] is not None}
    if "const" in node:
        found["enum"] = [node["const"]]
    if "properties" in node:
        found["properties"] = {
            name: _structural(whole, below) for name, below in node["properties"].items()
        }
    if "items" in node:
        found["items"] = _structural(whole, node["items"])
    if isinstance(node.get("additionalProperties"), dict):
        found["additionalProperties"] = _structural(whole, node["additionalProperties"])
    return found
