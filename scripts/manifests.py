"""Render each overlay of ``manifests/`` into one file, ``build/manifests/NAME.yaml``.

``k3s.yaml`` is what lies in k3s's manifests folder, which applies it at each start, offline.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
OVERLAYS = ("k3s", "daemonset", "old-server")
OUT = ROOT / "build" / "manifests"


def main() -> int:
    """Render all."""
    OUT.mkdir(parents=True, exist_ok=True)
    for name in OVERLAYS:
        path = OUT / f"{name}.yaml"
        path.write_text(render(name))
        print(path.relative_to(ROOT))
    return 0


def render(overlay: str) -> str:
    """Return an overlay as one text of YAML documents."""
    kubectl = Path(sysconfig.get_path("scripts")) / "kubectl"
    done = subprocess.run(
        [kubectl, "kustomize", ROOT / "manifests" / "overlays" / overlay],
        check=True, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    return without_rules(done.stdout) if overlay == "old-server" else done.stdout


def without_rules(text: str) -> str:
    """Return the manifests without the CEL rules of our kinds.

    A server before 1.25 drops them in silence from what it is sent, but refuses a whole
    server-side apply for them. They are all through the schemas, where no patch reaches.
    """
    bodies = [_without(body, "x-kubernetes-validations") for body in yaml.safe_load_all(text)]
    return yaml.safe_dump_all(bodies, sort_keys=False)


def _without(found: Any, key: str) -> Any:
    if isinstance(found, dict):
        return {k: _without(v, key) for k, v in found.items() if k != key}
    return [_without(v, key) for v in found] if isinstance(found, list) else found


if __name__ == "__main__":
    sys.exit(main())
