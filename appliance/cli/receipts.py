"""receipts, time: what this node signs of itself, and how it knows what time it is."""

from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli.common import DEFAULT_STATE, AsJson, StateDir, local_api, show, table

Medium = Annotated[Path, typer.Argument(help="The stick's folder, such as /media/stick.")]


def register(app: typer.Typer, name: str, help_text: str) -> None:
    """Add one of this module's groups."""
    group = typer.Typer(no_args_is_help=name == "receipts", rich_markup_mode=None)
    if name == "receipts":
        group.command("list", help="List the receipts of this node.")(list_)
        group.command("show", help="Show one receipt whole, as it was signed.")(one)
        group.command("export", help="Write the receipts to a stick for the hub.")(export)
    else:
        group.callback(invoke_without_command=True)(time)
        group.command("show", help="Say what time it is here, and whether that is proven.")(now)
        group.command("take", help="Take the time that the hub signed, from a stick.")(take)
    app.add_typer(group, name=name, help=help_text)


def list_(state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False) -> None:
    with local_api(state_dir) as node:
        found = node.call("GET", "/v1/receipts")
    rows = [
        [str(r["seq"]), r["kind"], about(r), r["issued"], r["hash"][:8]] for r in found["receipts"]
    ]
    empty = "no receipt was made yet; imports, refusals and activations make them"
    show(
        found,
        table(["NUMBER", "KIND", "ABOUT", "ISSUED", "HASH"], rows) if rows else empty,
        as_json=as_json,
    )


def one(
    number: Annotated[int, typer.Argument(min=1, help="The receipt's number.")],
    state_dir: StateDir = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    with local_api(state_dir) as node:
        found = node.call("GET", f"/v1/receipts/{number}")
    show(found, _whole(number, found), as_json=as_json)


def export(medium: Medium, state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False) -> None:
    with local_api(state_dir) as node:
        found = node.call("POST", "/v1/receipts/export", {"path": str(medium.absolute())})
    text = (
        f"{medium} holds the receipts of {found['node']} up to {found['upto']}, "
        f"{found['written']} written now\n"
        f"  for the shift book: receipt {found['upto']}, {found['head'][:8]}\n"
        f"  next: at the hub, appliance hub receipts import {medium}\n"
        f"  then, back here, appliance time take {medium}"
    )
    show(found, text, as_json=as_json)


def time(
    context: typer.Context, state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False
) -> None:
    if context.invoked_subcommand is None:
        now(state_dir, as_json)


def now(state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False) -> None:
    with local_api(state_dir) as node:
        found = node.call("GET", "/v1/time")
    show(found, "\n".join(_time(found)), as_json=as_json)


def take(medium: Medium, state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False) -> None:
    with local_api(state_dir) as node:
        found = node.call("POST", "/v1/time", {"path": str(medium.absolute())})
    text = [f"the hub signed {found['taken']['time']}", *_time(found["time"])]
    show(found, "\n".join(text), as_json=as_json)


def about(found: dict[str, Any]) -> str:
    """Return in words what a receipt is about."""
    bundle, outcome, active = found["bundle"], found["outcome"], found["activated"]
    named = f"{bundle['name']} {bundle['version']}" if bundle else ""
    if outcome:
        return f"{named or 'a bundle'}: {outcome['code']}, {outcome['why']}"
    if active:
        return f"{active['deployment']} serves {active['model']}"
    return named or "how things are"


def brief(found: dict[str, Any]) -> str:
    """Return in a few words whether the time is proven."""
    return "proven" if found["proven"] else f"unproven since {found['why']}"


def _time(found: dict[str, Any]) -> list[str]:
    lines = [f"now: {found['now']} ({'proven' if found['proven'] else 'unproven'})"]
    lines.append(f"  because {found['why']}")
    if found["asked"]:
        lines.append("  a signed time was asked for and has not come yet")
    return [*lines, *([f"  try: {found['todo']}"] if found["todo"] else [])]


def _whole(number: int, found: dict[str, Any]) -> str:
    said = found["payload"]
    roles = ", ".join(f"{role} {m['version']}" for role, m in said["metadata"].items())
    lines = [
        f"receipt {number}, {said['kind']}: {about(said)}",
        f"  issued {said['issued']} ({'proven' if said['proven'] else 'unproven'})",
        f"  of {said['node']}, ledger {said['dbEpoch']}",
        f"  hash {found['hash']}",
        f"  after {said['previous'] or 'none: it is the first'}",
        f"  metadata: {roles}",
        f"  audit: {said['audit']['seq']} records, {said['audit']['hash'][:8]}",
        f"  floor: {said['floor'] or 'none'}; nonce: {said['nonce'] or 'none'}",
        f"  store: {len(said['store'])} blobs",
    ]
    if said["omitted"]:
        lines.append(f"  {said['omitted']} refusals before it got no receipt of their own")
    return "\n".join(lines)
