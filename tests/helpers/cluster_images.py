"""The images that this project builds, made once and loaded into the cluster under test."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import pytest

from appliance import __version__
from appliance.kit.files import locked

_ROOT = Path(__file__).resolve().parent.parent.parent
_CACHE = Path.home() / ".cache" / "edge-ai-appliance" / "test-images"
_INPUTS = {
    "engine-llama-cpp": ("appliance/runtime/workers",),
    "appliance": ("appliance", "pyproject.toml", "bundles/presets"),
}
_OF_ALL = ("images/base", "scripts/images.py")


class AnyCluster(Protocol):
    """``tests.helpers.clusters.Cluster``, as far as it matters here."""

    @property
    def is_ours(self) -> bool: ...
    @property
    def state(self) -> Path | None: ...


def engine_image(cluster: AnyCluster) -> str:
    """Return the name of the llama.cpp image (CPU); on a cluster of ours it is there."""
    return _loaded(cluster, "engine-llama-cpp", "edge-engine-llama-cpp")


def appliance_image(cluster: AnyCluster) -> str:
    """Return the name of the controller's and gateway's image; on a cluster of ours it is there."""
    return _loaded(cluster, "appliance", "edge-appliance")


def pinned(name: str) -> str:
    """Return the same image by digest (``localhost/NAME@sha256:...``)."""
    found: str = _manifest(built(name))["pinned"]
    return found


def _loaded(cluster: AnyCluster, name: str, title: str) -> str:
    if cluster.is_ours:
        assert cluster.state is not None
        _import(cluster.state, built(name) / f"{name}.tar")
    # Else somebody loaded it before: docs/how-to/kubernetes.md says how.
    return f"localhost/{title}:{__version__}"


@cache
def built(name: str) -> Path:
    """Return a folder with the image's archive and SBOM; built unless its inputs were before."""
    folder = _CACHE / f"{name}-{_key(name)}"
    if not folder.exists():
        for tool in ("buildah", "mmdebstrap"):
            if shutil.which(tool) is None:
                pytest.skip(f"{tool} is not installed, so no image can be built")
        _CACHE.mkdir(parents=True, exist_ok=True)
        with locked(_CACHE / "lock", what="building images", wait=True):
            if not folder.exists():
                _build(name, folder)
    return folder


def _build(name: str, folder: Path) -> None:
    work = _CACHE / "build"
    done = subprocess.run(
        [sys.executable, "scripts/images.py", name, "--out", str(work)],
        cwd=_ROOT, env={**os.environ, "PYTHONPATH": str(_ROOT)},
        check=True, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    for suffix in (".tar", ".cdx.json"):
        (work / f"{name}{suffix}").rename(part / f"{name}{suffix}")
    (part / "manifest.json").write_text(done.stdout)
    shutil.rmtree(work / "work" / "storage", ignore_errors=True)
    part.rename(folder)


def _key(name: str) -> str:
    """Hash what goes into an image."""
    digest = hashlib.sha256()
    places = (*_OF_ALL, f"images/{name}", f"requirements/image-{name}.lock", *_INPUTS[name])
    for place in places:
        path = _ROOT / place
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".md":
                digest.update(str(file.relative_to(_ROOT)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def _manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def _import(state: Path, archive: Path) -> None:
    """Import into the node's containerd, whose socket lies in its own mount namespace."""
    pid = json.loads((state / "state.json").read_text())["pids"]["node-init"][0]
    socket = f"/proc/{pid}/root/run/containerd/containerd.sock"
    subprocess.run(
        ["ctr", "--address", socket, "--namespace", "k8s.io", "images", "import", str(archive)],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
