"""The store over the local API, and the commands over a node that no controller runs on."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer.testing

from appliance.cli.main import build
from appliance.core.ids import hex_of
from appliance.errors import ApplianceError, CorruptError, NotFoundError, UsageError
from tests.helpers.gguf import write_small_llama
from tests.helpers.organisation import Node, Organisation
from tests.helpers.signing import flip

pytestmark = pytest.mark.slow


class Box:
    """A node that brought one model, closed; and commands over its state folder."""

    def __init__(self, folder: Path, organisation: Organisation, bundle: Path) -> None:
        node = Node.create(folder, organisation.root)
        node.importer.run(bundle, "a test")
        node.close()
        self.state = folder

    def run(self, *words: str) -> Any:
        """Run a store command; return its JSON."""
        return json.loads(self.text(*words, "--json"))

    def text(self, *words: str) -> str:
        runner = typer.testing.CliRunner()
        found = runner.invoke(
            build("store"), ["store", *words, "--state-dir", str(self.state)],
            catch_exceptions=True,
        )  # fmt: skip
        if isinstance(found.exception, ApplianceError):
            raise found.exception
        assert found.exit_code == 0, found.output
        return found.stdout

    def weights(self) -> Path:
        return max((self.state / "store/blobs/sha256").iterdir(), key=lambda p: p.stat().st_size)


@pytest.fixture
def box(tmp_path: Path, organisation: Organisation, small_bundle: Path) -> Box:
    return Box(tmp_path / "box", organisation, small_bundle)


def test_ls_shows_what_is_here_and_who_holds_it(box: Box) -> None:
    bill, held = box.run("ls")["store"]
    assert bill["reference"] == "boms/small/1.0.0/mlbom"
    assert held["reference"] == "small:1.0.0-Q4_0"
    assert [pin["kind"] for pin in held["pins"]] == ["staged"]
    assert held["bytes"] > 4096
    text = box.text("ls")
    assert "staged: here since" in text
    assert "whole" in text


def test_du_counts_no_file_twice(box: Box) -> None:
    before = box.run("du")
    link = box.state / "models" / "small" / "1.0.0" / "Q4_0" / "model.gguf"
    link.parent.mkdir(parents=True)
    link.hardlink_to(box.weights())
    found = box.run("du")
    assert found["store_bytes"] == before["store_bytes"] > 4096
    assert (found["models_bytes"], found["quarantine_bytes"]) == (0, 0)
    assert found["budget_bytes"] is None
    assert "no budget" in box.text("du")


def test_verify_takes_out_what_is_damaged_and_says_what_is_wanted(box: Box) -> None:
    assert box.run("verify", "--all") == {"verified": 6, "bad": {}, "wanted": []}
    assert "verified: 3 of 3" in box.text("verify", "small")
    digest = "sha256:" + box.weights().name
    flip(box.weights())
    with pytest.raises(CorruptError, match="taken out of the store: 1"):
        box.text("verify", "small@1.0.0")
    assert (box.state / "quarantine" / hex_of(digest)).exists()  # type: ignore[arg-type]
    found = box.run("ls")
    assert found["wanted"][0]["digest"] == digest
    assert found["wanted"][0]["models"] == ["small:1.0.0-Q4_0"]
    assert f"wanted again: {digest[:19]}" in box.text("ls")
    with pytest.raises(NotFoundError, match="nothing in the store is 'other'"):
        box.run("verify", "other")
    with pytest.raises(UsageError, match="a name or --all"):
        box.run("verify")


def test_verify_is_not_content_while_a_blob_is_away(box: Box) -> None:
    box.weights().unlink()
    for words in (("--all",), ("small",), ("small",)):
        with pytest.raises(CorruptError, match="models need are not here: 1"):
            box.text("verify", *words)
    assert box.run("verify", "boms/small/1.0.0/mlbom") == {"verified": 3, "bad": {}, "wanted": []}


def test_gc_says_what_and_why_before_it_does_it(box: Box) -> None:
    stray = box.state / "store/blobs/sha256" / ("0" * 64)
    stray.write_bytes(b"x")
    text = box.text("gc", "--dry-run")
    assert f"remove {stray}, 1 B: nothing in the catalogue needs it" in text
    assert "keep small:1.0.0-Q4_0: staged: here since" in text
    assert text.endswith("nothing was removed\n")
    assert stray.exists()
    assert box.text("gc").endswith("freed 1 B\n")
    assert not stray.exists()
    found = box.run("gc")
    assert (found["leftovers"], found["evicted"], found["freed_bytes"]) == ([], [], 0)
    assert [kept["reference"] for kept in found["kept"]] == [
        "boms/small/1.0.0/mlbom",
        "small:1.0.0-Q4_0",
    ]


def test_what_the_site_took_back_goes_although_it_never_ran(box: Box, tmp_path: Path) -> None:
    own = write_small_llama(tmp_path / "own.gguf", b"own" * 4096)
    for words in (("add", str(own), "--name", "mine"), ("rm", "mine")):
        if words[0] == "rm":
            assert "mine:1.0.0-default" in box.text("ls")  # looked at, and so known to be staged
        runner = typer.testing.CliRunner()
        done = runner.invoke(build("model"), ["model", *words, "--state-dir", str(box.state)])
        assert done.exit_code == 0, done.output
    assert box.run("gc")["freed_bytes"] > 12_000
    assert len(box.run("ls")["store"]) == 2


def test_a_pin_is_set_with_its_reason_and_let_go_of(box: Box) -> None:
    assert box.run("pin", "small", "--why", "the auditor comes") == {
        "pinned": ["small:1.0.0-Q4_0"], "why": "the auditor comes",
    }  # fmt: skip
    assert "site-pinned: the auditor comes (uid " in box.text("ls")
    assert "let go of small:1.0.0-Q4_0" in box.text("unpin", "small:1.0.0-Q4_0")
    with pytest.raises(NotFoundError, match="nobody here pinned"):
        box.text("unpin", "small")
    with pytest.raises(NotFoundError):
        box.text("pin", "other", "--why", "x")
    with pytest.raises(UsageError, match="why is not a text"):
        box.text("pin", "small", "--why", " ")
    with pytest.raises(UsageError, match="why holds characters that cannot be shown"):
        box.text("pin", "small", "--why", "red \x1b[31m")
