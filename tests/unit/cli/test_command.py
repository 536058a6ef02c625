"""hub command, commands and rollback; hold and pin: what is asked of the other end."""

import json
from pathlib import Path
from typing import Any, cast

import pytest
import typer
from typer.testing import CliRunner

from appliance.cli import commands, deployments, hold
from appliance.errors import UsageError
from tests.helpers.models import wire_deployment


class Asked:
    """Stands for a hub or a node, and keeps what it was asked."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        self.calls: list[tuple[str, str, Any]] = []

    def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        self.calls.append((method, path, body))
        return self.answer


def at_the_hub(answer: dict[str, Any], *words: str) -> tuple[Asked, str]:
    """Run a command of the hub's group; return what was asked, and what it printed."""
    asked, group = Asked(answer), typer.Typer()
    commands.register(group, lambda _state, _url: cast("Any", asked))
    done = CliRunner().invoke(group, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return asked, done.output


def test_a_command_is_asked_for_with_its_arguments() -> None:
    answer = {"id": "7", "expires": "soon"}
    arguments = ["--arg", "deployment=notes", "--arg", "expect.count=ab", "--expires", "2h"]
    asked, text = at_the_hub(answer, "command", "box-1", "run-golden-prompts", *arguments)
    args = {"deployment": "notes", "expect": {"count": "ab"}}
    body = {"verb": "run-golden-prompts", "args": args, "expires_s": 7200.0}
    assert asked.calls == [("POST", "/api/v1/nodes/box-1/commands", body)]
    assert "box-1: command 7, run-golden-prompts, until soon" in text


@pytest.mark.parametrize(
    "words",
    [
        ["command", "box-1", "hold", "--arg", "deployment"],
        ["command", "box-1", "hold", "--arg", "a=1", "--arg", "a=2"],
        ["command", "box-1", "hold", "--expires", "later"],
        ["command", "BOX", "hold"],
    ],
)
def test_what_makes_no_sense_is_not_asked_for(words: list[str]) -> None:
    with pytest.raises(UsageError):
        at_the_hub({}, *words)


def test_commands_are_a_table() -> None:
    one = {"id": "7", "verb": "hold", "args": {"deployment": "a", "minutes": 5}, "state": "done",
           "issued": "then", "why": ""}  # fmt: skip
    _, text = at_the_hub({"commands": [one]}, "commands", "box-1")
    assert text.splitlines()[1] == "7   hold  deployment=a minutes=5  done   then"
    _, text = at_the_hub({"commands": []}, "commands", "box-1")
    assert text == "box-1 was never commanded\n"


def test_a_rollback_names_its_generation_and_why() -> None:
    asked, text = at_the_hub({"generation": 9}, "rollback", "box-1", "--to", "4", "--why", "slow")
    assert asked.calls == [
        ("POST", "/api/v1/nodes/box-1/rollback", {"to": 4, "why": "slow", "keep": False})
    ]
    assert text == "box-1: generation 9 says what 4 said\n"


@pytest.mark.parametrize(
    ("words", "body"),
    [
        (["hold"], {"reason": "audit", "until": None}),
        (["hold", "--until", "8h"], {"reason": "audit", "until": "8h"}),
        (["pin", "--model", "a@1"], {"reason": "audit", "until": None, "model": "a@1"}),
        (["pin", "--model", "a@1", "--anyway"],
         {"reason": "audit", "until": None, "model": "a@1", "anyway": True}),
    ],
)  # fmt: skip
def test_a_local_word_is_asked_for_with_its_reason(
    words: list[str], body: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked, app = Asked({"result": "held"}), typer.Typer()
    monkeypatch.setattr(hold, "controller", lambda _: asked)
    hold.register(app, words[0], "help")
    given = [*words[1:], "notes", "--reason", "audit", "--state-dir", str(tmp_path)]
    done = CliRunner().invoke(app, given, catch_exceptions=False)
    assert asked.calls == [("POST", f"/v1/deployments/notes/{words[0]}", body)]
    assert done.output == "notes: held\n"


def test_an_override_that_waits_for_its_model_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name, app = "ModelDeployment/notes", typer.Typer()
    asked = Asked({"applied": {name: "changed"}, "waits": {name: "typo is not in the catalogue"}})
    monkeypatch.setattr(deployments, "controller", lambda _: asked)
    deployments.register(app, "apply", "help")
    file = tmp_path / "notes.json"
    file.write_text(json.dumps(wire_deployment("notes", "typo")))
    given = ["-f", str(file), "--reason", "x", "--state-dir", str(tmp_path)]
    done = CliRunner().invoke(app, given, catch_exceptions=False)
    assert done.output == f"{name} changed\n{name} waits: typo is not in the catalogue\n"
