"""What README and examples/ show is what happens."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.core.reading import parse_yaml
from tests.conftest import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
UNTIL = {
    "appliance node run &": "until appliance status >/dev/null 2>&1; do sleep 0.1; done",
    "appliance gateway run &": "until ls node/run/gateway.json >/dev/null 2>&1; do sleep 0.1; done",
}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_valid(example: Path) -> None:
    assert parse_yaml(example.read_text(), example.name)


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="appliance-test-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


@pytest.mark.integration
def test_the_commands_by_hand_end_in_an_answer(folder: Path, demo_weights: Path) -> None:
    assert demo_weights.exists()
    block = re.search(r"## By hand\n\n```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    lines = [line for text in block[1].splitlines() for line in (text, UNTIL.get(text, ""))]
    script = "\n".join(["set -e", "trap 'appliance node stop --engines; kill %2' EXIT", *lines])
    for name in ("bundles", "examples"):
        shutil.copytree(ROOT / name, folder / name)
    environment = {
        **os.environ,
        "APPLIANCE_STATE_DIR": str(folder / "node"),
        "APPLIANCE_HUB_STATE_DIR": str(folder / "hub"),
        "APPLIANCE_GATEWAY_PORT": "0",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        input="Say hi in five words.",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answer = done.stdout.split("ModelDeployment/assistant created", 1)[1]
    assert answer.strip().removesuffix("stopping").strip()
