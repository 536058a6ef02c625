"""What an engine gives up before it sees a model: it is hostile until proven otherwise.

As much as this machine allows; what it does not allow is reported, never silently left out. The GPU
driver's ioctls remain a surface that nothing here closes.
"""

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.runtime import landlock

_CLONE_NEWNET, _CLONE_NEWIPC = 0x40000000, 0x08000000
_DEVICES = ("null", "zero", "full", "urandom", "kfd", "dri", "nvidiactl", "nvidia-uvm")
_RIGHTS_OF_A_DEVICE = landlock.WRITE_FILE | landlock.IOCTL_DEV

NOT_YET = "system call filter (comes with provisioning)"


@dataclass(frozen=True, slots=True)
class Containment:
    """What holds, and what does not with the reason."""

    holds: tuple[str, ...]
    missing: tuple[str, ...]


def contain(folder: Path, uid: int | None) -> Containment:
    """Give up rights for good, in this process and all that it starts.

    Args:
        folder: The one folder where the engine may make its socket; its own from now on.
        uid: The engine's own user and group; None when this process may not change user.
    """
    holds: list[str] = []
    missing: list[str] = []

    def attempt(name: str, step: Callable[[], None]) -> None:
        try:
            step()
        except OSError as error:
            missing.append(f"{name} ({error.strerror})")
        else:
            holds.append(name)

    Path("/proc/self/oom_score_adj").write_text("500")  # rather an engine than the controller
    attempt("no network namespace but its own", _leave_network)
    attempt("no new privileges", landlock.no_new_privileges)
    attempt("no writable disk but its socket", lambda: landlock.restrict(_writable(folder)))
    if uid is None:
        missing.append("own user (the controller does not run as root)")
    else:
        attempt("own user", lambda: _become(uid))
    missing.append(NOT_YET)
    return Containment(tuple(holds), tuple(missing))


def _leave_network() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET | _CLONE_NEWIPC) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _writable(folder: Path) -> list[tuple[Path, int]]:
    devices = [Path("/dev") / name for name in _DEVICES]
    devices += sorted(Path("/dev").glob("nvidia[0-9]*"))
    allowed = [(path, _RIGHTS_OF_A_DEVICE) for path in devices if path.exists()]
    return [*allowed, (folder, landlock.MAKE_SOCK | landlock.REMOVE_FILE)]


def _become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
