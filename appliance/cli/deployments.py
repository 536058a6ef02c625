"""apply, get, delete, release, logs: what is in force on this node."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli.common import (
    DEFAULT_STATE,
    AsJson,
    Deployment,
    StateDir,
    controller,
    show,
    table,
)
from appliance.core.reading import parse_yaml
from appliance.errors import BadDocumentError, NotFoundError, UsageError


def register(app: typer.Typer, name: str, help_text: str) -> None:
    """Add one of this module's commands."""
    commands: dict[str, Any] = {
        "apply": apply, "get": get, "delete": delete, "release": release, "logs": logs,
    }  # fmt: skip
    app.command(name, help=help_text)(commands[name])


def apply(
    file: Annotated[
        str, typer.Option("--file", "-f", help="A YAML file, or - for standard input.")
    ],
    reason: Annotated[
        str | None, typer.Option(help="Why this site departs from the fleet; the hub is told.")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(help="When the fleet's word holds again: a time, or a duration such as 8h."),
    ] = None,
    state_dir: StateDir = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    documents = [d.to_wire() for d in parse_yaml(read_text(file), file)]
    if not documents:
        raise UsageError(f"{file} holds no document", hint="examples/ has some to begin with")
    body = {"documents": documents, "reason": reason, "until": until}
    answer = controller(state_dir).call("POST", "/v1/apply", body)
    lines = [f"{what} {change}" for what, change in answer["applied"].items()]
    lines += [f"{what} waits: {why}" for what, why in answer.get("waits", {}).items()]
    show(answer, "\n".join(lines), as_json=as_json)


def get(
    name: Annotated[str | None, typer.Argument(help="One deployment; all without it.")] = None,
    state_dir: StateDir = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    found = controller(state_dir).call("GET", "/v1/deployments")["deployments"]
    if name is None:
        show({"deployments": found}, _list(found), as_json=as_json)
        return
    one = next((d for d in found if d["name"] == name), None)
    if one is None:
        raise NotFoundError(f"no deployment {name!r} is in force", hint="appliance get lists them")
    show(one, describe(one), as_json=as_json)


def delete(name: Deployment, state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False) -> None:
    answer = controller(state_dir).call("DELETE", f"/v1/deployments/{name}")
    show(answer, f"{name}: {answer['result']}", as_json=as_json)


def release(name: Deployment, state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False) -> None:
    answer = controller(state_dir).call("POST", f"/v1/deployments/{name}/release")
    show(answer, f"{name}: {answer['result']}", as_json=as_json)


def logs(
    name: Deployment,
    lines: Annotated[int, typer.Option(min=1, max=10_000, help="How many lines of each.")] = 100,
    state_dir: StateDir = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    found = controller(state_dir).call("GET", f"/v1/deployments/{name}/logs?lines={lines}")
    text = "\n".join(f"{engine}: {line}" for engine, log in found.items() for line in log)
    show(found, text or "nothing was logged; engines log errors only", as_json=as_json)


def read_text(file: str) -> str:
    """Return a file's text; ``-`` is standard input."""
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text()
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise NotFoundError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadDocumentError(f"{file} is not text: {error.reason}") from error


def _list(found: list[dict[str, Any]]) -> str:
    if not found:
        return "no deployment is in force; appliance apply -f FILE puts one in force"
    rows = [
        [
            d["name"],
            d["model"],
            d["variant"] or "-",
            _condition(d, "Ready"),
            f"{d['ready']}/{d['replicas']}",
            d["origin"] + (" (drift)" if d["drift"] else ""),
        ]
        for d in found
    ]
    return table(["NAME", "MODEL", "VARIANT", "READY", "REPLICAS", "OWNER"], rows)


def describe(one: dict[str, Any]) -> str:
    """Return one deployment for a person."""
    lines = [
        f"{one['name']}: {one['model']}, {one['ready']} of {one['replicas']} replicas serve",
        f"  owner: {one['origin']}" + (f"; drift: {one['drift']}" if one["drift"] else ""),
    ]
    lines += [
        f"  {c['type']}={c['status']} ({c['reason']}): {c['message']}" for c in one["conditions"]
    ]
    return "\n".join(lines)


def _condition(deployment: dict[str, Any], kind: str) -> str:
    found = next((c for c in deployment["conditions"] if c["type"] == kind), None)
    return "Unknown" if found is None else str(found["status"])
