"""Options and small helpers that commands share."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.core import ids, quantity
from appliance.errors import UsageError
from appliance.kit.http import HttpClient
from appliance.wiring import places


def checked(check: Callable[[str], str]) -> Callable[[str], str]:
    """Return a check of an argument's text that ends the command when it fails."""

    def call(text: str) -> str:
        try:
            return check(text)
        except ValueError as error:
            raise UsageError(str(error)) from error

    return call


Deployment = Annotated[
    str, typer.Argument(help="The deployment's name.", callback=checked(ids.name))
]
StateDir = Annotated[
    Path,
    typer.Option(
        "--state-dir",
        envvar="APPLIANCE_STATE_DIR",
        help="The node's state folder.",
        readable=False,  # most commands only speak to the socket in it, and may not list it
    ),
]
HubStateDir = Annotated[
    Path,
    typer.Option("--state-dir", envvar="APPLIANCE_HUB_STATE_DIR", help="The hub's state folder."),
]
SettingsFile = Annotated[
    Path | None,
    typer.Option("--settings", help="A TOML file; else settings.toml in the state folder."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

DEFAULT_STATE = places.DEFAULT_STATE
DEFAULT_HUB_STATE = places.DEFAULT_HUB_STATE


def controller(state: Path, timeout_s: float = 60.0) -> HttpClient:
    """Return a client of the controller that runs on a state folder."""
    socket = state / places.CONTROL_SOCKET
    hint = f"start it with: appliance node run --state-dir {state}"
    return HttpClient.over_unix(socket, "the controller", hint, timeout_s)


@contextlib.contextmanager
def local_api(state: Path, timeout_s: float = 3600.0) -> Iterator[HttpClient]:
    """Yield a client of the node's API, whether its controller runs or not."""
    from appliance.wiring.local import served  # noqa: PLC0415 - most commands do without it

    with served(state) as socket:
        hint = f"see the controller's log, then: appliance status --state-dir {state}"
        yield HttpClient.over_unix(socket, "the node", hint, timeout_s)


def bytes_of(text: str) -> int:
    """Return an amount of bytes as people write it, such as 14Gi.

    Raises:
        UsageError: it is not one.
    """
    try:
        return quantity.parse_bytes(text)
    except ValueError as error:
        raise UsageError(str(error)) from error


def settings_path(given: Path | None, state: Path) -> Path | None:
    """Return the settings file to read: the one given, or the state folder's if it has one."""
    if given is not None:
        return given
    usual = state / places.SETTINGS
    return usual if usual.exists() else None


def show(data: Any, text: str, *, as_json: bool) -> None:
    """Print data as JSON, or its text."""
    print(json.dumps(data, indent=2, ensure_ascii=False) if as_json else text)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a plain table; columns are as wide as their widest cell."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in [head, *rows]
    ]
    return "\n".join(line.rstrip() for line in lines)
