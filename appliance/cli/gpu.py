"""gpu list, fence, release, reset: which GPUs may be used, and why not."""

from typing import Annotated, Any

import typer

from appliance.cli.common import DEFAULT_STATE, AsJson, StateDir, local_api, show, table

Name = Annotated[str, typer.Argument(help="A GPU's UUID, or as much of its beginning as is clear.")]


def register(app: typer.Typer, name: str, help_text: str) -> None:
    """Add the group."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    group.command("list", help="List the GPUs: fenced or not, and what runs on them.")(listing)
    group.command("fence", help="Take a GPU out of use; its models move away.")(fence)
    group.command("release", help="Let a GPU be used again; forget one that was taken out.")(
        release
    )
    group.command("reset", help="Reset a fenced GPU that nothing uses, and release it.")(reset)
    app.add_typer(group, name=name, help=help_text)


def listing(state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False) -> None:
    with local_api(state_dir) as node:
        found = node.call("GET", "/v1/gpus")
    show(found, _listing(found), as_json=as_json)


def fence(
    gpu: Name,
    why: Annotated[str, typer.Option("--why", help="For whoever wonders later.")],
    state_dir: StateDir = DEFAULT_STATE,
    as_json: AsJson = False,
) -> None:
    with local_api(state_dir) as node:
        found = node.call("POST", "/v1/gpus/fence", {"gpu": gpu, "why": why})
    show(found, f"fenced {found['fenced']}: {found['why']}", as_json=as_json)


def release(gpu: Name, state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False) -> None:
    with local_api(state_dir) as node:
        found = node.call("POST", "/v1/gpus/release", {"gpu": gpu})
    show(found, f"{found['released']} may be used again", as_json=as_json)


def reset(gpu: Name, state_dir: StateDir = DEFAULT_STATE, as_json: AsJson = False) -> None:
    with local_api(state_dir) as node:
        found = node.call("POST", "/v1/gpus/reset", {"gpu": gpu})
    show(found, f"{found['reset']} was reset, and may be used again", as_json=as_json)


def _listing(found: dict[str, Any]) -> str:
    rows = [
        [g["uuid"], g["name"] or "name not known", _present(g), _fence(g), _users(g)]
        for g in found["gpus"]
    ]
    head = ["GPU", "NAME", "HERE", "FENCED", "USED BY"]
    text = table(head, rows) if rows else "no GPU was ever seen here"
    return f"{text}\n{found['note']}; {found['xid']}"


def _present(gpu: dict[str, Any]) -> str:
    words = {None: "not known", True: "yes", False: "NO"}
    return words[gpu["present"]] + ("" if gpu["xid_watched"] else ", XID not known")


def _fence(gpu: dict[str, Any]) -> str:
    fence = gpu["fence"]
    return "no" if fence is None else f"{fence['message']} ({fence['by']}, {fence['at'][:16]})"


def _users(gpu: dict[str, Any]) -> str:
    if gpu["users"] is None:
        return "not known"
    return ", ".join(u["replica"] or f"process {u['pid']}" for u in gpu["users"]) or "nobody"
