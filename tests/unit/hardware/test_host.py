"""The host's facts, from captured text and from cgroup trees of both versions."""

import os
from pathlib import Path

import pytest

from appliance.hardware import host, probe
from appliance.hardware.host import Host

DATA = Path(__file__).parents[2] / "data" / "proc"
TOTAL, AVAILABLE = 24_684_096 << 10, 24_090_248 << 10
CPUS = float(len(os.sched_getaffinity(0)))
GIB = 1 << 30


def tree(root: Path, groups: str, files: dict[str, str]) -> Path:
    """Make the part of a file system that the reader looks at."""
    found = {
        "proc/cpuinfo": (DATA / "amd-cpuinfo.txt").read_text(),
        "proc/meminfo": (DATA / "meminfo.txt").read_text(),
        "proc/self/cgroup": groups,
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }
    for name, text in found.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("name", "model"),
    [("amd", "AMD EPYC"), ("pi", "Raspberry Pi 5 Model B Rev 1.0"), ("arm", None)],
)
def test_the_processor_is_named_where_the_kernel_names_it(name: str, model: str | None) -> None:
    assert host.parse_cpu_model((DATA / f"{name}-cpuinfo.txt").read_text()) == model


def test_sizes_of_memory_are_read_in_bytes() -> None:
    found = host.parse_meminfo((DATA / "meminfo.txt").read_text())
    assert (found["MemTotal"], found["MemAvailable"]) == (TOTAL, AVAILABLE)
    assert "HugePages_Total" not in found  # a count, not a size


@pytest.mark.parametrize(
    ("text", "limit"),
    [("max\n", None), ("1073741824\n", GIB), ("9223372036854771712\n", None), ("", None),
     (None, None), ("0\n", 0), ("-1\n", None)],
)  # fmt: skip
def test_a_memory_limit_is_a_number_or_none(text: str | None, limit: int | None) -> None:
    assert host.parse_limit(text) == limit


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("150000 100000\n", 1.5), ("max 100000\n", None), ("-1 100000", None), ("1 0", None),
     ("50000", None), ("", None), (None, None), ("None None", None)],
)  # fmt: skip
def test_a_cpu_quota_is_a_number_of_cpus_or_none(text: str | None, cpus: float | None) -> None:
    assert host.parse_cpu_max(text) == cpus


def test_without_limits_the_host_is_as_large_as_it_says(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/\n", {})
    assert host.read_host(root) == Host("AMD EPYC", CPUS, TOTAL, AVAILABLE)


V2 = "0::/a.slice/b.service\n"
V1 = "4:memory:/box/a\n3:cpu,cpuacct:/box\n0::/\n"


@pytest.mark.parametrize(
    ("groups", "files", "memory", "cpus"),
    [
        (V2, {"a.slice/b.service/memory.max": f"{2 * GIB}\n"}, 2 * GIB, CPUS),
        (V2, {"a.slice/b.service/memory.max": "max\n", "a.slice/memory.max": f"{GIB}\n"},
         GIB, CPUS),
        (V2, {"a.slice/b.service/memory.max": f"{GIB}\n", "a.slice/memory.max": f"{3 * GIB}\n"},
         GIB, CPUS),
        (V2, {"a.slice/cpu.max": "50000 100000\n", "cpu.max": "max 100000\n"}, TOTAL, 0.5),
        (V2, {"other.slice/memory.max": "1\n"}, TOTAL, CPUS),
        (V2, {"a.slice/memory.max": f"{1000 * GIB}\n"}, TOTAL, CPUS),
        (V1, {"memory/box/a/memory.limit_in_bytes": "9223372036854771712\n",
              "memory/box/memory.limit_in_bytes": f"{2 * GIB}\n"}, 2 * GIB, CPUS),
        (V1, {"cpu/box/cpu.cfs_quota_us": "25000\n", "cpu/box/cpu.cfs_period_us": "100000\n"},
         TOTAL, 0.25),
        (V1, {"cpu/box/cpu.cfs_quota_us": "-1\n", "cpu/box/cpu.cfs_period_us": "100000\n"},
         TOTAL, CPUS),
        (V1, {"unified/memory.max": f"{GIB}\n"}, GIB, CPUS),  # the hybrid layout
        # Inside a container the path is the host's; the group is mounted as the root.
        ("0::/kubepods/pod1/c1\n", {"memory.max": f"{GIB}\n"}, GIB, CPUS),
    ],
)  # fmt: skip
def test_the_narrowest_limit_of_our_groups_holds(
    tmp_path: Path, groups: str, files: dict[str, str], memory: int, cpus: float
) -> None:
    found = host.read_host(tree(tmp_path, groups, files))
    assert (found.memory_bytes, found.cpus) == (memory, cpus)
    assert found.memory_available_bytes == min(AVAILABLE, memory)


def test_what_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    assert host.read_host(tmp_path) == Host(None, CPUS, None, None)


def test_a_name_that_is_no_text_does_not_hide_the_rest(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/\n", {})
    (root / "proc/cpuinfo").write_bytes(b"model name\t: Fast\xff\n")
    assert host.read_host(root) == Host("Fast�", CPUS, TOTAL, AVAILABLE)


def test_this_machine_gives_one_reading() -> None:
    found = probe.machine()
    assert found.cpus is not None
    assert 0 < found.cpus <= CPUS
    assert found.memory_bytes is None or found.memory_bytes > 1 << 20
    assert found.gpus.note


def test_what_the_host_does_now_is_read_and_what_it_does_not_say_is_not_known(
    tmp_path: Path,
) -> None:
    assert host.read_load(tmp_path) == host.HostLoad(None, None)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8 kB\nMemAvailable: 5 kB\n")
    (tmp_path / "proc/loadavg").write_text("1.25 0.50 0.25 2/345 678\n")
    assert host.read_load(tmp_path) == host.HostLoad(5120, 1.25)
    (tmp_path / "proc/loadavg").write_text("many\n")
    assert host.read_load(tmp_path).load is None
