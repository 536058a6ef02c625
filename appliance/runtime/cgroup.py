"""A memory limit by cgroup, version 2 or 1; where neither can be had, a watchdog stands in."""

import contextlib
import os
import signal
import time
from pathlib import Path

from appliance.kit import cgroups

_REMOVE_TRIES, _REMOVE_PAUSE_S = 50, 0.02
_MOUNT = Path("/sys/fs/cgroup")


class MemoryGroup:
    """One cgroup with a memory limit, below the one that this process is in."""

    def __init__(self, folder: Path, limit_file: str) -> None:
        self._folder = folder
        self._limit_file = limit_file

    @property
    def name(self) -> str:
        """How the limit is kept, for people."""
        return "cgroup v2" if self._limit_file == "memory.max" else "cgroup v1"

    def join(self, limit_bytes: int) -> None:
        """Make the group, set its limit and move this process into it.

        Raises:
            OSError: not permitted, or the controller is not there.
        """
        self._folder.mkdir(exist_ok=True)
        (self._folder / self._limit_file).write_text(str(limit_bytes))
        (self._folder / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self) -> None:
        """End what is still in the group and remove it; not being there is not an error.

        An engine may have left a child behind. The kernel lets go of a group a moment after its
        last process has ended.
        """
        for _ in range(_REMOVE_TRIES):
            self._end_members()
            try:
                self._folder.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(_REMOVE_PAUSE_S)
            else:
                return

    def _end_members(self) -> None:
        with contextlib.suppress(OSError):
            for pid in (self._folder / "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)


def memory_group(name: str, mount: Path = _MOUNT) -> MemoryGroup | None:
    """Return the group of this name below ours, or None when we may not make one."""
    try:
        groups = cgroups.parse(Path("/proc/self/cgroup").read_text())
    except OSError:
        return None
    if "memory" in groups:
        parent = mount / "memory" / groups["memory"].lstrip("/")
        limit_file = "memory.limit_in_bytes"
    else:
        parent = mount / groups.get("", "/").lstrip("/")
        limit_file = "memory.max"
        controllers = parent / "cgroup.subtree_control"
        if not controllers.exists() or "memory" not in controllers.read_text().split():
            return None
    return MemoryGroup(parent / name, limit_file) if os.access(parent, os.W_OK) else None
