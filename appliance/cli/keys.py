"""keys: the organisation's offline keys."""

import datetime
import json
from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.common import AsJson, show
from appliance.core import wire
from appliance.errors import MalformedError, NotFoundError, UsageError
from appliance.trust.repository import SOLO_KEYS, Repository, org_name

Folder = Annotated[Path, typer.Argument(help="The keys folder.")]


def register(app: typer.Typer, name: str, help_text: str) -> None:
    """Add the group."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    group.command("init", help="Make an organisation's keys and its first root.")(init)
    group.command("name-director", help="Name the hub that may direct this fleet.")(name_director)
    app.add_typer(group, name=name, help=help_text)


def init(
    folder: Folder,
    org: Annotated[str, typer.Option(help="The organisation's name.")],
    solo: Annotated[
        bool, typer.Option("--solo", help="Root 1 of 2 and targets 1: one person, one safe.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    if not solo:
        raise UsageError(
            "keys of several people come with a later release", hint="use --solo: root 1 of 2"
        )
    Repository.init_solo(folder, org_name(org), datetime.datetime.now(datetime.UTC))
    made = [name for names in SOLO_KEYS.values() for name in names]
    text = (
        f"keys of {org} are in {folder}: {', '.join(made)}\n"
        f"  root needs 1 of 2 signatures: move root-2.pem to a safe, it replaces the others\n"
        f"  nodes are given {folder / 'metadata' / '1.root.json'}"
    )
    root = str(folder / "metadata" / "1.root.json")
    show({"org": org, "keys": made, "root": root}, text, as_json=as_json)


def name_director(
    folder: Folder,
    hub: Annotated[Path, typer.Option(help="What `appliance hub keys --json` printed.")],
    as_json: AsJson = False,
) -> None:
    try:
        found = wire.loads(hub.read_bytes(), what=str(hub))
    except OSError as error:
        raise NotFoundError(f"cannot read {hub}: {error.strerror}") from error
    if not all(isinstance(found.get(name), str) for name in ("org", "director", "sync")):
        raise MalformedError(f"{hub} does not name org, director and sync")
    epoch = Repository(folder).name_director(found)
    text = f"director epoch {epoch}; the next bundle that is built says so to the nodes"
    show(json.loads(json.dumps({"epoch": epoch})), text, as_json=as_json)
