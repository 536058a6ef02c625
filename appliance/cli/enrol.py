"""enrol: how this node gets its certificate for the broker."""

from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli.common import DEFAULT_STATE, AsJson, StateDir, local_api, show
from appliance.errors import UsageError

Medium = Annotated[Path, typer.Argument(help="The stick's folder, such as /media/stick.")]
Hub = Annotated[
    str | None, typer.Option("--hub", help="The hub: http://HOST:PORT or https://HOST:PORT.")
]
Ca = Annotated[str, typer.Option("--ca", help="The hash of the hub's authority; see `hub ca`.")]
Token = Annotated[
    str | None,
    typer.Option("--token", envvar="APPLIANCE_ENROL_TOKEN", help="What `hub token` printed."),
]


def register(app: typer.Typer, name: str, help_text: str) -> None:
    """Add the group."""
    group = typer.Typer(rich_markup_mode=None)
    group.callback(invoke_without_command=True)(enrol)
    group.command("show", help="Say how this node's certificate is.")(status)
    group.command("export", help="Write a request to a stick, and show its fingerprint.")(export)
    group.command("import", help="Take the certificate that a stick carries.")(take)
    app.add_typer(group, name=name, help=help_text)


def enrol(
    context: typer.Context,
    hub: Hub = None,
    token: Token = None,
    ca: Ca = "",
    state_dir: StateDir = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    if context.invoked_subcommand is not None:
        return
    if hub is None:
        if token is not None:
            raise UsageError("a token is for a hub: --hub http://HOST:PORT")
        status(state_dir, as_json)
        return
    with local_api(state_dir) as node:
        found = node.call(
            "POST", "/v1/certificate", {"hub": hub, "token": token or "", "authority": ca}
        )
    show(found, _taken(found), as_json=as_json)


def status(state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False) -> None:
    with local_api(state_dir) as node:
        found = node.call("GET", "/v1/certificate")
    show(found, "\n".join(_status(found)), as_json=as_json)


def export(medium: Medium, state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False) -> None:
    with local_api(state_dir) as node:
        found = node.call("POST", "/v1/certificate/export", {"path": str(medium.absolute())})
    text = (
        f"{medium} holds the request of {found['node']}\n"
        f"  fingerprint: {found['fingerprint']}\n"
        "  write it down or read it out: the hub shows the same, or somebody changed the stick\n"
        f"  next: at the hub, appliance hub enrol import {medium}"
    )
    show(found, text, as_json=as_json)


def take(
    medium: Medium,
    ca: Ca = "",
    state_dir: StateDir = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    body = {"path": str(medium.absolute()), "authority": ca}
    with local_api(state_dir) as node:
        found = node.call("POST", "/v1/certificate/import", body)
    show(found, _taken(found), as_json=as_json)


def _taken(found: dict[str, Any]) -> str:
    news = "this node's certificate" if found["news"] else "this node had it already: certificate"
    return f"{news} {found['serial']}, good until {found['expires']}"


def _status(found: dict[str, Any]) -> list[str]:
    certificate = found["certificate"]
    lines = [f"node {found['node']}", f"  fingerprint: {found['fingerprint']}"]
    if certificate is None:
        return [
            *lines,
            "  no certificate yet",
            "  next: appliance enrol --hub URL --token TOKEN, or appliance enrol export STICK",
        ]
    lines.append(f"  certificate {certificate['serial']}, until {certificate['expires']}")
    if certificate["ended"]:
        lines.append("  it has ended: the broker turns this node away until it is renewed")
    elif certificate["due"]:
        lines.append("  it is time to renew it; this is asked for by itself when there is a link")
    if certificate["due"]:
        lines.append("  by stick: appliance enrol export STICK")
    return lines
