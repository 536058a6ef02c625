"""backup, restore: what a node is put back from."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli.common import DEFAULT_STATE, AsJson, StateDir, local_api, show
from appliance.core.quantity import format_bytes
from appliance.kit.clock import SystemClock, rfc3339

Folder = Annotated[
    Path, typer.Argument(help="The backup's folder, such as /media/stick/2026-12-01.")
]
Replace = Annotated[bool, typer.Option("--replace", help="Put it in the place of what is there.")]


def register(app: typer.Typer, name: str, help_text: str) -> None:
    """Add one of this module's commands."""
    commands: dict[str, Any] = {"backup": back_up, "restore": restore}
    app.command(name, help=help_text)(commands[name])


def back_up(folder: Folder, state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False) -> None:
    with local_api(state_dir) as node:
        found = node.call("POST", "/v1/backup", {"path": str(folder.absolute())})
    text = (
        f"{folder} holds {found['node']}, ledger {found['epoch']}: {found['files']} files, "
        f"{format_bytes(found['bytes'])}\n"
        "  it holds the node's private keys: lock it away\n"
        "  models are not in it: bundles bring them again"
    )
    show(found, text, as_json=as_json)


def restore(
    folder: Folder,
    replace: Replace = False,
    state_dir: StateDir = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    from appliance.node import backup  # noqa: PLC0415 - other commands do without

    at = rfc3339(SystemClock().utc())
    found = backup.restore(folder.absolute(), state_dir, at, replace=replace)
    text = (
        f"{found.node} is as it was at {found.made_at}, with a new ledger {found.epoch}\n"
        f"  before: ledger {found.old_epoch}, audit record {found.audit['seq']}, "
        f"{str(found.audit['hash'])[:8]}; {found.unsent} records of it were not acknowledged\n"
    )
    if found.left.records:
        text += (
            f"  {found.left.records} records that the ledger in its place had not sent are in "
            f"{found.left.folder}\n"
        )
    if found.left.why_not:
        text += f"  NOT KEPT: {found.left.why_not}\n"
    hand_in = [str(folder)] if found.carried else []
    hand_in += [found.left.folder] if found.left.folder else []
    text += "".join(f"  next: at the hub, appliance hub sync import {each}\n" for each in hand_in)
    text += "  then: appliance node run; blobs are hashed before models start from them"
    show(asdict(found), text, as_json=as_json)
