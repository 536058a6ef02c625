"""A process that gives up its rights as an engine does, and then says what it can still do.

Run as ``python -m tests.helpers.contained ORDER``, with an order in JSON; it prints a report.
"""

import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from appliance.runtime import contain, landlock

_PR_SET_DUMPABLE = 4


def main() -> None:
    order: dict[str, Any] = json.loads(sys.argv[1])
    folder, outside = Path(order["folder"]), Path(order["outside"])
    already_open = (outside / "log").open("a")
    if order["without_privilege"]:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1)  # as a process is that was started so
    elif order["uid"] is not None and os.geteuid() == 0:
        os.chown(folder, order["uid"], order["uid"])
    os.chdir(folder)  # as the launcher does: the folders above may be closed to the engine's user
    groups_before = os.getgroups()
    found = contain.contain(folder, order["uid"])
    report = {
        **asdict(found),
        "landlock": landlock.abi(),
        "uids": os.getresuid(),
        "groups_before": groups_before,
        "groups": os.getgroups(),
        "oom_score_adj": int(Path("/proc/self/oom_score_adj").read_text()),
        "no_new_privs": "NoNewPrivs:\t1" in Path("/proc/self/status").read_text(),
        "interfaces": [name for _, name in socket.if_nameindex()],
        "tries": {name: _try(step) for name, step in _steps(order, outside).items()},
    }
    already_open.write("still written\n")
    already_open.close()
    print(json.dumps(report))  # noqa: T201 - its report


def _steps(order: dict[str, Any], outside: Path) -> dict[str, Callable[[], object]]:
    return {
        "read": (outside / "weights").read_bytes,
        "make a socket": lambda: _listen(socket.AF_UNIX, "e.sock"),
        "make it again": _listen_again,
        "write to null": lambda: Path(os.devnull).write_bytes(b"x"),
        "write inside": lambda: Path("file").write_bytes(b""),
        "make a folder inside": lambda: Path("more").mkdir(),
        "make a link inside": lambda: Path("link").symlink_to("/etc"),
        "write outside": lambda: (outside / "weights").write_bytes(b"bad"),
        "make a file outside": (outside / "new").touch,
        "truncate outside": lambda: os.truncate(outside / "weights", 0),
        "remove outside": (outside / "weights").unlink,
        "rename outside": lambda: (outside / "weights").rename(outside / "other"),
        "make a socket outside": lambda: _listen(socket.AF_UNIX, str(outside / "e.sock")),
        "connect by TCP": lambda: _connect(socket.AF_INET, ("127.0.0.1", order["port"])),
        "listen by TCP": lambda: _listen(socket.AF_INET, ("127.0.0.1", order["free_port"])),
        "connect to an abstract socket": lambda: _connect(socket.AF_UNIX, "\0" + order["abstract"]),
        "signal its parent": lambda: os.kill(os.getppid(), signal.SIGCONT),
        "become root": lambda: os.setresuid(0, 0, 0),
    }


def _listen(family: int, address: str | tuple[str, int]) -> None:
    with socket.socket(family) as sock:
        sock.bind(address)
        sock.listen()


def _listen_again() -> None:
    Path("e.sock").unlink()
    _listen(socket.AF_UNIX, "e.sock")


def _connect(family: int, address: str | tuple[str, int]) -> None:
    with socket.socket(family) as sock:
        sock.settimeout(5)
        sock.connect(address)


def _try(step: Callable[[], object]) -> bool:
    try:
        step()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
