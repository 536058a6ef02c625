"""From YAML or JSON to documents, with errors that name file, line, field and what is allowed."""

from typing import Any, TypeVar

from pydantic import ValidationError

from appliance.core import yamldoc
from appliance.core.catalogue import Model
from appliance.core.definitions import BundleDefinition, BundleLock
from appliance.core.documents import Document, ModelDeployment, Site
from appliance.errors import BadDocumentError

KINDS: dict[str, type[Document]] = {
    kind.kind_name: kind for kind in (ModelDeployment, Model, Site, BundleDefinition, BundleLock)
}
AnyDocument = TypeVar("AnyDocument", bound=Document)


def json_schema(kind: str) -> dict[str, Any]:
    """Return the JSON schema (2020-12) of one kind."""
    schema = KINDS[kind].model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def parse_yaml(text: str, filename: str) -> list[Document]:
    """Return the documents in a YAML stream.

    Raises:
        BadDocumentError: names file, line, field and what is allowed, for every finding at once.
    """
    return [_parse(found, filename) for found in yamldoc.parse(text, filename)]


def parse_one(text: str, filename: str, kind: type[AnyDocument]) -> AnyDocument:
    """Return the only document in ``text``, which must be of this kind.

    Raises:
        BadDocumentError: as ``parse_yaml``, or it is another kind, or not exactly one.
    """
    found = parse_yaml(text, filename)
    if len(found) != 1 or not isinstance(found[0], kind):
        kinds = ", ".join(document.kind for document in found) or "nothing"
        raise BadDocumentError(f"{filename}: holds {kinds}, not one {kind.kind_name}")
    return found[0]


def from_wire(data: object, where: str) -> Document:
    """Return the document in plain JSON data; ``where`` names its origin in errors.

    Raises:
        BadDocumentError: as ``parse_yaml``, without lines.
    """
    return _parse(yamldoc.YamlDocument(data), where)


def _parse(found: yamldoc.YamlDocument, filename: str) -> Document:
    data = found.data
    if not isinstance(data, dict):
        raise BadDocumentError(f"{filename}:{found.line(())}: a document is a mapping of fields")
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise BadDocumentError(
            f"{filename}:{found.line(('kind',))}: kind: {kind!r} is not known; "
            f"allowed: {', '.join(KINDS)}"
        )
    try:
        return KINDS[kind].model_validate(data)
    except ValidationError as error:
        schema = KINDS[kind].model_json_schema(by_alias=True)
        errors = sorted(error.errors(), key=lambda e: found.line(tuple(e["loc"])))
        findings = [_finding(e, found, schema, filename) for e in errors]
        raise BadDocumentError(
            "\n  ".join(findings), hint=f"appliance schema {kind} shows every field"
        ) from error


def _finding(error: Any, found: yamldoc.YamlDocument, schema: dict[str, Any], filename: str) -> str:
    path: yamldoc.Path = tuple(error["loc"])
    where = f"{filename}:{found.line(path)}" if found.lines else filename
    name = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")
    prefix = f"{where}: {name}" if name else where
    if error["type"] == "extra_forbidden":
        return f"{prefix}: unknown field; allowed here: {_fields(schema, path[:-1])}"
    if error["type"] == "missing":
        return f"{prefix}: is required: {allowed(_at(schema, path))}"
    if error["type"] == "value_error":
        return f"{prefix}: {error['ctx']['error']}"
    return f"{prefix}: {error['input']!r} is not allowed; allowed: {allowed(_at(schema, path))}"


def resolve(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference, and take the one branch of an optional field that is not null."""
    while True:
        if "$ref" in node:
            target = schema["$defs"][node["$ref"].removeprefix("#/$defs/")]
            node = {**target, **{k: v for k, v in node.items() if k != "$ref"}}
        elif "anyOf" in node:
            branch: dict[str, Any] = next((b for b in node["anyOf"] if b.get("type") != "null"), {})
            node = {**branch, **{k: v for k, v in node.items() if k != "anyOf"}}
        else:
            return node


def _at(schema: dict[str, Any], path: yamldoc.Path) -> dict[str, Any]:
    node = resolve(schema, schema)
    for part in path:
        below = node.get("items", {}) if isinstance(part, int) else None
        if below is None:
            below = node.get("properties", {}).get(part) or node.get("additionalProperties") or {}
        node = resolve(schema, below)
    return node


def _fields(schema: dict[str, Any], path: yamldoc.Path) -> str:
    return ", ".join(_at(schema, path).get("properties", {})) or "none"


def allowed(node: dict[str, Any]) -> str:
    """Return in words what a field takes, from its JSON schema."""
    if "const" in node:
        return str(node["const"])
    if "enum" in node:
        return ", ".join(str(value) for value in node["enum"])
    if node.get("type") in ("integer", "number"):
        word = "a whole number" if node["type"] == "integer" else "a number"
        low, high = node.get("minimum"), node.get("maximum")
        span = (f" from {low}" if low is not None else "") + (
            f" to {high}" if high is not None else ""
        )
        return word + span
    if "properties" in node:
        return f"a mapping of {', '.join(node['properties'])}"
    words = {"string": "text", "object": "a mapping", "array": "a list", "boolean": "true or false"}
    plain = words.get(str(node.get("type")), "see the schema")
    return f"{plain} ({node['description']})" if "description" in node else plain
