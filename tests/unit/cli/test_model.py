"""`model add`, `list`, `rm` and `presets`, with and without a controller that runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.gguf import write_small_llama
from tests.helpers.organisation import Organisation

pytestmark = pytest.mark.slow


def appliance(*words: object, code: int = 0) -> tuple[str, str]:
    command = [sys.executable, "-m", "appliance", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


@pytest.fixture
def state(tmp_path: Path, organisation: Organisation) -> Path:
    root = tmp_path / "root.json"
    root.write_bytes(organisation.root)
    appliance("node", "init", "--state-dir", tmp_path / "node", "--name", "box-1", "--root", root)
    return tmp_path / "node"


def test_a_model_is_brought_listed_and_taken_back(state: Path, tmp_path: Path) -> None:
    gguf = write_small_llama(tmp_path / "my-Q4_0.gguf")
    at = ["--state-dir", state]
    out, _ = appliance("model", "add", gguf, "--name", "mine", "--licence", "MIT", *at)
    assert out == "added mine 1.0.0 Q4_0, 4.3 KiB, signed by this site\n"
    out, _ = appliance("model", "list", *at)
    assert "mine   1.0.0    Q4_0     local" in out
    (row,) = json.loads(appliance("model", "list", *at, "--json")[0])["models"]
    assert (row["publisher"], row["licence"], row["file"]) == ("local", "MIT", "my-Q4_0.gguf")
    _, err = appliance("model", "add", gguf, "--name", "mine", *at, code=2)
    assert "try: take another --version" in err
    out, _ = appliance("model", "rm", "mine", "--version", "1.0.0", *at)
    assert out.startswith("removed mine 1.0.0 Q4_0")
    appliance("model", "rm", "mine", *at, code=9)
    assert "the catalogue is empty" in appliance("model", "list", *at)[0]


def test_a_pickle_is_refused_and_a_person_is_told_why(state: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"PK\x03\x04 what torch.save wrote")
    _, err = appliance(
        "model", "add", tmp_path / "model.gguf", "--name", "mine", "--state-dir", state, code=27
    )
    assert err.splitlines()[-2:] == [
        "error[malformed]: model.gguf is a zip, as torch.save writes one around a pickle, "
        "whatever its name says",
        "  try: weights are GGUF or safetensors; convert it where it was made",
    ]


def test_presets_are_listed_by_the_size_of_the_card() -> None:
    out, _ = appliance("model", "presets")
    assert "qwen3-8b" in out
    assert "unverified" in out
    assert "appliance bundle lock DEFINITION" in out
    found = json.loads(appliance("model", "presets", "--json")[0])["presets"]
    assert [preset["gpuMemory"] for preset in found] == ["8Gi", "16Gi", "24Gi", "48Gi", "80Gi"]
