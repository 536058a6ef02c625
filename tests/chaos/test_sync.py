"""The short form of ``make chaos-sync``."""

import datetime
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos import sync_real, sync_simulation
from tests.conftest import ROOT
from tests.helpers.spools import Request

pytestmark = [pytest.mark.integration, pytest.mark.chaos]


def _made_up_hour() -> list[Request]:
    """Return a trace for machines that have none of the real ones."""
    rng = random.Random(5)  # noqa: S311 - it is to repeat
    return [Request(n * 0.6, rng.randrange(4000), rng.randrange(400)) for n in range(6000)]


def test_an_hour_of_faults_loses_and_doubles_nothing(tmp_path: Path) -> None:
    options = sync_simulation.options_of(["--faults", "400", "--hours", "1", "--nodes", "3"])
    found = sync_simulation.run(tmp_path, _made_up_hour(), options)
    assert found["ok"], found["verdict"]["findings"]
    assert found["faults"] == 400
    assert found["verdict"]["streams"]["usage"]["records"] == 6000


def _written(folder: Path) -> Path:
    """Write the made-up hour as the real traces are written."""
    start = datetime.datetime(2026, 1, 1)  # noqa: DTZ001 - as in the traces
    hour = [(start + datetime.timedelta(seconds=one.at), one) for one in _made_up_hour()]
    rows = [f"{at:%Y-%m-%d %H:%M:%S.%f},{one.prompt},{one.completion}" for at, one in hour]
    text = "\n".join(("TIMESTAMP,ContextTokens,GeneratedTokens", *rows))
    (folder / "AzureLLMInferenceTrace_madeup.csv").write_text(text)
    return folder


def test_kills_and_power_cuts_lose_and_double_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACES", str(_written(tmp_path)))
    if lacking := sync_real.missing():
        pytest.skip(lacking)
    command = [sys.executable, "-m", "tests.chaos.sync_real", "--kills", "6", "--cuts", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n0 lost, 0 doubled, 0 swapped\n" in done.stdout
