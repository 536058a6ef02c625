"""schema: the documents' JSON schemas, for editors and people."""

import json
from typing import Annotated

import typer

from appliance.cli.common import AsJson, show
from appliance.core import reading
from appliance.errors import NotFoundError


def register(app: typer.Typer, name: str, help_text: str) -> None:
    """Add the command."""
    app.command(name, help=help_text)(schema)


def schema(
    kind: Annotated[
        str | None, typer.Argument(help="The kind; all kinds' names without it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    if kind is None:
        show({"kinds": list(reading.KINDS)}, "\n".join(reading.KINDS), as_json=as_json)
        return
    if kind not in reading.KINDS:
        raise NotFoundError(f"there is no kind {kind!r}", hint=", ".join(reading.KINDS))
    print(json.dumps(reading.json_schema(kind), indent=2))
