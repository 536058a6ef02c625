"""Where a process stands among the control groups, in either version."""

from collections.abc import Mapping


def parse(text: str) -> dict[str, str]:
    """Return the path in each hierarchy of ``/proc/self/cgroup``; version 2 is under ``""``."""
    found = {}
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            for controller in parts[1].split(","):
                found[controller] = parts[2]
    return found


def levels(groups: Mapping[str, str], controller: str) -> list[str]:
    """Return our group and all above it: every one of them may limit us."""
    path = groups.get(controller)
    if path is None:
        return []
    parts = [part for part in path.split("/") if part and part != ".."]
    return ["/".join(parts[:n]) for n in range(len(parts), -1, -1)]
