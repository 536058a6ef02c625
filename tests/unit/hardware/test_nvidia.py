"""A driver's answer, and above all what a driver does not say. No GPU is needed: gcc makes one."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import ApplianceError, NotFoundError
from appliance.hardware import nvidia
from tests.conftest import ROOT, need_tool

pytestmark = pytest.mark.slow


SOURCE = Path(__file__).parents[2] / "data" / "nvml" / "fake.c"
LOOK = SOURCE.with_name("look.py")
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


def look(folder: Path, *macros: str, **env: str) -> dict[str, Any]:
    """Return what a process sees of the health of these GPUs."""
    driver(folder, *macros)
    noisy = "FAKE_XID" in env or "WAIT_FAILS" in macros
    done = subprocess.run(
        [sys.executable, "-W", "error", LOOK, *(["noisy"] if noisy else [])],
        cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(ROOT), **env},
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_gpus_that_are_well_are_seen_and_watched(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert [(g["uuid"], g["lost"]) for g in found["health"]["gpus"]] == [
        ("GPU-00000001", False), ("GPU-00000002", False),
    ]  # fmt: skip
    assert found["watched"] == ["GPU-00000001", "GPU-00000002"]
    assert found["note"] == "XID errors of 2 GPUs are watched"


def test_an_xid_error_is_heard_of_with_its_gpu(tmp_path: Path) -> None:
    assert look(tmp_path, FAKE_XID="79")["heard"] == [["GPU-00000001", 79]]


def test_a_gpu_that_sends_no_events_is_not_watched_and_hides_no_other(tmp_path: Path) -> None:
    found = look(tmp_path, "SECOND_HAS_NO_EVENTS")
    assert found["watched"] == ["GPU-00000001"]
    assert found["note"] == (
        "XID errors of 1 GPUs are watched; not of GPU-00000002 (Not Supported)"
    )


def test_a_driver_without_the_calls_leaves_health_not_known(tmp_path: Path) -> None:
    found = look(tmp_path, "WITHOUT_EVENTS", "WITHOUT_PROCESSES")
    assert found["watched"] == []
    assert found["note"].startswith("XID errors are not watched: the NVIDIA driver fails: ")
    assert found["processes"] == {"GPU-00000001": None, "GPU-00000002": None}


def test_a_degraded_driver_names_no_gpu_and_calls_none_lost(tmp_path: Path) -> None:
    found = look(tmp_path, "DEGRADED")
    assert [(g["uuid"], g["lost"]) for g in found["health"]["gpus"]] == [(None, False)] * 2
    assert found["watched"] == []


@pytest.mark.parametrize(
    ("macro", "uuid"), [("SECOND_IS_LOST", None), ("SECOND_FELL_OFF", "GPU-00000002")]
)
def test_a_gpu_that_is_lost_is_told_apart(tmp_path: Path, macro: str, uuid: str | None) -> None:
    first, second = look(tmp_path, macro)["health"]["gpus"]
    assert (first["uuid"], first["lost"]) == ("GPU-00000001", False)
    assert (second["uuid"], second["lost"]) == (uuid, True)


def test_a_driver_that_fails_says_nothing_of_health(tmp_path: Path) -> None:
    found = look(tmp_path, "INIT_FAILS=UNKNOWN")
    assert found["health"] == {"gpus": None, "note": "the NVIDIA driver fails: Unknown Error"}
    assert found["processes"] == {}


def test_who_computes_on_a_gpu_is_told_by_pid(tmp_path: Path) -> None:
    found = look(tmp_path, FAKE_PID="4711")
    assert found["processes"] == {"GPU-00000001": [4711], "GPU-00000002": []}


def test_what_each_gpu_does_now_is_measured(tmp_path: Path) -> None:
    assert look(tmp_path)["loads"] == [
        {"uuid": f"GPU-0000000{n}", "memory_used_bytes": n * GIB, "busy_percent": 10 * n,
         "celsius": 60 + n, "watts": 72.5 * n}
        for n in (1, 2)
    ]  # fmt: skip


def test_what_a_driver_does_not_measure_is_not_known(tmp_path: Path) -> None:
    unknown = {"busy_percent": None, "celsius": None, "watts": None}
    assert look(tmp_path, "WITHOUT_LOADS", "UNIFIED")["loads"] == [
        {"uuid": f"GPU-0000000{n}", "memory_used_bytes": None, **unknown} for n in (1, 2)
    ]
    assert look(tmp_path, "INIT_FAILS=UNKNOWN")["loads"] == []


def test_a_wait_that_fails_asks_for_a_look_and_spins_not(tmp_path: Path) -> None:
    assert look(tmp_path, "WAIT_FAILS")["troubles"] == 1


def test_a_reset_goes_through_nvidia_smi_and_its_words_are_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool, log = tmp_path / "nvidia-smi", tmp_path / "log"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    tool.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec 2>&1; echo In use; exit $FAKE_EXIT\n')
    tool.chmod(0o755)
    monkeypatch.setenv("FAKE_EXIT", "0")
    nvidia.reset("GPU-1")
    assert log.read_text() == "--gpu-reset -i GPU-1\n"
    monkeypatch.setenv("FAKE_EXIT", "19")
    with pytest.raises(ApplianceError, match="could not reset GPU-1: In use"):
        nvidia.reset("GPU-1")
    tool.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotFoundError, match="nvidia-smi cannot be run"):
        nvidia.reset("GPU-1")
