"""A stick goes from a node to its hub and back by the commands that a technician types."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from appliance.cli import hub as hub_cli
from appliance.core.ids import NodeId
from appliance.hub import identity as hub_identity
from appliance.node import identity
from tests.helpers.organisation import Organisation

pytestmark = pytest.mark.slow


def appliance(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "appliance", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def state(tmp_path: Path, organisation: Organisation) -> Iterator[Path]:
    made = tmp_path / "node"
    identity.create(made, NodeId("box-1"), organisation.root)
    yield made
    (made / "reserve").unlink()


def test_a_new_node_exports_and_says_what_to_do_next(state: Path, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    done = appliance("receipts", "export", stick, "--state-dir", state)
    assert done.returncode == 0, done.stderr
    (path,) = stick.rglob("*.json")
    lines = done.stdout.splitlines()
    assert lines[0] == f"{stick} holds the receipts of box-1 up to 1, 1 written now"
    assert lines[1].startswith("  for the shift book: receipt 1, ")
    assert lines[2] == f"  next: at the hub, appliance hub receipts import {stick}"
    listed = json.loads(appliance("receipts", "list", "--json", "--state-dir", state).stdout)
    assert path.name.endswith("-1.json")
    assert listed["receipts"][0]["hash"].startswith(lines[1].split()[-1])
    shown = appliance("receipts", "show", 1, "--state-dir", state).stdout
    assert shown.startswith("receipt 1, export: how things are\n")
    time = appliance("time", "--state-dir", state).stdout
    assert "a signed time was asked for and has not come yet" in time
    missing = appliance("time", "take", stick, "--state-dir", state)
    assert missing.returncode == 9
    assert f"appliance hub receipts import {stick}" in missing.stderr


def test_the_hubs_command_says_what_came_and_what_was_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub_identity.create(tmp_path / "hub", "acme")
    folder = tmp_path / "stick" / "up" / "box-1" / "receipts"
    folder.mkdir(parents=True)
    (folder / "e-1.json").write_text("{}")
    (folder / "e-2.json").write_text("nonsense")
    chain = {
        "node": "box-1", "epoch": "e", "upto": 9, "head": "ab" * 32, "issued": "now",
        "gaps": [[2, 2], [4, 8]], "forks": [1],
    }  # fmt: skip

    class Answers:
        def call(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
            assert (method, path) == ("POST", "/api/v1/nodes/box-1/receipts")
            results = [{"result": "new"} for _ in body["receipts"]]
            return {"results": results, "chains": [chain], "time": {"signed": "time"}}

    monkeypatch.setattr(hub_cli, "_hub", lambda *_: Answers())
    with pytest.raises(typer.Exit) as ended:
        hub_cli.receive(tmp_path / "stick", state_dir=tmp_path / "hub")
    assert ended.value.exit_code == 27
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "box-1: 1 new receipts, 0 known"
    assert shown[1] == (
        "  ledger e, up to 9, abababab: 2 has not come; 4 to 8 have not come; "
        "TWO HISTORIES at 1: cloned or put back"
    )
    assert shown[2].startswith("  REFUSED (malformed): ")
    assert shown[3] == "  it asked for the time: the answer lies on the stick"
    answer = tmp_path / "stick" / "dn" / "box-1" / "time.json"
    assert json.loads(answer.read_bytes()) == {"signed": "time"}
