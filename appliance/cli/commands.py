"""hub command, hub commands, hub rollback: tell a node to do something once, or to go back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli.common import (
    DEFAULT_HUB_STATE,
    AsJson,
    HubStateDir,
    checked,
    show,
    table,
)
from appliance.core import commands as words
from appliance.core import ids
from appliance.core.quantity import parse_duration
from appliance.errors import UsageError
from appliance.kit.http import HttpClient

Node = Annotated[str, typer.Argument(help="The node's id.", callback=checked(ids.node_id))]
Url = Annotated[
    str | None,
    typer.Option("--url", envvar="APPLIANCE_HUB_URL", help="The hub; else as in its settings."),
]
Hub = Callable[[Path, str | None], HttpClient]


def register(group: typer.Typer, hub: Hub) -> None:
    """Add the commands to the hub's group; ``hub`` returns a client of it."""

    def command(  # noqa: PLR0913, PLR0917 - each is an option
        node: Node,
        verb: Annotated[str, typer.Argument(help="One of: " + ", ".join(words.Verb))],
        arg: Annotated[
            list[str] | None, typer.Option("--arg", help="NAME=VALUE; may be repeated.")
        ] = None,
        expires: Annotated[
            str, typer.Option(help="When the node refuses it: a duration such as 10m.")
        ] = "10m",
        url: Url = None,
        state_dir: HubStateDir = DEFAULT_HUB_STATE,
        as_json: AsJson = False,
    ) -> None:
        try:
            seconds = parse_duration(expires)
        except ValueError as error:
            raise UsageError(str(error)) from error
        body = {"verb": verb, "args": words.from_text(_pairs(arg or [])), "expires_s": seconds}
        answer = hub(state_dir, url).call("POST", f"/api/v1/nodes/{node}/commands", body)
        text = f"{node}: command {answer['id']}, {verb}, until {answer['expires']}"
        show(answer, f"{text}\n  next: appliance hub commands {node}", as_json=as_json)

    def commands(
        node: Node,
        url: Url = None,
        state_dir: HubStateDir = DEFAULT_HUB_STATE,
        as_json: AsJson = False,
    ) -> None:
        found = hub(state_dir, url).call("GET", f"/api/v1/nodes/{node}/commands")
        head = ["ID", "VERB", "ARGUMENTS", "STATE", "ISSUED", "WHY"]
        rows = [
            [c["id"], c["verb"], _arguments(c["args"]), c["state"], c["issued"], c["why"]]
            for c in found["commands"]
        ]
        empty = f"{node} was never commanded"
        show(found, table(head, rows) if rows else empty, as_json=as_json)

    def rollback(  # noqa: PLR0913, PLR0917 - each is an option
        node: Node,
        to: Annotated[int, typer.Option(min=1, help="The generation to return to.")],
        why: Annotated[str, typer.Option("--why", help="For whoever wonders later.")],
        keep: Annotated[
            bool,
            typer.Option(
                "--keep", help="What is asked for now is what it said; a restored hub forgot it."
            ),
        ] = False,
        url: Url = None,
        state_dir: HubStateDir = DEFAULT_HUB_STATE,
        as_json: AsJson = False,
    ) -> None:
        body = {"to": to, "why": why, "keep": keep}
        answer = hub(state_dir, url).call("POST", f"/api/v1/nodes/{node}/rollback", body)
        text = f"{node}: generation {answer['generation']} says what {to} said"
        show(answer, text, as_json=as_json)

    group.command("command", help="Tell a node to do something, once.")(command)
    group.command("commands", help="List what a node was told, and how it ended.")(commands)
    group.command("rollback", help="Ask a node for what an older generation said.")(rollback)


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = dict(text.partition("=")[::2] for text in texts)
    if len(pairs) != len(texts) or not all("=" in text for text in texts):
        raise UsageError("each --arg is NAME=VALUE, and no name stands twice")
    return pairs


def _arguments(args: dict[str, Any]) -> str:
    texts = (v if isinstance(v, str) else json.dumps(v) for v in args.values())
    return " ".join(f"{name}={text}" for name, text in zip(args, texts, strict=True)) or "-"
