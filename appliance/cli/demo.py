"""demo: all of it on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.bundle import Cache, cache_folder
from appliance.demo.run import DemoOptions
from appliance.demo.run import run as run_demo
from appliance.errors import NotFoundError, UsageError
from appliance.wiring.daemon import is_loopback


def register(app: typer.Typer, name: str, help_text: str) -> None:
    """Add the command."""
    app.command(name, help=help_text)(demo)


def demo(
    bundle: Annotated[Path, typer.Option(help="The bundle definition to build.")] = Path(
        "bundles/demo.yaml"
    ),
    witness: Annotated[
        Path | None, typer.Option(help="A program that judges the demo from outside.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End when all of it was shown.")] = False,
    host: Annotated[str, typer.Option(help="The loopback address to use: 127.0.0.1 or ::1.")] = (
        "127.0.0.1"
    ),
    cache: Cache = None,
) -> None:
    if not is_loopback(host):
        raise UsageError(f"the demo stays on loopback, and {host} is not", hint="127.0.0.1 or ::1")
    if witness is not None and not witness.is_file():
        raise NotFoundError(f"there is no witness at {witness}")
    run_demo(DemoOptions(bundle, cache_folder(cache), witness, once, host))
