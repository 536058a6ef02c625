"""What this machine's kubelet watches: its file systems, and its thresholds of eviction."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from appliance.planner.pressure import K3S_DEFAULTS, KUBELET_DEFAULTS, Watched

_K3S = "var/lib/rancher/k3s"
_ROOTS = ("var/lib/kubelet",)
_IMAGES = (f"{_K3S}/agent/containerd", "var/lib/containerd", "var/lib/containers/storage")
_CONFIGURED = (f"{_K3S}/agent/etc/kubelet.conf.d", "var/lib/kubelet/config.yaml")

Thresholds = tuple[Mapping[str, str], ...]


def thresholds(configured: Mapping[str, Any] | None, root: Path = Path("/")) -> Thresholds:
    """Return the thresholds of eviction, hard and soft.

    Args:
        configured: The kubelet's own word (``configz``), which wins; None when nobody could ask.
        root: Where the machine's files are. Drop-ins are read in the order of their names, as the
            kubelet does it; where nothing says anything the documented defaults hold.
    """
    found = dict(configured) if configured is not None else _from_files(root)
    hard = found.get("evictionHard")
    if not isinstance(hard, Mapping):
        hard = K3S_DEFAULTS if (root / _K3S).exists() else KUBELET_DEFAULTS
    soft = found.get("evictionSoft")
    return (hard, soft) if isinstance(soft, Mapping) else (hard,)


def watched(store: Path, root: Path = Path("/")) -> Watched | None:
    """Return what the kubelet watches of the file system below ``store``.

    ``None`` when none of the kubelet's folders can be seen from here, as in a pod.
    """
    node = [root / path for path in _ROOTS if (root / path).exists()]
    images = [root / path for path in _IMAGES if (root / path).exists()]
    if not node and not images:
        return None
    try:
        device, room = store.stat().st_dev, os.statvfs(store)
        signals = {"nodefs"} if _on(device, node) else set()
        # Without a disk of their own images lie with the rest, and both signals are of that one.
        if _on(device, images or node):
            signals.add("imagefs")
    except OSError:
        return None
    return Watched(room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize, frozenset(signals))


def _on(device: int, folders: Iterable[Path]) -> bool:
    return any(folder.stat().st_dev == device for folder in folders)


def _from_files(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in (root / name for name in _CONFIGURED):
        for file in sorted(path.glob("*.conf")) if path.is_dir() else [path]:
            try:
                said = yaml.safe_load(file.read_text())
            except (OSError, UnicodeDecodeError, yaml.YAMLError):
                continue
            if isinstance(said, dict):
                found.update({k: v for k, v in said.items() if k.startswith("eviction")})
    return found
