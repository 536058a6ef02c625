"""Every command has help, a way to print JSON, and costs little to ask for help."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from appliance.cli.main import COMMANDS, build

pytestmark = pytest.mark.slow

DAEMONS = {"node run", "node supervise", "gateway run", "hub run", "demo"}


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    found = typer.main.get_command(build()) if command is None else command
    children = getattr(found, "commands", {})
    if not children:
        yield " ".join(path), found
    for name, child in children.items():
        yield from commands(child, (*path, name))


ALL = dict(commands())


@pytest.mark.parametrize("name", ALL)
def test_it_says_what_it_does_and_what_each_option_is_for(name: str) -> None:
    command = ALL[name]
    assert command.help
    for parameter in command.params:
        assert parameter.help, f"{name}: {parameter.name} has no help"


@pytest.mark.parametrize("name", ALL)
def test_it_prints_json_unless_it_is_a_daemon(name: str) -> None:
    has = "as_json" in {parameter.name for parameter in ALL[name].params}
    assert has != (name in DAEMONS)


def test_the_table_of_commands_is_what_there_is() -> None:
    top = typer.main.get_command(build())
    assert set(top.commands) == set(COMMANDS)  # type: ignore[attr-defined]


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['appliance', '--help']\n"
        "from appliance.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('LOADED', sorted({'pydantic', 'tuf', 'starlette', 'uvicorn', 'sqlite_utils', 'paho',"
        " 'cryptography', 'rich', 'kubernetes'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("LOADED []\n"), done.stdout[-200:]


def test_importing_the_package_loads_neither_kubernetes_nor_tuf() -> None:
    code = "import sys, appliance; print({'kubernetes', 'tuf'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["apply"], "--file"),
        (["nonsense"], "nonsense"),
        (["get", "--nonsense"], "--nonsense"),
        (["logs", "x", "--lines", "0"], "lines"),
        (["schema", "Cake"], "Cake"),
        (["node", "init", "--name", "Box 1", "--root", "pyproject.toml"], "Box 1"),
        (["keys", "init", "/nowhere/keys", "--org", "acme"], "--solo"),
        (["keys", "init", "/nowhere/keys", "--org", "A C", "--solo"], "A C"),
        (["demo", "--host", "192.0.2.1"], "192.0.2.1"),
        (["chat", "x", "--max-tokens", "none"], "max-tokens"),
    ],
)
def test_a_wrong_word_is_a_usage_error_that_quotes_it(arguments: list[str], says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "appliance", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode in (2, 9), done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
