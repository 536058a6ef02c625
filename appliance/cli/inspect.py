"""bundle show, bundle diff: to look at bundles without taking them in."""

import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli.common import AsJson, show, table
from appliance.core.quantity import format_bytes

_SHORT = len("sha256:") + 12

Bundle = Annotated[Path, typer.Argument(help="The bundle's folder.")]
Side = Annotated[Path, typer.Argument(help="A bundle's folder, or a node's receipt.")]


def register(group: typer.Typer) -> None:
    """Add the commands to the group ``bundle``."""
    group.command("show", help="Show what a bundle brings and who signed it.")(show_)
    group.command("diff", help="Say what a bundle brings beside another, or a receipt.")(diff)


def show_(
    bundle: Bundle,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            "--state-dir",
            envvar="APPLIANCE_STATE_DIR",
            help="A node's state folder: by its trust, and what is new there.",
        ),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="A root that is trusted, to check signatures by.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    from appliance.bundle.look import show as shown  # noqa: PLC0415

    site = shown.Site.of(state_dir, root)
    found = shown.show(bundle, site, datetime.datetime.now(datetime.UTC))
    show(found, "\n".join(_bundle_lines(found)), as_json=as_json)


def diff(old: Side, new: Side, as_json: AsJson = False) -> None:
    from appliance.bundle.look import diff as differ  # noqa: PLC0415

    found = differ.diff(differ.open_side(old), differ.open_side(new))
    show(found, _diff_text(found), as_json=as_json)


def _bundle_lines(found: dict[str, Any]) -> list[str]:
    lines = [f"{found['name']} {found['version']}  {found['folder']}"]
    if found["against"]:
        lines.append(f"  made against {found['against']}")
    lines += ["", *_signature_lines(found["signatures"]), "", *_item_lines(found)]
    if found["revoked"]:
        lines += ["", "revoked by its own list"]
        lines += [f"  {one['digest'][:_SHORT]}  {one['why']}" for one in found["revoked"]]
    return [*lines, "", _totals(found["bytes"])]


def _totals(count: dict[str, Any]) -> str:
    text = f"{format_bytes(count['all'])} in all, {format_bytes(count['carried'])} carried"
    if count["new"] is None:
        return text
    return f"{text}, {format_bytes(count['new'])} new for this site"


def _signature_lines(found: dict[str, Any]) -> list[str]:
    roots = found["roots"]
    if not found["checked"]:
        lines = [f"{roots['trouble']}; give --root or --state-dir"]
    else:
        lines = [f"signatures  {_verdict(found['verdict'])}"]
        if roots["newest"] != roots["trusted"]:
            lines.append(f"  root {roots['trusted']} is followed by {roots['newest']}")
        if roots["trouble"]:
            lines.append(f"  no further root: {roots['trouble']}")
    return lines + [line for role in found["roles"] for line in _role_lines(role)]


def _verdict(verdict: dict[str, Any]) -> str:
    at = f"judged at {verdict['at']}"
    if not verdict["clock_believed"]:
        at += ", for this machine's clock is not believed"
    if not verdict["ok"]:
        return f"REFUSED[{verdict['code']}]: {verdict['why']} ({at})"
    if verdict["older"]:
        return f"good, and older than what this site trusts: that counts ({at})"
    return f"good{'' if verdict['new'] else ', and known here'} ({at})"


def _role_lines(role: dict[str, Any]) -> list[str]:
    head = f"  {role['role']:<11} "
    if role["trouble"]:
        return [f"{head}not readable: {role['trouble']}"]
    facts = f"{head}version {role['version']}, issued {role['issued'] or 'not said'}"
    facts += f", expires {role['expires']}"
    by = ", ".join(_key(key) for key in role["signed"]) or "nobody"
    if role["met"] is None:
        return [facts, f"{'':14}claims signatures of {by}; not checked"]
    state = "signed by" if role["met"] else "NOT ENOUGH SIGNATURES:"
    return [facts, f"{'':14}{state} {len(role['signed'])}, {role['threshold']} needed: {by}"]


def _key(key: dict[str, Any]) -> str:
    short = key["id"][:12]
    return f"{key['name']} ({short})" if key["name"] else short


def _item_lines(found: dict[str, Any]) -> list[str]:
    if found["trouble"]:
        return [f"contents    not readable: {found['trouble']}"]
    lines = ["contents"]
    for item in found["items"]:
        lines.append(f"  {item['path']}  {_item_facts(item)}")
        blobs = item["blobs"]
        for number, blob in enumerate(blobs):
            corner = "└─" if number == len(blobs) - 1 else "├─"
            lines.append(f"    {corner} {_blob_text(blob)}")
    if found["not_shown"]:
        lines.append(f"  … and {found['not_shown']} more")
    return lines


def _item_facts(item: dict[str, Any]) -> str:
    facts = [format_bytes(item["bytes"]), f"by {item['role']}"]
    if item["licence"]:
        facts.insert(0, item["licence"])
    if item["new"] is not None:
        facts.append("new for this site" if item["new"] else "here already")
    if item["revoked"]:
        facts.append("REVOKED")
    if item["trouble"]:
        facts.append(f"NOT READABLE: {item['trouble']}")
    return ", ".join(facts)


def _blob_text(blob: dict[str, Any]) -> str:
    text = f"{blob['name']}  {format_bytes(blob['bytes'])}  {blob['digest'][:_SHORT]}"
    if blob["how"] == "delta":
        bases = ", ".join(_base(base) for base in blob["bases"])
        text += f"  delta of {format_bytes(blob['carried'])} to {bases}"
    elif blob["how"] != "whole":
        text += f"  {blob['how'].upper()}"
    if blob["revoked"]:
        text += "  REVOKED"
    return text + ("  here already" if blob["here"] else "")


def _base(base: dict[str, Any]) -> str:
    here = {None: "", True: " (here)", False: " (NOT HERE)"}[base["here"]]
    return f"{base['digest'][:_SHORT]}{here}"


def _diff_text(found: dict[str, Any]) -> str:
    rows = [
        [
            row["what"],
            row["path"],
            format_bytes(row["bytes"]),
            format_bytes(row["by_blob"]),
            format_bytes(row["by_chunk"]),
        ]
        for row in found["items"]
    ]
    head = f"from {found['old']} to {found['new']}"
    count = found["bytes"]
    total = (
        f"{format_bytes(count['all'])} in all, {format_bytes(count['by_blob'])} new by blob, "
        f"{format_bytes(count['by_chunk'])} by chunk"
    )
    columns = ["WHAT", "PATH", "SIZE", "NEW BY BLOB", "BY CHUNK"]
    return "\n".join([head, "", table(columns, rows), "", total])
