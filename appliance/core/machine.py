"""What a machine has. ``None`` always means "not known", never zero."""

from dataclasses import dataclass
from enum import StrEnum


class MemoryKind(StrEnum):
    """Where a GPU's memory is: its own, or a share of the host's."""

    DEDICATED = "dedicated"
    UNIFIED = "unified"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as its driver describes it."""

    uuid: str
    name: str | None
    memory_kind: MemoryKind | None
    memory_bytes: int | None
    memory_free_bytes: int | None


@dataclass(frozen=True, slots=True)
class GpuSurvey:
    """What could be learnt about GPUs.

    ``gpus`` is ``None`` when a driver is there but would not say; an empty tuple means that no
    driver is installed, which is a normal answer. ``note`` says in words how we know.
    """

    gpus: tuple[Gpu, ...] | None
    note: str


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """One reading of the machine, with cgroup limits already applied."""

    cpu_model: str | None
    cpus: float | None
    memory_bytes: int | None
    memory_available_bytes: int | None
    gpus: GpuSurvey
