"""store ls, du, verify, gc, pin, unpin: what is here, who holds it, and making room."""

from typing import Annotated, Any

import typer

from appliance.cli.common import DEFAULT_STATE, AsJson, StateDir, local_api, show, table
from appliance.cli.progress import ProgressLine
from appliance.cli.status import wanted_line
from appliance.core.quantity import format_bytes
from appliance.errors import CorruptError, UsageError

_BRING_AGAIN = "import the bundle that brings them again; appliance store ls says which models"

Name = Annotated[
    str, typer.Argument(help="A model, MODEL@VERSION, one variant as store ls names it, a digest.")
]


def register(app: typer.Typer, name: str, help_text: str) -> None:
    """Add the group."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    group.command("ls", help="List what the store holds, and who holds it there.")(ls)
    group.command("du", help="Show what the store takes, and what it may take.")(du)
    group.command("verify", help="Read blobs again now; take out what is damaged.")(verify)
    group.command("gc", help="Say what may go and why, then remove it.")(gc)
    group.command("pin", help="Keep a variant here until it is let go of.")(pin)
    group.command("unpin", help="Let go of a variant.")(unpin)
    app.add_typer(group, name=name, help=help_text)


def ls(state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False) -> None:
    with local_api(state_dir) as node:
        found = node.call("GET", "/v1/store")
    show(found, _listing(found), as_json=as_json)


def du(state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False) -> None:
    with local_api(state_dir) as node:
        found = node.call("GET", "/v1/store/usage")
    show(found, _usage(found), as_json=as_json)


def verify(
    name: Annotated[
        str | None, typer.Argument(help="What to verify, as store ls names it.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Verify all blobs.")] = False,
    state_dir: StateDir = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    if (name is None) != everything:
        raise UsageError("verify needs a name or --all, and not both")
    with ProgressLine(quiet=as_json) as line, local_api(state_dir) as node:
        answer: dict[str, Any] = {}
        for answer in node.objects("POST", "/v1/store/verify", {"name": name}):
            if "progress" in answer:
                line.update(*answer["progress"].values())
    show(answer["verified"], _verified(answer["verified"]), as_json=as_json)
    _must_be_whole(answer["verified"])


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say it, and remove nothing.")] = False,
    state_dir: StateDir = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    with local_api(state_dir) as node:
        found = node.call("GET", "/v1/store/gc")
        if not as_json:
            print(_plan(found))
        if not dry_run:
            found = node.call("POST", "/v1/store/gc", {})
    done = "nothing was removed" if dry_run else f"freed {format_bytes(found['freed_bytes'])}"
    show(found, done, as_json=as_json)


def pin(
    name: Name,
    why: Annotated[str, typer.Option("--why", help="For whoever wonders later why it is kept.")],
    state_dir: StateDir = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    with local_api(state_dir) as node:
        found = node.call("POST", "/v1/store/pin", {"name": name, "why": why})
    show(found, f"pinned {', '.join(found['pinned'])}: {found['why']}", as_json=as_json)


def unpin(name: Name, state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False) -> None:
    with local_api(state_dir) as node:
        found = node.call("POST", "/v1/store/unpin", {"name": name})
    show(found, f"let go of {', '.join(found['unpinned'])}", as_json=as_json)


def _must_be_whole(found: dict[str, Any]) -> None:
    if found["bad"]:
        raise CorruptError(
            f"damaged blobs were taken out of the store: {len(found['bad'])}",
            hint=_BRING_AGAIN,
        )
    if found["wanted"]:
        raise CorruptError(
            f"blobs that models need are not here: {len(found['wanted'])}", hint=_BRING_AGAIN
        )


def _listing(found: dict[str, Any]) -> str:
    rows = [
        [
            held["reference"],
            format_bytes(held["bytes"]),
            held["last_use"][:16].replace("T", " ") or "not known",
            ", ".join([f"{p['kind']}: {p['holder']}" for p in held["pins"]]) or "nobody",
            ", ".join(sorted(set(held["lost"].values()))) or "whole",
        ]
        for held in found["store"]
    ]
    head = ["VARIANT", "SIZE", "LAST USE", "HELD BY", "STATE"]
    lines = [table(head, rows) if rows else "the store is empty"]
    return "\n".join([*lines, *(wanted_line(wanted) for wanted in found["wanted"])])


def _usage(found: dict[str, Any]) -> str:
    budget = found["budget_bytes"]
    rows = [
        ["store", format_bytes(found["store_bytes"]),
         "no budget" if budget is None else f"of a budget of {format_bytes(budget)}"],
        ["incoming", format_bytes(found["incoming_bytes"]), "interrupted imports"],
        ["quarantine", format_bytes(found["quarantine_bytes"]), "damaged blobs"],
        ["models", format_bytes(found["models_bytes"]), "beside the links to the store"],
        ["free", format_bytes(found["free_bytes"]), f"floor {format_bytes(found['floor_bytes'])}"],
    ]  # fmt: skip
    return table(["FOLDER", "SIZE", "NOTE"], rows)


def _verified(found: dict[str, Any]) -> str:
    lines = [f"verified: {found['verified']} of {found['verified'] + len(found['bad'])}"]
    lines += [f"DAMAGED {digest}: {why}" for digest, why in found["bad"].items()]
    return "\n".join([*lines, *(wanted_line(wanted) for wanted in found["wanted"])])


def _plan(found: dict[str, Any]) -> str:
    lines = [
        f"remove {leftover['path']}, {format_bytes(leftover['bytes'])}: {leftover['why']}"
        for leftover in found["leftovers"]
    ]
    lines += [
        f"evict {gone['reference']}, {format_bytes(gone['freed_bytes'])}: {gone['why']}"
        for gone in found["evicted"]
    ]
    lines += [f"keep {kept['reference']}: {kept['why']}" for kept in found["kept"]]
    if found["short_bytes"]:
        lines.append(f"{format_bytes(found['short_bytes'])} too much is held: see store ls")
    return "\n".join(lines) or "the store is empty"
