"""sync: what MQTT would carry, on a stick."""

from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli.common import DEFAULT_STATE, AsJson, StateDir, local_api, show

Medium = Annotated[Path, typer.Argument(help="The stick's folder, such as /media/stick.")]


def register(app: typer.Typer, name: str, help_text: str) -> None:
    """Add the group."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    group.command("export", help="Write all that the hub has not acknowledged to a stick.")(export)
    group.command("import", help="Take in what a stick brings from the hub.")(take)
    app.add_typer(group, name=name, help=help_text)


def export(medium: Medium, state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False) -> None:
    with local_api(state_dir) as node:
        found = node.call("POST", "/v1/sync/export", {"path": str(medium.absolute())})
    show(found, "\n".join(_exported(medium, found)), as_json=as_json)


def take(medium: Medium, state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False) -> None:
    with local_api(state_dir) as node:
        found = node.call("POST", "/v1/sync/import", {"path": str(medium.absolute())})
    show(found, "\n".join(map(_taken, found["taken"])), as_json=as_json)
    if refused := [t["error"] for t in found["taken"] if t["result"] == "refused"]:
        raise typer.Exit(refused[0]["exit"])


def _exported(medium: Path, found: dict[str, Any]) -> list[str]:
    lines = [f"{medium} holds what {found['node']} has for its hub, {found['written']} files new"]
    lines += [f"  {stream}: {count} records" for stream, count in found["streams"].items()]
    lines += [f"  {name}" for name in found["letters"]]
    lines.append(f"  for the shift book: receipt {found['upto']}, {found['head'][:8]}")
    if found["why_not"]:
        lines.append(f"  nothing else: {found['why_not']}")
    lines += [
        f"  next: at the hub, appliance hub sync import {medium}",
        f"  then, back here, appliance sync import {medium}",
    ]
    return lines


def _taken(found: dict[str, Any]) -> str:
    error = found["error"]
    if found["result"] == "taken":
        return f"{found['file']}: taken"
    if found["result"] == "old":
        return f"{found['file']}: nothing new" + (f" ({error['what']})" if error else "")
    hint = f"\n  try: {error['hint']}" if error["hint"] else ""
    return f"{found['file']}: REFUSED ({error['code']}), {error['what']}{hint}"
