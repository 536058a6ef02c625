"""The definitions are what a current server takes, and an old one too."""

import json
import math
import re
from typing import Any

import kubernetes.client
import kubernetes_validate
import pytest
import yaml

from appliance.core import documents, reading
from appliance.core.rules import KEYWORD
from appliance.core.statuses import STATUSES
from appliance.kube.objects import crd
from appliance.kube.resources import MODEL_DEPLOYMENTS, Resource
from tests.helpers.definitions import MANIFESTS, Json, nodes, refusals, schema_of

STRUCTURAL = {
    "description", "type", "format", "default", "enum", "pattern", "minLength", "maxLength",
    "minimum", "maximum", "minItems", "maxItems", "maxProperties", "required", "properties",
    "items", "additionalProperties", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
    KEYWORD,
}  # fmt: skip
BUDGET_OF_A_RULE = 10_000_000
"""Kubernetes' StaticEstimatedCostLimit."""

each_kind = pytest.mark.parametrize("resource", crd.RESOURCES, ids=lambda r: r.kind)


@each_kind
def test_the_manifest_is_written_from_the_code(resource: Resource) -> None:
    text = (MANIFESTS / f"{resource.plural}.yaml").read_text()
    assert text == crd.files()[f"{resource.plural}.yaml"], "make docs writes it"
    assert text.startswith("# Written by `make docs`")


@each_kind
def test_it_is_valid_by_the_current_schema(resource: Resource) -> None:
    kubernetes_validate.validate(crd.definition(resource), "1.37", strict=True)


@each_kind
def test_the_current_models_know_every_field_of_it(resource: Resource) -> None:
    definition = crd.definition(resource)
    with kubernetes.client.ApiClient() as client:
        text = json.dumps(definition)
        read = client.deserialize(text, "V1CustomResourceDefinition", "application/json")
        assert client.sanitize_for_serialization(read) == definition


@each_kind
def test_its_schema_is_structural(resource: Resource) -> None:
    for path, node in nodes(schema_of(resource.kind)):
        assert node.keys() <= STRUCTURAL, path
        assert isinstance(node.get("type"), str), path
        assert ("properties" in node) + ("additionalProperties" in node) == (
            node["type"] == "object"
        ), path
        assert ("items" in node) == (node["type"] == "array"), path
        assert set(node.get("required", ())) <= node.get("properties", {}).keys(), path
        if "default" in node:
            assert refusals(node, node["default"]) == [], path
        if keys := node.get("x-kubernetes-list-map-keys"):
            assert set(keys) <= set(node["items"]["required"]), path
    metadata = schema_of(resource.kind)["properties"]["metadata"]
    assert metadata.keys() == {"type", "properties"}
    assert metadata["properties"].keys() == {"name"}


@each_kind
def test_everything_in_it_is_bounded_and_described(resource: Resource) -> None:
    bounds = {"array": "maxItems", "string": "maxLength"}
    for path, node in nodes(schema_of(resource.kind)):
        if path in ("", ".apiVersion", ".kind", ".metadata"):
            continue
        if "enum" not in node and node["type"] in bounds:
            assert bounds[node["type"]] in node, path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path
        if not path.endswith(("[]", "{}")):
            words = node["description"]
            assert words[0].isupper() or words.split()[0] in _values(node, path), path
            assert words.endswith("."), path


def _values(node: Json, path: str) -> set[str]:
    """Words that a description may begin with in lower case: values, and versions' numbers."""
    return {*node.get("enum", ()), "95", "99"} if path else set()


def test_the_columns_are_what_people_look_for() -> None:
    columns = crd.definition(MODEL_DEPLOYMENTS)["spec"]["versions"][0]["additionalPrinterColumns"]
    shown = [c["name"].upper() for c in columns if not c.get("priority")]
    assert shown == ["MODEL", "VARIANT", "READY", "REPLICAS", "TOKENS/S", "AGE"]
    assert [c["name"].upper() for c in columns if c.get("priority")] == ["OWNER", "NODES", "REASON"]


@each_kind
def test_columns_and_scale_point_at_fields_that_there_are(resource: Resource) -> None:
    (version,) = crd.definition(resource)["spec"]["versions"]
    known = {path for path, _ in nodes(schema_of(resource.kind))}
    paths = [c["jsonPath"] for c in version["additionalPrinterColumns"]]
    paths += version["subresources"].get("scale", {}).values()
    for path in paths:
        if not path.startswith(".metadata"):
            assert re.sub(r"\[.*?\]", "[]", path) in known, path


@each_kind
def test_rules_point_at_fields_that_there_are(resource: Resource) -> None:
    known = {path for path, _ in nodes(schema_of(resource.kind))}
    for path, node in nodes(schema_of(resource.kind)):
        for rule in node.get(KEYWORD, ()):
            assert rule.keys() <= {"rule", "message", "reason", "fieldPath"}
            assert "allowed: " in rule["message"]
            assert "oldSelf" not in rule["rule"], "the tests' evaluator has none"
            assert path + rule.get("fieldPath", "") in known


@each_kind
def test_no_rule_can_cost_a_server_much(resource: Resource) -> None:
    """Far above what a server would count: every character of a rule sees the longest text."""
    for path, node in nodes(schema_of(resource.kind)):
        longest = max((n.get("maxLength", 0) for _, n in nodes(node)), default=0)
        times = _most_of(schema_of(resource.kind), path)
        for rule in node.get(KEYWORD, ()):
            assert len(rule["rule"]) * (1 + longest) * times < BUDGET_OF_A_RULE / 10, path


def _most_of(schema: Json, path: str) -> float:
    """Return how many values at a path one object can have."""
    found = 1.0
    for above, node in nodes(schema):
        for mark, bound in (("[]", "maxItems"), ("{}", "maxProperties")):
            if path.startswith(f"{above}{mark}"):
                found *= node.get(bound, math.inf)
    return found


@each_kind
def test_an_old_server_is_given_no_rules(resource: Resource) -> None:
    old = crd.for_old_servers(crd.definition(resource))
    assert KEYWORD not in yaml.safe_dump(old)


def test_a_keyword_that_a_server_would_drop_is_an_error() -> None:
    with pytest.raises(ValueError, match="no structural schema can say exclusiveMinimum"):
        crd._structural({}, {"type": "integer", "exclusiveMinimum": 0})


def test_every_rule_is_written_twice() -> None:
    """A rule in CEL alone would be enforced nowhere but on current servers."""
    rules = [rule for part in _parts(documents.Part) for rule in part.RULES]
    assert len(rules) >= 4
    assert all(rule.cel and callable(rule.holds) for rule in rules)


def _parts(part: type[documents.Part]) -> list[type[documents.Part]]:
    return [part, *(found for below in part.__subclasses__() for found in _parts(below))]


@pytest.mark.parametrize("kind", STATUSES)
def test_a_status_that_says_everything_is_taken(kind: str) -> None:
    status = STATUSES_SEEN[kind]
    assert refusals(schema_of(kind)["properties"]["status"], status) == []
    found = STATUSES[kind].model_validate(status)
    assert found.model_dump(mode="json", by_alias=True, exclude_unset=True) == status


def test_kinds_with_a_definition_are_those_with_a_status() -> None:
    assert {r.kind for r in crd.RESOURCES} == STATUSES.keys()
    assert STATUSES.keys() <= reading.KINDS.keys()


DIGEST = f"sha256:{'0' * 64}"
STATUSES_SEEN: dict[str, Any] = {
    "ModelDeployment": {
        "observedGeneration": 3, "replicas": 2, "readyReplicas": 1, "selector": "a=b,c=d",
        "variant": "Q4_0", "version": "1.0.0", "digest": DIGEST, "tokensPerSecond": 41.5,
        "owner": "fleet", "nodes": ["box-1"],
        "conditions": [
            {"type": "Ready", "status": "True", "observedGeneration": 3, "reason": "Serving",
             "lastTransitionTime": "2026-11-21T10:00:00Z", "message": "2 of 2 serve"},
        ],
    },
    "Model": {
        "nodes": [
            {"name": "box-1", "held": [DIGEST], "denied": [
                {"manifest": DIGEST, "reason": "Revoked", "message": "denied by name", "stop": True}
            ]},
        ],
    },
    "Site": {
        "nodes": [
            {"name": "box-1", "id": "n-1", "version": "0.4.0", "memoryBytes": 64 << 30,
             "gpus": [{"uuid": "GPU-1", "name": "H200", "memoryBytes": 1, "fenced": "XID 79"}],
             "diskPressure": False},
        ],
    },
}  # fmt: skip
