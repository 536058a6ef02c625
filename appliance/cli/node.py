"""node init, run, supervise, stop: the controller of this node."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from appliance import settings as settings_module
from appliance.cli.common import (
    DEFAULT_STATE,
    AsJson,
    SettingsFile,
    StateDir,
    controller,
    settings_path,
    show,
)
from appliance.core.ids import node_id
from appliance.errors import NotFoundError, UsageError
from appliance.kit import logs
from appliance.node import identity


def register(app: typer.Typer, name: str, help_text: str) -> None:
    """Add the group."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    group.command("init", help="Make a node: its key, and the root it judges bundles by.")(init)
    group.command("run", help="Run the controller until it is told to end; engines go on.")(run)
    group.command("supervise", help="Keep the controller up, and let it be replaced.")(supervise)
    group.command("stop", help="End the controller; with --engines, all it runs too.")(stop)
    app.add_typer(group, name=name, help=help_text)


def init(
    root: Annotated[Path, typer.Option(help="The organisation's 1.root.json.")],
    name: Annotated[str, typer.Option(help="The node's fleet-unique id: a-z, 0-9 and -.")],
    state_dir: StateDir = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    try:
        found = identity.create(state_dir, node_id(name), root.read_bytes())
    except ValueError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise NotFoundError(f"cannot read the root {root}: {error.strerror}") from error
    text = f"node {found.node} is in {state_dir}\n  its public key: {found.key.public}"
    show(found.public(), text, as_json=as_json)


def run(state_dir: StateDir = DEFAULT_STATE, settings: SettingsFile = None) -> None:
    from appliance.wiring.node import run_node  # noqa: PLC0415 - what `init` does not need

    found = settings_module.load(settings_path(settings, state_dir))
    logs.configure()
    asyncio.run(run_node(state_dir, found))


def supervise(state_dir: StateDir = DEFAULT_STATE, settings: SettingsFile = None) -> None:
    from appliance.wiring.supervise import supervise as keep_up  # noqa: PLC0415

    found = settings_module.load(settings_path(settings, state_dir))
    logs.configure()
    keep_up(state_dir, settings, found.upgrade)


def stop(
    engines: Annotated[bool, typer.Option("--engines", help="End the engines too.")] = False,
    state_dir: StateDir = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    answer = controller(state_dir).call("POST", "/v1/stop", {"engines": engines})
    show(answer, answer["result"], as_json=as_json)
