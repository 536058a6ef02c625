"""CPU and memory of the host, with the limits of the cgroup that we run in applied."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from appliance.kit import cgroups

N = TypeVar("N", int, float)
_UNLIMITED_V1 = 1 << 60


@dataclass(frozen=True, slots=True)
class Host:
    """``None`` is "not known"."""

    cpu_model: str | None
    cpus: float | None
    memory_bytes: int | None
    memory_available_bytes: int | None


def read_host(root: Path = Path("/")) -> Host:
    """Read the host's facts; ``root`` is where ``proc`` and ``sys`` are."""
    cpuinfo = _text(root / "proc/cpuinfo")
    meminfo = parse_meminfo(_text(root / "proc/meminfo") or "")
    groups = cgroups.parse(_text(root / "proc/self/cgroup") or "")
    limit, quota = _limits(root / "sys/fs/cgroup", groups)
    return Host(
        parse_cpu_model(cpuinfo or ""),
        _smaller(float(len(os.sched_getaffinity(0))), quota),
        _smaller(meminfo.get("MemTotal"), limit),
        _smaller(meminfo.get("MemAvailable"), limit),
    )


@dataclass(frozen=True, slots=True)
class HostLoad:
    """What the host does at this moment; ``load`` is the kernel's mean over a minute."""

    memory_available_bytes: int | None
    load: float | None


def read_load(root: Path = Path("/")) -> HostLoad:
    """Read what the host does now; ``root`` is where ``proc`` is."""
    meminfo = parse_meminfo(_text(root / "proc/meminfo") or "")
    words = (_text(root / "proc/loadavg") or "").split()
    try:
        load = float(words[0])
    except (IndexError, ValueError):
        load = None
    return HostLoad(meminfo.get("MemAvailable"), load)


def parse_cpu_model(text: str) -> str | None:
    """Return the model from ``/proc/cpuinfo``; some architectures do not say."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip() or None
    return None


def parse_meminfo(text: str) -> dict[str, int]:
    """Return the sizes in ``/proc/meminfo`` in bytes."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if len(words) == 2 and words[1] == "kB" and words[0].isdigit():
            found[name] = int(words[0]) * 1024
    return found


def parse_limit(text: str | None) -> int | None:
    """Return a memory limit of either cgroup version in bytes; None when there is none."""
    digits = (text or "").strip()
    if not digits.isdigit():
        return None
    limit = int(digits)
    return limit if limit < _UNLIMITED_V1 else None


def parse_cpu_max(text: str | None) -> float | None:
    """Return the CPUs of version 2's ``cpu.max``, such as ``150000 100000``."""
    words = (text or "").split()
    if len(words) != 2 or not words[0].isdigit() or not words[1].isdigit() or words[1] == "0":
        return None
    return int(words[0]) / int(words[1])


def _limits(mounts: Path, groups: Mapping[str, str]) -> tuple[int | None, float | None]:
    memory: int | None = None
    cpus: float | None = None
    for level in cgroups.levels(groups, ""):
        for mount in (mounts, mounts / "unified"):
            memory = _smaller(memory, parse_limit(_text(mount / level / "memory.max")))
            cpus = _smaller(cpus, parse_cpu_max(_text(mount / level / "cpu.max")))
    for level in cgroups.levels(groups, "memory"):
        path = mounts / "memory" / level / "memory.limit_in_bytes"
        memory = _smaller(memory, parse_limit(_text(path)))
    for level in cgroups.levels(groups, "cpu"):
        folder = mounts / "cpu" / level
        both = f"{_text(folder / 'cpu.cfs_quota_us')} {_text(folder / 'cpu.cfs_period_us')}"
        cpus = _smaller(cpus, parse_cpu_max(both))
    return memory, cpus


def _smaller(one: N | None, other: N | None) -> N | None:
    known = [value for value in (one, other) if value is not None]
    return min(known) if known else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None
