"""Custom resource definitions in tests: what a server would say, and how one gets them.

``refusals`` holds an object to the schema, ``broken_rules`` to the CEL rules in it, both after
nulls were pruned and defaults filled in, which is the order in which a server does it.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import celpy
import celpy.adapter
import jsonschema
import yaml

from appliance.core.documents import API_VERSION
from appliance.core.rules import KEYWORD
from appliance.errors import ApplianceError
from appliance.kube.client import KubeApi
from appliance.kube.objects import crd
from appliance.kube.resources import DEFINITIONS, Resource
from tests.conftest import ROOT

Json = dict[str, Any]

MANIFESTS = ROOT / "manifests" / "base" / "crds"
_TYPES: dict[str, type] = {"object": dict, "array": list, "string": str}
_CASES = ROOT / "tests" / "data" / "kubernetes"


@dataclass(frozen=True)
class Case:
    """One object of ``tests/data/kubernetes``, and what has to be said about it."""

    id: str
    resource: Json
    caught: str
    says: str
    server: str

    @property
    def kind(self) -> str:
        return str(self.resource["kind"])


def cases(name: str) -> list[Case]:
    """Return the cases of ``valid`` or ``invalid``."""
    return [_case(found) for found in yaml.safe_load((_CASES / f"{name}.yaml").read_text())]


def _case(found: Json) -> Case:
    kind = found.get("kind", "ModelDeployment")
    least = {"model": "m"} if kind == "ModelDeployment" else {}
    resource = {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": found["id"][:60].rstrip("-"), **found.get("metadata", {})},
        "spec": {**least, **found.get("spec", {})},
    }
    says, server = found.get("says", ""), found.get("server", "")
    return Case(found["id"], resource, found.get("caught", ""), says, server)


def resource_of(kind: str) -> Resource:
    """Return where objects of a kind of ours live."""
    return next(r for r in crd.RESOURCES if r.kind == kind)


@cache
def schema_of(kind: str) -> Json:
    """Return the schema in the manifest that a cluster is given."""
    path = MANIFESTS / f"{resource_of(kind).plural}.yaml"
    (version,) = yaml.safe_load(path.read_text())["spec"]["versions"]
    found: Json = version["schema"]["openAPIV3Schema"]
    return found


def nodes(schema: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """Yield every node of a schema with its path; ``[]`` are entries, ``{}`` values of mappings."""
    yield path, schema
    for name, below in schema.get("properties", {}).items():
        yield from nodes(below, f"{path}.{name}")
    for keyword, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if keyword in schema:
            yield from nodes(schema[keyword], f"{path}{mark}")


def defaulted(schema: Json, value: Any) -> Any:
    """Return a value as the server has it before it judges: no nulls, and with defaults."""
    if isinstance(value, list):
        return [defaulted(schema.get("items", {}), entry) for entry in value]
    if not isinstance(value, dict):
        return value
    known = schema.get("properties", {})
    found = {k: v for k, v in value.items() if v is not None}
    for name, below in known.items():
        if "default" in below:
            found.setdefault(name, below["default"])
    other = schema.get("additionalProperties", {})
    return {k: defaulted(known.get(k, other), v) for k, v in found.items()}


def refusals(schema: Json, value: Any) -> list[str]:
    """Return what a server's schema has against a value, duplicates in list maps included."""
    found = jsonschema.Draft4Validator(schema).iter_errors(value)
    said = [f"{'.'.join(str(p) for p in e.absolute_path)}: {e.message}" for e in found]
    return said + [f"{path}: Duplicate value" for path in _duplicates(schema, value)]


def _duplicates(schema: Json, value: Any) -> Iterator[str]:
    for path, node, found in walk(schema, value):
        if keys := node.get("x-kubernetes-list-map-keys"):
            entries = [tuple(str(entry.get(key)) for key in keys) for entry in found]
            if len(set(entries)) != len(entries):
                yield path


def broken_rules(schema: Json, value: Any) -> list[str]:
    """Return path and message of each CEL rule that a value breaks, as a server words them.

    As there, a value of another type than the schema's is not held to rules.
    """
    return [
        f"{path}: {rule['message']}"
        for path, node, found in walk(schema, value)
        for rule in node.get(KEYWORD, ())
        if isinstance(found, _TYPES[node["type"]]) and not _holds(rule["rule"], found)
    ]


def walk(schema: Json, value: Any, path: str = "") -> Iterator[tuple[str, Json, Any]]:
    """Yield every value with its path and its schema: a rule's ``self`` is the value it is at."""
    yield path.lstrip("."), schema, value
    if isinstance(value, dict):
        for name, below in value.items():
            node = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            if isinstance(node, dict):
                yield from walk(node, below, f"{path}.{name}")
    if isinstance(value, list):
        for number, below in enumerate(value):
            yield from walk(schema["items"], below, f"{path}[{number}]")


@cache
def _environment() -> celpy.Environment:
    return celpy.Environment()


@cache
def _program(rule: str) -> Any:
    return _environment().program(_environment().compile(rule))


def _holds(rule: str, value: Any) -> bool:
    return bool(_program(rule).evaluate({"self": celpy.adapter.json_to_cel(value)}))


def install(api: KubeApi, folder: Path = MANIFESTS) -> bool:
    """Give a server our definitions, and wait until it serves them; return whether it knows CEL."""
    manifests = [yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.yaml"))]
    know_cel = [_apply(api, manifest) for manifest in manifests]
    for manifest in manifests:
        _wait_until_served(api, DEFINITIONS.path(name=manifest["metadata"]["name"]))
    return all(know_cel)


def _apply(api: KubeApi, manifest: Json) -> bool:
    path = DEFINITIONS.path(name=manifest["metadata"]["name"])
    try:
        api.apply(path, manifest, force=True)
    except ApplianceError as error:  # 1.20 answers 500 to an apply with a field it does not know
        if KEYWORD not in error.what:
            raise
        api.apply(path, crd.for_old_servers(manifest), force=True)
        return False
    return True


def _wait_until_served(api: KubeApi, path: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        conditions = api.get(path).get("status", {}).get("conditions") or ()
        if any(c["type"] == "Established" and c["status"] == "True" for c in conditions):
            return
        time.sleep(0.1)
    raise AssertionError(f"{path} is not established after 30 s")
