"""A weight file's header is read by a process that can do nothing else."""

import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.bundle.format import content
from appliance.bundle.take import headers
from appliance.bundle.take.headers import look_confined
from appliance.bundle.take.intake import Housekeeping
from appliance.core.model import FileKind
from appliance.errors import MalformedError
from tests.conftest import ROOT
from tests.helpers.gguf import small_llama
from tests.helpers.importing import imported, keep_house
from tests.helpers.organisation import Node
from tests.helpers.signing import Draft, Signer

ESCAPES = {
    "a socket": "import socket; socket.socket()",
    "another file": "open('/etc/hostname')",
    "a process": "os.fork()",
    "a program": "os.execv('/bin/true', ['true'])",
    "a signal": "os.kill(os.getppid(), 0)",
    "a file of its own": "os.open('/tmp', os.O_TMPFILE | os.O_RDWR)",
}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(small_llama())
    return path


def test_it_says_what_a_direct_reading_says(weights: Path) -> None:
    with weights.open("rb") as file, weights.open("rb") as again:
        found = look_confined("model.gguf", FileKind.WEIGHT, file)
        assert found == content.look("model.gguf", FileKind.WEIGHT, again)
        assert found.context_max == 8192


def test_what_is_wrong_with_a_file_is_said_as_ever(weights: Path) -> None:
    weights.write_bytes(b"GGUF" + bytes(2))
    with weights.open("rb") as file, pytest.raises(MalformedError, match="ends in the middle"):
        look_confined("model.gguf", FileKind.WEIGHT, file)


@pytest.mark.parametrize("what", ESCAPES)
def test_a_parser_that_was_taken_over_is_killed(what: str) -> None:
    program = (
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from appliance.bundle.take import confined\nimport socket\nconfined.confine()\n"
        f"{ESCAPES[what]}"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], check=False)
    assert done.returncode == -signal.SIGSYS


def test_a_parser_gets_only_so_much_memory() -> None:
    program = (
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from appliance.bundle.take import confined\nconfined.confine()\n"
        "try:\n    bytearray(1 << 30)\nexcept MemoryError:\n    os._exit(7)"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], check=False)
    assert done.returncode == 7


def test_a_parser_that_dies_refuses_the_file(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headers, "_BEGIN", "import os; os.abort(); ")
    with weights.open("rb") as file, pytest.raises(MalformedError, match="ended its reader"):
        look_confined("model.gguf", FileKind.WEIGHT, file)


@pytest.mark.parametrize(
    "answer",
    [
        "[]",
        "7",
        '{"facts":{"format":[],"architecture":null,"context_max":1,"kv_bytes_per_token":1}}',
        '{"facts":{"format":"gguf"}}',
        '{"error":{"code":"no-space"}}',
        "[" * 60_000,
    ],
)
def test_a_parser_that_was_taken_over_is_not_believed(
    weights: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(
        headers, "_BEGIN", f"import os; print({answer!r}, flush=True); os._exit(0); "
    )
    with weights.open("rb") as file, pytest.raises(MalformedError, match="ended its reader"):
        look_confined("model.gguf", FileKind.WEIGHT, file)


def test_a_parser_that_talks_without_an_end_takes_no_memory(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talks = (
        "import sys; sys.path.insert(0, sys.argv[1])\nfrom appliance.bundle.take import confined\n"
        "import os; confined.confine()\nfor _ in range(2000): os.write(1, bytes(1 << 16))\n#"
    )
    monkeypatch.setattr(headers, "_BEGIN", talks)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with weights.open("rb") as file, pytest.raises(MalformedError, match="ended its reader"):
        look_confined("model.gguf", FileKind.WEIGHT, file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # KiB


def test_a_parser_that_never_ends_refuses_the_file(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headers, "_BEGIN", "import time; time.sleep(60); ")
    monkeypatch.setattr(headers, "_MOST_S", 0.2)
    with weights.open("rb") as file, pytest.raises(MalformedError, match="for ever"):
        look_confined("model.gguf", FileKind.WEIGHT, file)


def test_an_import_reads_headers_so_unless_a_test_says_otherwise(
    box: Node, signer: Signer, tmp_path: Path
) -> None:
    assert Housekeeping().look is look_confined
    assert replace(Housekeeping(), look=content.look).look is content.look
    keep_house(box, look=look_confined)
    assert imported(box, Draft().write(tmp_path / "b", signer))[0] == ("small:1.0.0-Q4_0",)
