"""What benchmarks have in common: a row, medians, processes from outside."""

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One figure beside its reference; ``ratio`` is value / reference_value."""

    name: str
    value: float
    unit: str
    reference: str
    reference_value: float
    ratio: float
    target: str
    met: bool


def row(name: str, value: float, unit: str, reference: tuple[str, float], at_most: float) -> Row:
    """Return a row whose ratio must not be above ``at_most``."""
    words, reference_value = reference
    ratio = value / reference_value
    return Row(
        name, value, unit, words, reference_value, ratio, f"<= {at_most:g} x", ratio <= at_most
    )


def at_least(name: str, value: float, unit: str, reference: tuple[str, float], least: float) -> Row:
    """Return a row whose ratio must not be below ``least``."""
    words, reference_value = reference
    ratio = value / reference_value
    return Row(name, value, unit, words, reference_value, ratio, f">= {least:g} x", ratio >= least)


def limit(name: str, value: float, unit: str, at_most: float) -> Row:
    """Return a row whose value must not be above a fixed limit."""
    return row(name, value, unit, ("limit", at_most), 1.0)


def noise() -> str:
    """Return how evenly this machine runs one fixed piece of work."""
    times = [timed(lambda: sum(range(400_000))) * 1000 for _ in range(25)]
    low, middle, high = min(times), statistics.median(times), max(times)
    return f"the same work takes {low:.1f} / {middle:.1f} / {high:.1f} ms (least, median, most)"


def timed(call: Callable[[], object]) -> float:
    """Return the seconds that ``call`` takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def wall_s(command: Sequence[str], runs: int) -> float:
    """Return the median seconds of a whole process, after one run to warm up."""

    def once() -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    once()
    return statistics.median(timed(once) for _ in range(runs))


def pss_bytes(pid: int) -> int:
    """Return a process's proportional set size: shared pages count by their share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"{pid} has no Pss")


def cpu_s(pid: int) -> float:
    """Return the seconds of processor time that a process has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def disk_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
