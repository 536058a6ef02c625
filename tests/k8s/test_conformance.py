"""The checklist against a real server, by the command."""

import json
import subprocess
import sys
from pathlib import Path

import yaml

from appliance.kube.client import KubeApi
from appliance.kube.conformance.run import run
from tests.conftest import ROOT
from tests.unit.kube.test_conformance import validate


def test_the_command_answers_all_of_it_and_changes_nothing(
    kubeconfig: Path, tmp_path: Path
) -> None:
    output = tmp_path / "PRODUCT.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "appliance", "conformance", "--kubeconfig", kubeconfig,
         "--output", output, "--json"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    validate(output, found["checklist"])
    written = yaml.safe_load(output.read_text())
    assert written["metadata"]["kubernetesVersion"] == ".".join(found["server"].split(".")[:2])


def test_it_takes_few_calls(api: KubeApi) -> None:
    before = api.calls
    assert len(run(api).answers) >= 14
    assert api.calls - before <= 40


def test_a_server_that_is_away_is_an_error_of_its_own(tmp_path: Path, kubeconfig: Path) -> None:
    gone = yaml.safe_load(kubeconfig.read_text())
    gone["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    (tmp_path / "config").write_text(yaml.safe_dump(gone))
    done = subprocess.run(
        [sys.executable, "-m", "appliance", "conformance", "--kubeconfig", tmp_path / "config"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 7
    assert "error[peer-unreachable]" in done.stderr
