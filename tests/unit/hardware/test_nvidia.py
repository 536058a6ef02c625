"""A driver's answer, and above all what a driver does not say. No GPU is needed: gcc makes one."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, need_tool

SOURCE = Path(__file__).parents[2] / "data" / "nvml" / "fake.c"
GIB = 1 << 30
SURVEY = (
    "import dataclasses, json; from appliance.hardware import nvidia\n"
    "print(json.dumps(dataclasses.asdict(nvidia.survey())))"
)


def survey(folder: Path) -> dict[str, Any]:
    """Return the survey of a process that finds its driver in ``folder``."""
    env = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SURVEY],
        cwd=ROOT, env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def driver(folder: Path, *macros: str) -> dict[str, Any]:
    """Return the survey of a driver that was built with these macros."""
    library = folder / "libnvidia-ml.so.1"
    flags = [f"-D{macro}" for macro in macros]
    subprocess.run(
        [need_tool("gcc"), "-shared", "-fPIC", "-o", library, *flags, SOURCE], check=True
    )
    return survey(folder)


def test_no_driver_means_no_gpus_and_is_no_error(tmp_path: Path) -> None:
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        assert survey(tmp_path) == {"gpus": [], "note": "no NVIDIA driver on this machine"}
    else:
        pytest.skip("this machine has an NVIDIA driver")


def test_two_gpus_are_described(tmp_path: Path) -> None:
    assert driver(tmp_path) == {
        "note": "NVIDIA driver 550.54.15",
        "gpus": [
            {"uuid": f"GPU-0000000{n}", "name": f"Fake L4 #{n}", "memory_kind": "dedicated",
             "memory_bytes": 24 * GIB, "memory_free_bytes": (24 - n) * GIB}
            for n in (1, 2)
        ],
    }  # fmt: skip


def test_what_a_degraded_driver_does_not_say_is_not_known(tmp_path: Path) -> None:
    found = driver(tmp_path, "DEGRADED")
    nothing = {"name": None, "memory_kind": None, "memory_bytes": None, "memory_free_bytes": None}
    assert found["gpus"] == [{"uuid": f"index-{n}", **nothing} for n in (0, 1)]


def test_memory_that_belongs_to_the_host_is_not_zero(tmp_path: Path) -> None:
    for gpu in driver(tmp_path, "UNIFIED")["gpus"]:
        assert (gpu["memory_bytes"], gpu["memory_free_bytes"]) == (None, None)
        assert gpu["name"].startswith("Fake L4")


@pytest.mark.parametrize("macro", ["INIT_FAILS=UNKNOWN", "WITHOUT_COUNT"])
def test_a_driver_that_fails_leaves_the_gpus_unknown_instead_of_none(
    tmp_path: Path, macro: str
) -> None:
    found = driver(tmp_path, macro)
    assert found["gpus"] is None
    assert found["note"].startswith("the NVIDIA driver fails: ")


def test_a_gpu_that_fell_off_the_bus_hides_no_other(tmp_path: Path) -> None:
    first, second = driver(tmp_path, "SECOND_IS_LOST")["gpus"]
    assert first["memory_bytes"] == 24 * GIB
    assert second == {"uuid": "index-1", "name": None, "memory_kind": None, "memory_bytes": None,
                      "memory_free_bytes": None}  # fmt: skip


def test_a_driver_that_is_installed_and_not_loaded_is_no_driver(tmp_path: Path) -> None:
    assert driver(tmp_path, "INIT_FAILS=DRIVER_NOT_LOADED")["gpus"] == []
