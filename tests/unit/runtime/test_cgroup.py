"""A memory limit in either version of cgroups, or an honest None."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.kit import cgroups
from appliance.runtime.cgroup import MemoryGroup, memory_group
from tests.conftest import ROOT

JOIN = (
    "import sys; from pathlib import Path; from appliance.runtime.cgroup import memory_group\n"
    "group = memory_group(sys.argv[1]); group.join(64 << 20)\n"
    "print(Path('/proc/self/cgroup').read_text())"
)


def found_in(
    mount: Path, groups: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> MemoryGroup | None:
    """Return the group for a process that stands where ``groups`` says."""
    monkeypatch.setattr(cgroups, "parse", lambda _text: groups)
    return memory_group("engine", mount)


def test_version_1_takes_the_memory_hierarchy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory" / "box").mkdir(parents=True)
    group = found_in(tmp_path, {"memory": "/box", "": "/"}, monkeypatch)
    assert group is not None
    assert group.name == "cgroup v1"
    group.join(1 << 20)
    folder = tmp_path / "memory" / "box" / "engine"
    assert (folder / "memory.limit_in_bytes").read_text() == "1048576"
    assert (folder / "cgroup.procs").read_text() == str(os.getpid())


def test_version_2_needs_the_controller_to_be_handed_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = tmp_path / "a.slice" / "box"
    box.mkdir(parents=True)
    groups = {"": "/a.slice/box"}
    assert found_in(tmp_path, groups, monkeypatch) is None
    (box / "cgroup.subtree_control").write_text("cpu pids\n")
    assert found_in(tmp_path, groups, monkeypatch) is None
    (box / "cgroup.subtree_control").write_text("cpu memory pids\n")
    group = found_in(tmp_path, groups, monkeypatch)
    assert group is not None
    assert group.name == "cgroup v2"
    group.join(1 << 20)
    assert (box / "engine" / "memory.max").read_text() == "1048576"


def test_a_hierarchy_that_is_not_mounted_gives_no_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found_in(tmp_path, {"memory": "/box"}, monkeypatch) is None
    assert found_in(tmp_path, {}, monkeypatch) is None


def test_removing_a_group_twice_is_no_error(tmp_path: Path) -> None:
    group = MemoryGroup(tmp_path / "engine", "memory.max")
    (tmp_path / "engine").mkdir()
    group.remove()
    group.remove()
    assert list(tmp_path.iterdir()) == []


def test_the_kernel_moves_the_process_and_lets_go_of_the_group_after_it() -> None:
    name = f"appliance-test-{os.getpid()}"
    group = memory_group(name)
    if group is None:
        pytest.skip("this process may not make a memory cgroup below its own")
    done = subprocess.run(
        [sys.executable, "-c", JOIN, name], cwd=ROOT, capture_output=True, text=True, check=False
    )
    group.remove()
    assert done.returncode == 0, done.stderr
    assert any(path.endswith(f"/{name}") for path in cgroups.parse(done.stdout).values())
    assert not group._folder.exists()
