"""Our admission policies, judged as an API server would: rules in CEL over an object."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import cel
import yaml

Json = dict[str, Any]
POLICIES = Path(__file__).resolve().parents[2] / "manifests" / "base" / "policies"


@cache
def policies() -> dict[str, Json]:
    """Return our policies by name."""
    found: dict[str, Json] = {}
    for path in sorted(POLICIES.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document["kind"] == "ValidatingAdmissionPolicy":
                found[document["metadata"]["name"]] = document
    return found


def rules() -> list[str]:
    """Return the names of all rules: what their messages begin with."""
    return [_name(v) for p in policies().values() for v in p["spec"]["validations"]]


def broken(body: Json, params: Json | None, *, old: Json | None = None) -> list[str]:
    """Return the names of the rules that a body breaks, those of all policies.

    Like the server: an expression that fails is a refusal (``failurePolicy: Fail``), and so is a
    list that is not there (``parameterNotFoundAction: Deny``).
    """
    found = []
    for policy in policies().values():
        if "paramKind" in policy["spec"] and params is None:
            found.append("no-list")
            continue
        context = _context(policy, body, params, old)
        every = policy["spec"]["validations"]
        found += [_name(r) for r in every if not _holds(r["expression"], context)]
    return found


def _context(policy: Json, body: Json, params: Json | None, old: Json | None) -> Json:
    variables: Json = {}
    context: Json = {
        "object": body,
        "oldObject": old,
        "params": params,
        "request": {"operation": "CREATE" if old is None else "UPDATE"},
        "variables": variables,
    }
    for variable in policy["spec"].get("variables", ()):
        variables[variable["name"]] = _evaluate(variable["expression"], context)
    return context


def _holds(expression: str, context: Mapping[str, Any]) -> bool:
    try:
        return _evaluate(expression, context) is True
    except (ValueError, TypeError, RuntimeError):
        return False


def _evaluate(expression: str, context: Mapping[str, Any]) -> Any:
    return _compiled(expression).execute(dict(context))


@cache
def _compiled(expression: str) -> Any:
    # ``dyn`` only quietens the server's checker of types.
    return cel.compile(expression.replace("dyn(", "("))


def _name(rule: Json) -> str:
    return str(rule["message"]).partition(":")[0]
