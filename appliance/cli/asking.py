"""What a command asks a person: a passphrase, without echo, and whether to go on."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from appliance.core.plain import plain
from appliance.errors import NotFoundError, UsageError

_LONGEST_LINE = 1 << 16

PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="Read the passphrase from a file; else it is asked."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Sign without asking once more.")]


def passphrase(file: Path | None) -> Callable[[Path], str]:
    """Return what asks for the passphrase of a key: the file given, else the person."""

    def ask(key: Path) -> str:
        if file is not None:
            return _read(file)
        _need_terminal(f"{key} has a passphrase", "--passphrase-file FILE")
        return str(typer.prompt(f"passphrase of {key}", hide_input=True, err=True))

    return ask


def new_passphrase(file: Path | None, key: Path, *, none: bool) -> str | None:
    """Return a new passphrase, asked twice; None where the person wants none."""
    if none:
        return None
    if file is not None:
        return _read(file)
    _need_terminal(f"{key} is to have a passphrase", "--passphrase-file FILE, or none at all")
    return str(
        typer.prompt(
            f"new passphrase of {key}", hide_input=True, err=True, confirmation_prompt="once more"
        )
    )


def confirm(what: str, *, yes: bool) -> None:
    """Show what is to be signed, and go on only if the person says so.

    Raises:
        UsageError: there is nobody to ask.
        typer.Exit: the person said no.
    """
    if yes:
        return
    print(what, file=sys.stderr)
    _need_terminal("what is signed is read first", "--yes, once somebody has read it")
    if not typer.confirm("sign this?", err=True):
        print("nothing was signed", file=sys.stderr)
        raise typer.Exit(1)


def screen(lines: Iterable[str]) -> str:
    """Return lines of which none can rewrite the screen, or hide another from who is to sign."""
    return "\n".join(plain(line, _LONGEST_LINE) for line in lines)


def _need_terminal(why: str, instead: str) -> None:
    if not sys.stdin.isatty():
        raise UsageError(f"{why}, and there is no terminal to ask at", hint=instead)


def _read(file: Path) -> str:
    try:
        return file.read_text().removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise NotFoundError(f"cannot read the passphrase in {file}: {error}") from error
