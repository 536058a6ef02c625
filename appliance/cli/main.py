"""The root command, and the only place where an error becomes text and an exit status.

Command groups are imported only when they are asked for: a command must start quickly, and most
need neither the node nor the hub. ``COMMANDS`` says what there is; a test holds it to the modules.
"""

import errno
import os
import signal
import sys
import traceback
from importlib import import_module
from types import FrameType
from typing import NoReturn

import typer

from appliance import __version__
from appliance.errors import ApplianceError, NoSpaceError

COMMANDS: dict[str, tuple[str, str]] = {
    "apply": ("deployments", "Put deployments from a YAML file in force on this node."),
    "get": ("deployments", "List the deployments in force, or show one."),
    "delete": ("deployments", "Take a deployment out of force on this node."),
    "release": ("deployments", "Drop the local word on a deployment; the fleet's holds again."),
    "hold": ("hold", "Keep a deployment as it is, whatever the fleet says."),
    "pin": ("hold", "Keep a deployment's model; the rest follows the fleet."),
    "logs": ("deployments", "Show what a deployment's engines logged last."),
    "chat": ("chat", "Talk to a deployment through the gateway."),
    "status": ("status", "Say whether this node serves, and is healthy."),
    "gpus": ("status", "Show this machine's GPUs, processors and memory."),
    "gpu": ("gpu", "Say which GPUs may be used; fence, release and reset one."),
    "models": ("status", "List the catalogue: what bundles brought."),
    "model": ("model", "Bring models of your own; list them, and what to begin with."),
    "schema": ("schema", "Print the JSON schema of a document's kind."),
    "node": ("node", "Make, run and stop the controller of this node."),
    "gateway": ("gateway", "Run the OpenAI-compatible gateway; make and revoke its keys."),
    "enrol": ("enrol", "Get this node's certificate from the hub: by a token or a stick."),
    "bundle": ("bundle", "Lock, build, sign and import bundles."),
    "receipts": ("receipts", "List this node's signed receipts; carry them home on a stick."),
    "time": ("receipts", "Say what time it is here, whether that is proven, and what to do."),
    "sync": ("sync", "Carry to the hub on a stick what no link carries, and back."),
    "audit": ("audit", "Show and verify the log of who did what here."),
    "backup": ("backup", "Back up this node's ledger, trust and keys, while it runs."),
    "restore": ("backup", "Put this node back from a backup; its ledger begins anew."),
    "store": ("store", "Show and look after the store: sizes, pins, damage, room."),
    "keys": ("keys", "Make and change the organisation's keys; sign; say who may do what."),
    "upgrade": ("upgrade", "Run another controller, and return to the old one if it fails."),
    "hub": ("hub", "Make and run a fleet hub; ask its nodes for deployments."),
    "conformance": ("conformance", "Show what of Kubernetes AI Conformance a cluster meets."),
    "demo": ("demo", "Show all of it on this machine: hub, broker, node, model, a cut link."),
}
"""Name: the module below ``appliance.cli`` that defines it, and its help."""


def build(only: str | None = None) -> typer.Typer:
    """Return the application.

    Args:
        only: The one command to import; the others are there by name and help alone. Without it,
            all are imported.
    """
    app = typer.Typer(
        name="appliance",
        help="Serve quantized models on your own boxes, for months without a link.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name, (module, help_text) in COMMANDS.items():
        if only is not None and name != only:
            app.command(name, help=help_text)(_not_loaded)
            continue
        import_module(f"appliance.cli.{module}").register(app, name, help_text)
    return app


def main() -> None:
    """Run a command; errors of ours end with their exit status."""
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    wanted = words[0] if words and words[0] in COMMANDS else ""
    _open_streams()
    signal.signal(signal.SIGTERM, _told_to_end)
    try:
        build(only=wanted)()
    except ApplianceError as error:
        print(f"error[{error.code}]: {error.what}", file=sys.stderr)
        if error.hint:
            print(f"  try: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            _bug(error)
        print(f"error[no-space]: {error.strerror} where the output goes", file=sys.stderr)
        sys.exit(NoSpaceError.exit_code)
    except Exception as error:  # noqa: BLE001 - the last line of defence against a page of traceback
        _bug(error)


def _bug(error: Exception) -> NoReturn:
    if os.environ.get("APPLIANCE_DEBUG"):
        traceback.print_exc()
    print(f"error[bug]: {type(error).__name__}: {error}", file=sys.stderr)
    print("  try: the same with APPLIANCE_DEBUG=1, and report what it prints", file=sys.stderr)
    sys.exit(1)


def _open_streams() -> None:
    """Somebody may have closed them; to write to nowhere is then what was asked for."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def _told_to_end(_number: int, _frame: FrameType | None) -> None:
    """End like an exception, so that what was begun is cleared away. Daemons have their own way."""
    sys.exit(128 + signal.SIGTERM)


def _version(asked: bool) -> None:  # noqa: FBT001 - typer's way to hand over a flag
    if asked:
        print(__version__)
        raise typer.Exit


def _root(
    version: bool = typer.Option(  # noqa: FBT001 - typer's way to declare a flag
        False, "--version", help="Print the version and exit.", is_eager=True, callback=_version
    ),
) -> None:
    del version


def _not_loaded() -> None:
    raise AssertionError("a command that was not asked for")
