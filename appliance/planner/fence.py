"""Which GPUs must not be used, and what has to leave them.

A fence is cheap to set and only a person lifts it: a GPU that has failed once fails again under
load, and each time takes a request with it. So every XID fences but those that NVIDIA itself calls
errors of the application, and a GPU that is known and not there any more is fenced too. What
nobody could read is "not known": it neither fences nor heals.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from appliance.core.machine import Gpu, GpuHealth

APPLICATION_XIDS: Mapping[int, str] = {
    13: "graphics engine exception",
    31: "GPU memory page fault",
    43: "GPU stopped processing",
    45: "preemptive cleanup after an earlier error",
    68: "video processor exception",
    109: "context switch timeout",
}
"""XIDs that a faulty program causes on a GPU that is healthy.

The list is the one that NVIDIA's own device plugin and DRA driver pass over
(github.com/NVIDIA/k8s-device-plugin ``internal/rm/health.go``; NVIDIA/k8s-dra-driver-gpu
``cmd/gpu-kubelet-plugin/device_health.go``), after docs.nvidia.com/deploy/xid-errors, "Xid error
listing". The engine that caused one is ended by the driver and started again as any other.
"""

XID, GONE, ASKED = "Xid", "Gone", "Asked"
"""The reasons of a fence."""


@dataclass(frozen=True, slots=True)
class Owner:
    """How a replica's processes are told: its engine's pid, or a mark in their control group.

    The mark is the name of an engine's own group, or the UID of a pod.
    """

    replica: str
    pid: int | None = None
    mark: str = ""


def of_xid(xid: int) -> str:
    """Return why an XID fences its GPU; empty when it is the application's error."""
    if xid in APPLICATION_XIDS:
        return ""
    return f"XID {xid}: the driver reported a critical error of this GPU"


def gone(remembered: Iterable[str], seen: GpuHealth) -> dict[str, str]:
    """Return which of the GPUs that were seen once are gone, and why we say so.

    A GPU that the driver calls lost is gone. One that is missing is gone too, but only when the
    driver could name all that it sees: one that is there and would not say its UUID may be it.
    """
    if seen.gpus is None:
        return {}
    lost = {gpu.uuid for gpu in seen.gpus if gpu.lost and gpu.uuid is not None}
    present = {gpu.uuid for gpu in seen.gpus} - lost
    found = {}
    all_named = all(gpu.uuid is not None or gpu.lost for gpu in seen.gpus)
    for uuid in remembered:
        if uuid in lost:
            found[uuid] = "the driver says that this GPU is lost: it fell off the bus"
        elif uuid not in present and all_named:
            found[uuid] = f"this GPU is gone: the driver sees {len(present - {None})} without it"
    return found


def usable(gpus: Iterable[Gpu], fenced: Collection[str]) -> tuple[Gpu, ...]:
    """Return the GPUs that something may be placed on."""
    return tuple(gpu for gpu in gpus if gpu.uuid not in fenced)


def owner(pid: int, cgroup: str, owners: Iterable[Owner]) -> str | None:
    """Return whose process this is; None when it is nobody's that we know.

    Args:
        pid: The process, as the driver names it.
        cgroup: Its ``/proc/PID/cgroup``; empty when it could not be read.
        owners: The replicas that run.
    """
    where = _even(cgroup)
    for found in owners:
        if found.pid == pid or (found.mark and _even(found.mark) in where):
            return found.replica
    return None


def to_stop(
    users: Mapping[str, Collection[str] | None], fenced: Mapping[str, str]
) -> dict[str, str]:
    """Return which replicas must leave their GPU, and why.

    Args:
        users: The replicas on each GPU, by its UUID; None: not known.
        fenced: Why each GPU is fenced, by UUID.
    """
    return {
        replica: f"GPU {uuid} is fenced: {fenced[uuid]}"
        for uuid in sorted(fenced)
        for replica in sorted(users.get(uuid) or ())
    }


def _even(text: str) -> str:
    """A slice of systemd writes the UID of a pod with ``_`` where others write ``-``."""
    return text.replace("_", "-")
