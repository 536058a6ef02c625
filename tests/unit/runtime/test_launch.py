"""From an order to an engine that holds its record's lock, and can do nothing else with it."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.core.model import Replica
from appliance.kit.files import is_locked
from appliance.runtime import record
from appliance.runtime.cgroup import memory_group
from appliance.runtime.launch import ALREADY_RUNS, LaunchOrder
from tests.conftest import ROOT
from tests.helpers.models import variant

REPLICA = Replica("small-0", "small", variant(), "llama-cpp", 64, 1, 1 << 29)
HOSTILE = """
cat <&9
for n in 3 4 5 6 7 8; do echo forged >&$n; done 2>/dev/null
echo done >e.sock 2>/dev/null || echo "has no file"
exec sleep 60
"""
DEADLINE_S = 10
GROUP = f"appliance-test-{os.getpid()}"


@pytest.fixture
def state() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:  # not tmp_path, which is closed to other users
        state = Path(name)
        state.chmod(0o755)
        paths = record.paths(state, REPLICA.id)
        for folder in (paths.record.parent, paths.folder, paths.log.parent):
            folder.mkdir(parents=True)
        (state / "weights").write_text("the weights\n")
        yield state
    group = memory_group(GROUP)
    if group is not None:
        group.remove()


def order(state: Path, script: str) -> LaunchOrder:
    paths, shell = record.paths(state, REPLICA.id), shutil.which("sh")
    assert shell is not None
    return LaunchOrder(
        REPLICA.to_wire(), "a shell", [shell], ["-c", script], str(state / "weights"),
        str(paths.record), str(paths.folder), str(paths.log), GROUP,
        61184 if os.geteuid() == 0 else None,
    )  # fmt: skip


@contextmanager
def launched(found: LaunchOrder) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "appliance.runtime.launch"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT) as child:
        assert child.stdin is not None
        child.stdin.write(found.dump())
        child.stdin.close()
        try:
            yield child
        finally:
            child.kill()
            child.wait()


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_engine_holds_its_record_and_cannot_change_what_it_says(state: Path) -> None:
    paths = record.paths(state, REPLICA.id)
    with launched(order(state, HOSTILE)) as child:
        until(lambda: paths.log.exists() and "has no file" in paths.log.read_text())
        (found,) = record.running(state)
        assert (found.process.pid, found.replica) == (child.pid, REPLICA)
        assert "no new privileges" in found.holds
        assert paths.log.read_text().startswith("the weights\n")
        with launched(order(state, "echo two run")) as second:
            assert second.wait(DEADLINE_S) == ALREADY_RUNS
        assert list(record.running(state)) == [found]
    assert not is_locked(paths.record)
    assert list(record.running(state)) == []
