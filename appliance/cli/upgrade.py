"""upgrade status, stage, switch, back: another controller on this node."""

from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli.common import DEFAULT_STATE, AsJson, StateDir, local_api, show, table
from appliance.cli.progress import ProgressLine
from appliance.errors import ApplianceError
from appliance.software.shelf import Shelf

Version = Annotated[str, typer.Argument(help="A controller's version, or its whole signed path.")]
MayRestart = Annotated[
    bool,
    typer.Option(
        "--engines-may-restart", help="Accept that it starts engines anew; they must serve after."
    ),
]
_AT_MOST_S = 1800.0


def register(app: typer.Typer, name: str, help_text: str) -> None:
    """Add the group."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    group.command("status", help="Say which controller runs, ran before, and may be had.")(status)
    group.command("stage", help="Make ready a controller that a bundle brought.")(stage)
    group.command("switch", help="Run a staged controller; the old one returns if it fails.")(
        switch
    )
    group.command("back", help="Run the controller that ran before this one.")(back)
    app.add_typer(group, name=name, help=help_text)


def status(state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False) -> None:
    with local_api(state_dir) as node:
        found = node.call("GET", "/v1/software")
    show(found, _text(found), as_json=as_json)


def stage(version: Version, state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False) -> None:
    with ProgressLine(quiet=as_json) as line, local_api(state_dir) as node:
        answers = node.objects("POST", "/v1/software/stage", {"version": version})
        found = line.follow(answers)["staged"]
    text = f"{found['version']} is staged; next: appliance upgrade switch {found['version']}"
    show(found, text, as_json=as_json)


def switch(
    version: Annotated[str, typer.Argument(help="A staged version, or: installed.")],
    may_restart: MayRestart = False,
    state_dir: StateDir = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    body = {"version": version, "restarts": may_restart}
    _switch(state_dir, "switch", body, as_json=as_json)


def back(
    may_restart: MayRestart = False, state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False
) -> None:
    _switch(state_dir, "back", {"restarts": may_restart}, as_json=as_json)


def _switch(state: Path, verb: str, body: dict[str, Any], *, as_json: bool) -> None:
    with local_api(state) as node:
        asked = node.call("POST", f"/v1/software/{verb}", body)
    found = Shelf(state).wait(asked["number"], _AT_MOST_S)
    if not found.ok:
        raise ApplianceError(
            f"{asked['wanted']} was tried and is not used: {found.why}",
            hint="what ran before runs again; see the log of the supervisor",
        )
    data = {"current": asked["wanted"], "number": found.number}
    show(data, f"{asked['wanted']} runs", as_json=as_json)


def _text(found: dict[str, Any]) -> str:
    lines = [f"runs: {found['current']}    before: {found['previous']}"]
    if found["next"]:
        lines.append(f"under way: {found['next']}")
    if last := found["last"]:
        lines.append(f"last switch: {last['wanted']}, {last['why'] or 'done'}")
    if not found["supervised"]:
        lines.append("no supervisor runs, so no version can be switched to")
    rows = [[s["version"], s["path"], s["refused"] or "may run"] for s in found["staged"]]
    staged = {s["path"] for s in found["staged"]}
    rows += [[p.rsplit("/", 1)[1], p, "listed"] for p in found["listed"] if p not in staged]
    return "\n".join([*lines, *([table(["VERSION", "SIGNED AS", ""], rows)] if rows else [])])
