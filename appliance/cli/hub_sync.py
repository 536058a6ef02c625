"""hub sync, hub backup, hub restore: the stick road at the hub, and what a hub is put back from."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli.backup import Folder, Replace
from appliance.cli.common import DEFAULT_HUB_STATE, AsJson, HubStateDir, checked, show
from appliance.core import ids
from appliance.core.ids import NodeId
from appliance.core.quantity import format_bytes
from appliance.errors import NotFoundError, RevokedError
from appliance.kit.clock import SystemClock, rfc3339
from appliance.kit.http import HttpClient

Url = Annotated[
    str | None,
    typer.Option("--url", envvar="APPLIANCE_HUB_URL", help="The hub; else as in its settings."),
]
Medium = Annotated[Path, typer.Argument(help="The stick's folder, such as /media/stick.")]
Hub = Callable[[Path, str | None], HttpClient]


def register(group: typer.Typer, hub: Hub) -> None:
    """Add the commands to the hub's group; ``hub`` returns a client of it."""

    def take(
        medium: Medium,
        url: Url = None,
        state_dir: HubStateDir = DEFAULT_HUB_STATE,
        as_json: AsJson = False,
    ) -> None:
        _take(medium, hub(state_dir, url), as_json=as_json)

    def export(
        medium: Medium,
        node: Annotated[
            str | None, typer.Option("--node", help="One node; else all that were admitted.")
        ] = None,
        url: Url = None,
        state_dir: HubStateDir = DEFAULT_HUB_STATE,
        as_json: AsJson = False,
    ) -> None:
        _export(medium, hub(state_dir, url), node, as_json=as_json)

    sync = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    sync.command("import", help="Take in what sticks bring home, and answer it.")(take)
    sync.command("export", help="Write what the hub has to say to a stick.")(export)
    group.add_typer(sync, name="sync", help="The stick road: what MQTT would carry, as files.")
    group.command("backup", help="Back up the hub's database and keys, while it runs.")(back_up)
    group.command("restore", help="Put the hub back from a backup.")(restore)


def _take(medium: Path, hub: HttpClient, *, as_json: bool) -> None:
    from appliance.hub import carrier  # noqa: PLC0415 - other commands do without

    try:
        receipts = carrier.import_folder(
            medium, lambda n, e: hub.call("POST", f"{_path(n)}/receipts", {"receipts": e})
        )
    except NotFoundError:
        receipts = []  # a stick may carry everything else
    replays = carrier.import_letters(
        medium,
        lambda n, m: hub.call("POST", f"{_path(n)}/messages", {"messages": m}),
        lambda n: hub.call("GET", f"{_path(n)}/messages"),
        {r.node for r in receipts if r.ours},
    )
    if not receipts and not replays:
        raise NotFoundError(
            f"{medium} carries nothing of any node", hint="at a node: appliance sync export FOLDER"
        )
    found = {"receipts": [asdict(r) for r in receipts], "nodes": [asdict(r) for r in replays]}
    lines = [f"{r.node}: {_counted(r.new, r.known)}" for r in receipts if r.ours]
    lines += [line for replay in found["nodes"] for line in _replayed(medium, replay)]
    refused = _once(
        [e for r in receipts for e in r.refused] + [e for r in replays for e in r.refused]
    )
    lines += [f"  REFUSED ({r['code']}): {_said(r)}" for r in refused]
    unwritten = {r.node: r.unwritten for r in receipts if r.unwritten is not None}
    unwritten |= {r.node: r.unwritten for r in replays if r.unwritten is not None}
    for node, error in unwritten.items():
        lines.append(f"  NOT WRITTEN, the answers for {node} ({error['code']}): {_said(error)}")
    show(found, "\n".join(lines), as_json=as_json)
    if failed := [*refused, *unwritten.values()]:
        raise typer.Exit(failed[0]["exit"])


def _once(refused: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out what was said before: receipts and messages may fail for one and the same."""
    return list({(r["code"], r["what"]): r for r in reversed(refused)}.values())[::-1]


def _said(error: dict[str, Any]) -> str:
    hint = f"\n    try: {error['hint']}" if error.get("hint") else ""
    return f"{error['what']}{hint}"


def _counted(new: int, known: int) -> str:
    what = "receipt" if new == 1 else "receipts"
    return f"{new} new {what}, {known} known" if new else f"no new receipts, {known} known"


def _replayed(medium: Path, found: dict[str, Any]) -> list[str]:
    if not any(found[name] for name in ("taken", "known", "early", "written")):
        return [f"{found['node']}: nothing taken"]
    what = "message" if found["taken"] == 1 else "messages"
    known = f", {found['known']} known" if found["known"] else ""
    known += f", {found['early']} to come again" if found["early"] else ""
    lines = [f"{found['node']}: {found['taken']} {what} taken{known}"]
    if not found["taken"]:
        lines = [f"{found['node']}: nothing new{known}"]
    lines += [
        f"  {p['stream']}: committed up to {p['upto']} (ledger {p['epoch']})"
        for p in found["positions"]
    ]
    lines += [f"  LACKING {text}: an earlier stick, or the link, brings them"
              for text in found["lacking"]]  # fmt: skip
    if found["written"]:
        lines.append(f"  written for it: {', '.join(found['written'])}")
        lines.append(f"  next: at the node, appliance sync import {medium}")
    return lines


def _export(medium: Path, hub: HttpClient, node: str | None, *, as_json: bool) -> None:
    from appliance.hub.carrier import export_node  # noqa: PLC0415 - other commands do without

    if node is None:
        names = [n["node"] for n in hub.call("GET", "/api/v1/nodes")["nodes"]]
    else:
        names = [checked(ids.node_id)(node)]
    written: dict[str, list[str]] = {}
    lines = []
    for n in names:
        try:
            written[n] = export_node(
                medium, NodeId(n), lambda who: hub.call("GET", f"{_path(who)}/messages")
            )
        except RevokedError:
            if node is not None:
                raise
            lines.append(f"{n}: revoked, nothing is written for it")
        else:
            lines.append(f"{n}: {', '.join(written[n]) or 'nothing to say'}")
    show({"nodes": written}, "\n".join(lines) or "no node was admitted yet", as_json=as_json)


def back_up(
    folder: Folder, state_dir: HubStateDir = DEFAULT_HUB_STATE, as_json: AsJson = False
) -> None:
    from appliance.hub import backup  # noqa: PLC0415 - other commands do without

    made = backup.make(state_dir, folder.absolute(), rfc3339(SystemClock().utc()))
    text = (
        f"{folder} holds the hub of {made.org}: {made.files} files, {format_bytes(made.bytes)}\n"
        "  it holds the hub's private keys: lock it away"
    )
    show(asdict(made), text, as_json=as_json)


def restore(
    folder: Folder,
    replace: Replace = False,
    state_dir: HubStateDir = DEFAULT_HUB_STATE,
    as_json: AsJson = False,
) -> None:
    from appliance.hub import backup  # noqa: PLC0415 - other commands do without

    found = backup.restore(folder.absolute(), state_dir, replace=replace)
    text = (
        f"the hub of {found.org} is as it was at {found.made_at}\n"
        f"  {found.nodes} nodes are asked nothing until each has reported what it follows\n"
        "  next: appliance hub run; then ask again for what was asked for since, and revoke again"
    )
    show(asdict(found), text, as_json=as_json)


def _path(node: str) -> str:
    return f"/api/v1/nodes/{node}"
