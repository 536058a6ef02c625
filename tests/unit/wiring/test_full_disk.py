"""A node whose disk is full starts, says so, and refuses what is new; who only reads is served."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.core.ids import NodeId
from appliance.kit.files import free_bytes
from appliance.kit.reserve import FULL_BELOW
from appliance.node import identity
from appliance.wiring.core import open_node
from tests.helpers.disk import fill
from tests.helpers.organisation import Organisation
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def full(disk_of: Callable[[int], Path], organisation: Organisation) -> Path:
    """A node's folder on a disk that holds the reserve and then not one byte more."""
    state = disk_of(100 << 20) / "node"
    identity.create(state, NodeId("box-1"), organisation.root)
    with open_node(state):
        pass
    fill(state)
    assert free_bytes(state) < FULL_BELOW
    return state


def appliance(state: Path, *arguments: object, status: int = 0) -> str:
    command = [sys.executable, "-m", "appliance", *map(str, arguments), "--state-dir", str(state)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@contextmanager
def running(state: Path, *command: str) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "appliance", *command, "--state-dir", str(state)],
        stderr=subprocess.PIPE,
    )
    try:
        yield
    finally:
        process.terminate()
        process.communicate(timeout=30)


def status_of(state: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(appliance(state, "status", "--json"))
    return found


@pytest.mark.parametrize("command", [("node", "run"), ("node", "supervise")])
def test_it_starts_with_the_room_of_its_reserve_and_refuses_what_is_new(
    full: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    with running(full, *command):
        wait_until((full / "run" / "control.sock").exists, "a controller", 30)
        wait_until(lambda: status_of(full)["passes"], "a pass", 30)
        assert status_of(full)["reserve"] is False
        assert not (full / "reserve").exists()
        said = appliance(full, "bundle", "import", tmp_path, status=24)
        assert "the disk is full, so nothing new is begun" in said


def test_who_only_reads_is_served_and_writes_no_index(full: Path, tmp_path: Path) -> None:
    index = full / "store" / "index.json"
    index.write_bytes(b"{}")
    written = index.stat().st_mtime_ns
    stick = tmp_path / "stick"
    stick.mkdir()
    appliance(full, "audit", "verify")
    appliance(full, "audit", "tail")
    appliance(full, "time", "show")
    appliance(full, "sync", "export", stick)
    appliance(full, "backup", tmp_path / "saved")
    assert (index.read_bytes(), index.stat().st_mtime_ns) == (b"{}", written)


def test_the_reserve_is_held_again_by_whoever_opens_the_node_when_there_is_room(
    full: Path,
) -> None:
    with open_node(full) as core:
        assert not core.reserve.is_held
    (full / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,size=200m", full.parent], check=True)
    with open_node(full) as core:
        assert core.reserve.is_held
