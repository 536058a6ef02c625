"""hold, pin: the site's word over the fleet's, with a reason and an end."""

from typing import Annotated, Any

import typer

from appliance.cli.common import (
    DEFAULT_STATE,
    AsJson,
    Deployment,
    StateDir,
    controller,
    show,
)

Reason = Annotated[str, typer.Option("--reason", help="Why; the hub shows it as drift.")]
Until = Annotated[
    str | None,
    typer.Option(
        "--until",
        help="When it ends by itself: 2026-12-24T18:00:00Z, or a duration such as 8h or 14d.",
    ),
]


def register(app: typer.Typer, name: str, help_text: str) -> None:
    """Add one of this module's commands."""
    commands: dict[str, Any] = {"hold": hold, "pin": pin}
    app.command(name, help=help_text)(commands[name])


def hold(
    name: Deployment,
    reason: Reason,
    until: Until = None,
    state_dir: StateDir = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    body = {"reason": reason, "until": until}
    answer = controller(state_dir).call("POST", f"/v1/deployments/{name}/hold", body)
    show(answer, f"{name}: {answer['result']}", as_json=as_json)


def pin(  # noqa: PLR0913, PLR0917 - an argument an option
    name: Deployment,
    reason: Reason,
    model: Annotated[
        str | None,
        typer.Option(help="NAME@VERSION or NAME@sha256:…; without it, what serves now."),
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Also to a model that is not here: nothing serves.")
    ] = False,
    until: Until = None,
    state_dir: StateDir = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    body: dict[str, Any] = {"reason": reason, "until": until, "model": model}
    body |= {"anyway": True} if anyway else {}
    answer = controller(state_dir).call("POST", f"/v1/deployments/{name}/pin", body)
    show(answer, f"{name}: {answer['result']}", as_json=as_json)
