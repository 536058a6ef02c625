"""gateway run, and its keys."""

import asyncio
from dataclasses import replace
from typing import Annotated

import typer

from appliance import settings as settings_module
from appliance.cli.common import (
    DEFAULT_STATE,
    AsJson,
    SettingsFile,
    StateDir,
    checked,
    controller,
    settings_path,
    show,
    table,
)
from appliance.core import ids
from appliance.kit import logs

Name = Annotated[str, typer.Argument(help="The key's name.", callback=checked(ids.name))]


def register(app: typer.Typer, name: str, help_text: str) -> None:
    """Add the group."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    group.command("run", help="Run the gateway until it is told to end.")(run)
    key = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    key.command("create", help="Make a key; its text is shown this once.")(create)
    key.command("list", help="List the keys' names.")(list_keys)
    key.command("revoke", help="Forget a key; requests with it are refused from now on.")(revoke)
    group.add_typer(key, name="key", help="Make, list and revoke API keys.")
    app.add_typer(group, name=name, help=help_text)


def run(
    host: Annotated[str | None, typer.Option(help="Where to listen; else as in settings.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes any.")] = None,
    state_dir: StateDir = DEFAULT_STATE,
    settings: SettingsFile = None,
) -> None:
    from appliance.wiring.gateway import run_gateway  # noqa: PLC0415 - what `key` does not need

    found = settings_module.load(settings_path(settings, state_dir))
    own = found.gateway
    chosen = replace(own, host=host or own.host, port=own.port if port is None else port)
    logs.configure()
    asyncio.run(run_gateway(state_dir, chosen, found.kubernetes))


def create(
    name: Name,
    tenant: Annotated[str, typer.Option(help="Whose requests it marks.")] = "default",
    state_dir: StateDir = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    body = {"id": name, "tenant": tenant}
    answer = controller(state_dir).call("POST", "/v1/gateway/keys", body)
    show(answer, answer["key"], as_json=as_json)


def list_keys(state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False) -> None:
    found = controller(state_dir).call("GET", "/v1/gateway/keys")
    rows = [[k["id"], k["tenant"]] for k in found["keys"]]
    show(found, table(["NAME", "TENANT"], rows) if rows else "there is no key", as_json=as_json)


def revoke(name: Name, state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False) -> None:
    answer = controller(state_dir).call("DELETE", f"/v1/gateway/keys/{name}")
    show(answer, f"{answer['id']}: {answer['result']}", as_json=as_json)
