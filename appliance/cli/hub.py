"""hub: make it, run it, admit nodes, ask them for deployments."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance import settings as settings_module
from appliance.cli import commands, hub_identity, hub_sync
from appliance.cli.common import (
    DEFAULT_HUB_STATE,
    AsJson,
    Deployment,
    HubStateDir,
    SettingsFile,
    checked,
    settings_path,
    show,
    table,
)
from appliance.cli.deployments import read_text
from appliance.core import ids, wire
from appliance.core.reading import parse_yaml
from appliance.errors import NotFoundError, UsageError
from appliance.hub import identity
from appliance.kit import logs
from appliance.kit.http import HttpClient
from appliance.trust.repository import org_name

Url = Annotated[
    str | None,
    typer.Option("--url", envvar="APPLIANCE_HUB_URL", help="The hub; else as in its settings."),
]
Node = Annotated[str, typer.Option("--node", help="The node's id.", callback=checked(ids.node_id))]


def register(app: typer.Typer, name: str, help_text: str) -> None:
    """Add the group."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    group.command("init", help="Make a hub: its online keys and its API token.")(init)
    group.command("raise-epoch", help="Direct again, after another hub did.")(raise_epoch)
    group.command("keys", help="Print the public keys that the offline keys sign.")(keys)
    group.command("run", help="Run the hub until it is told to end.")(run)
    group.command("admit", help="Know a node by its key from now on.")(admit)
    group.command("nodes", help="List the nodes and how they are.")(nodes)
    group.command("apply", help="Ask a node for the deployments in a YAML file.")(apply)
    group.command("delete", help="Ask a node no more for a deployment.")(delete)
    commands.register(group, _hub)
    hub_sync.register(group, _hub)
    receipts = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    receipts.command("import", help="Take receipts in from a stick, and answer them.")(receive)
    receipts.command("list", help="List what nodes have signed of themselves.")(list_receipts)
    group.add_typer(receipts, name="receipts", help="What nodes signed of themselves.")
    hub_identity.register(group, _hub)
    app.add_typer(group, name=name, help=help_text)


def init(
    org: Annotated[str, typer.Option(help="The organisation's name.")],
    director_epoch: Annotated[
        int, typer.Option(min=1, help="Above 1 when it replaces another director.")
    ] = 1,
    state_dir: HubStateDir = DEFAULT_HUB_STATE,
    as_json: AsJson = False,
) -> None:
    found = identity.create(state_dir, org_name(org), director_epoch)
    text = f"the hub of {org} is in {state_dir}\n  next: appliance hub keys --json > hub.json"
    show(found.public(), text, as_json=as_json)


def keys(state_dir: HubStateDir = DEFAULT_HUB_STATE, as_json: AsJson = False) -> None:
    found = identity.load(state_dir).public()
    show(found, "\n".join(f"{k}: {v}" for k, v in found.items()), as_json=as_json)


def raise_epoch(
    epoch: Annotated[int, typer.Argument(min=1, help="Above that of the hub that directs now.")],
    state_dir: HubStateDir = DEFAULT_HUB_STATE,
    as_json: AsJson = False,
) -> None:
    found = identity.raise_epoch(state_dir, epoch)
    text = (
        f"director epoch {epoch}, from the next start of the hub\n"
        "  next: appliance hub keys --json > hub.json, and keys name-director"
    )
    show(found.public(), text, as_json=as_json)


def run(state_dir: HubStateDir = DEFAULT_HUB_STATE, settings: SettingsFile = None) -> None:
    try:
        from appliance.wiring.hub import run_hub  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        hint = "pip install 'edge-ai-appliance[hub]'"
        raise UsageError(f"the hub needs {error.name}", hint=hint) from error
    found = settings_module.load(settings_path(settings, state_dir))
    logs.configure()
    asyncio.run(run_hub(state_dir, found.hub))


def admit(
    key: Annotated[Path, typer.Option(help="The node's identity/node.json.")],
    url: Url = None,
    state_dir: HubStateDir = DEFAULT_HUB_STATE,
    as_json: AsJson = False,
) -> None:
    try:
        found = wire.loads(key.read_bytes(), what=str(key))
    except OSError as error:
        raise NotFoundError(f"cannot read {key}: {error.strerror}") from error
    node = checked(ids.node_id)(str(found.get("node")))
    answer = _hub(state_dir, url).call("PUT", _path(node), {"key": found.get("key")})
    show(answer, f"{answer['node']}: {answer['result']}", as_json=as_json)


def nodes(
    url: Url = None, state_dir: HubStateDir = DEFAULT_HUB_STATE, as_json: AsJson = False
) -> None:
    found = _hub(state_dir, url).call("GET", "/api/v1/nodes")
    rows = [[n["node"], n["state"], n["why"], _drift(n)] for n in found["nodes"]]
    empty = "no node was admitted yet"
    head = ["NODE", "STATE", "WHY", "DRIFT"]
    show(found, table(head, rows) if rows else empty, as_json=as_json)


def apply(
    node: Node,
    file: Annotated[
        str, typer.Option("--file", "-f", help="A YAML file, or - for standard input.")
    ],
    url: Url = None,
    state_dir: HubStateDir = DEFAULT_HUB_STATE,
    as_json: AsJson = False,
) -> None:
    documents = [d.to_wire() for d in parse_yaml(read_text(file), file)]
    hub = _hub(state_dir, url)
    answer = hub.call("POST", f"{_path(node)}/documents", {"documents": documents})
    show(answer, f"{node}: generation {answer['generation']}", as_json=as_json)


def delete(
    name: Deployment,
    node: Node,
    url: Url = None,
    state_dir: HubStateDir = DEFAULT_HUB_STATE,
    as_json: AsJson = False,
) -> None:
    path = f"{_path(node)}/documents/ModelDeployment/{name}"
    answer = _hub(state_dir, url).call("DELETE", path)
    show(answer, f"{node}: generation {answer['generation']}", as_json=as_json)


def receive(
    medium: Annotated[Path, typer.Argument(help="The stick's folder, such as /media/stick.")],
    url: Url = None,
    state_dir: HubStateDir = DEFAULT_HUB_STATE,
    as_json: AsJson = False,
) -> None:
    from appliance.hub.carrier import import_folder  # noqa: PLC0415 - other commands do without

    hub = _hub(state_dir, url)
    found = import_folder(
        medium, lambda node, e: hub.call("POST", f"{_path(node)}/receipts", {"receipts": e})
    )
    text = "\n".join(_delivered(delivery) for delivery in map(asdict, found))
    show({"nodes": [asdict(d) for d in found]}, text, as_json=as_json)
    unwritten = [d.unwritten for d in found if d.unwritten is not None]
    if failed := [*(r for d in found for r in d.refused), *unwritten]:
        raise typer.Exit(failed[0]["exit"])


def list_receipts(
    node: Annotated[
        str | None,
        typer.Option("--node", help="One node's receipts, one by one."),
    ] = None,
    url: Url = None,
    state_dir: HubStateDir = DEFAULT_HUB_STATE,
    as_json: AsJson = False,
) -> None:
    path = "/api/v1/receipts" if node is None else f"{_path(checked(ids.node_id)(node))}/receipts"
    found = _hub(state_dir, url).call("GET", path)
    rows = [[c["node"], c["epoch"], str(c["upto"]), c["head"][:8], _judged(c)]
            for c in found["chains"]]  # fmt: skip
    lines = [table(["NODE", "LEDGER", "UP TO", "HEAD", "CHAIN"], rows) if rows else "no receipts"]
    if node is not None:
        each = [[str(r["seq"]), r["kind"], r["issued"], r["hash"][:8], r["at"]]
                for r in found["receipts"]]  # fmt: skip
        lines += ["", table(["NUMBER", "KIND", "ISSUED", "HASH", "CAME"], each)]
    show(found, "\n".join(lines), as_json=as_json)


def _hub(state: Path, url: str | None) -> HttpClient:
    token = identity.load(state).token
    if url is None:
        found = settings_module.load(settings_path(None, state)).hub
        host = f"[{found.host}]" if ":" in found.host else found.host
        url = f"http://{host}:{found.port}"
    return HttpClient.over_tcp(url, "the hub", "start it with: appliance hub run", token)


def _path(node: str) -> str:
    return f"/api/v1/nodes/{node}"


def _drift(node: dict[str, Any]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in node["drift"].items()) or "none"


def _judged(chain: dict[str, Any]) -> str:
    found = [
        f"{a} to {b} have not come" if a != b else f"{a} has not come" for a, b in chain["gaps"]
    ]
    if chain["forks"]:
        numbers = ", ".join(map(str, chain["forks"]))
        found.append(f"TWO HISTORIES at {numbers}: cloned or put back")
    return "; ".join(found) or "whole"


def _delivered(found: dict[str, Any]) -> str:
    lines = [f"{found['node']}: {found['new']} new receipts, {found['known']} known"]
    lines += [f"  ledger {c['epoch']}, up to {c['upto']}, {c['head'][:8]}: {_judged(c)}"
              for c in found["chains"]]  # fmt: skip
    lines += [f"  REFUSED ({r['code']}): {r['what']}" for r in found["refused"]]
    if (error := found["unwritten"]) is not None:
        lines.append(f"  NOT WRITTEN, the time it asked for ({error['code']}): {error['what']}")
        lines.append(f"    try: {error['hint']}")
    if found["answered"]:
        lines.append("  it asked for the time: the answer lies on the stick")
        lines.append("  next: at the node, appliance time take FOLDER")
    return "\n".join(lines)
