"""A real API server, and a namespace for each test: fixtures of ``tests/conftest.py``.

``KUBECONFIG`` names the cluster, else the script that ``CLUSTER`` names (beside the project:
``../shared/k8s/cluster``) starts one with a node and a pod network: one for the whole run.
"""

import os
import shlex
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from appliance.kube.client import KubeApi

_ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = Path(os.environ.get("CLUSTER", _ROOT.parent / "shared" / "k8s" / "cluster"))


@dataclass(frozen=True)
class Cluster:
    """How to reach a cluster; ``script`` and ``state`` only when this run started it."""

    kubeconfig: Path
    script: Path | None = None
    name: str = ""
    state: Path | None = None

    @property
    def is_ours(self) -> bool:
        """Whether tests may stop, wipe and kill its parts."""
        return self.script is not None

    def call(self, *arguments: str) -> str:
        """Call the script for this cluster."""
        assert self.script is not None
        done = subprocess.run(
            [str(self.script), "--name", self.name, *arguments],
            check=True, text=True, stdout=subprocess.PIPE,
        )  # fmt: skip
        return done.stdout


def start_cluster(name: str, *arguments: str) -> Cluster:
    """Start a cluster with the script; who asks for it takes it down."""
    done = subprocess.run(
        [str(SCRIPT), "--name", name, "up", *arguments],
        check=True, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    (line,) = (x for x in done.stdout.splitlines() if x.startswith("export KUBECONFIG="))
    kubeconfig = Path(shlex.split(line)[1].partition("=")[2])
    return Cluster(kubeconfig, SCRIPT, name, kubeconfig.parent)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if named := os.environ.get("KUBECONFIG"):
        yield Cluster(Path(named))
        return
    if not SCRIPT.exists():
        pytest.skip(f"KUBECONFIG names no cluster, and there is no {SCRIPT.name} script beside us")
    if os.geteuid() != 0:
        pytest.skip("KUBECONFIG names no cluster, and only root can start one with a node")
    name = f"t{os.getpid()}"
    try:
        yield start_cluster(name, "--pod-network")
    finally:
        subprocess.run([str(SCRIPT), "--name", name, "down"], check=False)


@pytest.fixture(scope="session")
def kubeconfig(cluster: Cluster) -> Path:
    return cluster.kubeconfig


@pytest.fixture(scope="session")
def api(kubeconfig: Path) -> "Iterator[KubeApi]":
    from appliance.kube.client import KubeApi  # noqa: PLC0415 - 38 MiB, where a test asks for it

    found = KubeApi.connect(kubeconfig, manager="edge-appliance")
    yield found
    found.close()


@pytest.fixture(scope="session")
def definitions(api: "KubeApi") -> bool:
    """Our kinds are there; return whether the server checks their rules itself."""
    from tests.helpers.definitions import install  # noqa: PLC0415 - needs tests.conftest

    return install(api)


@pytest.fixture
def namespace(api: "KubeApi") -> Iterator[str]:
    from appliance.kube.resources import NAMESPACES  # noqa: PLC0415 - as above

    name = f"t-{uuid.uuid4().hex[:8]}"
    api.create(NAMESPACES.path(), {"metadata": {"name": name}})
    yield name
    api.delete(NAMESPACES.path(name=name))
