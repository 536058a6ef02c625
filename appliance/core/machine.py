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
class GpuLoad:
    """What one GPU does at this moment."""

    uuid: str
    memory_used_bytes: int | None = None
    busy_percent: int | None = None
    celsius: int | None = None
    watts: float | None = None


@dataclass(frozen=True, slots=True)
class GpuSeen:
    """One GPU at one look at its health.

    ``uuid`` is ``None`` when it is there and the driver would not say which one it is. ``lost``: it
    fell off the bus, and nothing but a restart of the machine brings it back.
    """

    index: int
    uuid: str | None
    name: str | None = None
    lost: bool = False


@dataclass(frozen=True, slots=True)
class GpuHealth:
    """One look at the health of all GPUs.

    ``gpus`` is ``None`` when nothing can be said: no driver is loaded, or it would not say. An
    empty tuple is a driver that works and sees no GPU, which is another thing.
    """

    gpus: tuple[GpuSeen, ...] | None
    note: str


@dataclass(frozen=True, slots=True)
class Fence:
    """Why a GPU must not be used until somebody says otherwise."""

    reason: str
    """``Xid``, ``Gone`` or ``Asked``."""
    message: str
    by: str
    at: str

    def to_wire(self) -> dict[str, str]:
        """Return plain JSON data."""
        return {"reason": self.reason, "message": self.message, "by": self.by, "at": self.at}


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """One reading of the machine, with cgroup limits already applied."""

    cpu_model: str | None
    cpus: float | None
    memory_bytes: int | None
    memory_available_bytes: int | None
    gpus: GpuSurvey
