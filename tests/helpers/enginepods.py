"""Engines in a cluster under test: real pods with the real small model."""

import asyncio
import os
import shutil
import signal
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from appliance.errors import NotFoundError
from appliance.kube.marks import REVISION
from appliance.kube.pods.driver import KubernetesContext, KubernetesDriver
from appliance.kube.pods.rendering import Owner, PodSettings, Rendering
from appliance.kube.resources import CONFIG_MAPS, DEPLOYMENTS, NODES, PODS, Resource
from appliance.kube.server import detect
from appliance.runtime.driver import Driver
from tests.helpers.cluster_images import engine_image
from tests.helpers.madeup import have_priorities

if TYPE_CHECKING:
    from appliance.kube.client import KubeApi

MODEL = ("small", "1", "Q4_1", "model.gguf")


def lay_out(state: Path, weights: Path) -> Path:
    """Put the model where a node has it; return the folder of models."""
    for folder in (state, *state.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o011)
    file = state.joinpath("models", *MODEL)
    file.parent.mkdir(parents=True)
    shutil.copyfile(weights, file)
    file.chmod(0o444)
    return state / "models"


class EngineWorld:
    """A namespace with an owner for the deployment ``notes``, and models on the nodes' disk."""

    def __init__(self, api: "KubeApi", namespace: str, models: Path, image: str) -> None:
        self.api = api
        self.namespace = namespace
        self.settings = PodSettings(
            namespace, models, image=image, threads=1, cpu_millis=100, settle_s=1, drain_s=2
        )
        self.abilities = detect(api)
        have_priorities(api)
        self.owner = self.make_owner("notes")

    def make_owner(self, name: str) -> Owner:
        """Make an object that stands for a ModelDeployment: what it owns, ends with it."""
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
        made = self.api.create(CONFIG_MAPS.path(self.namespace), body)
        return Owner(name, made["metadata"]["uid"], "v1", "ConfigMap")

    def new(self, **changes: Any) -> KubernetesDriver:
        settings = replace(self.settings, **changes)
        rendering = Rendering(settings, self.abilities)
        owners = {"notes": self.owner}
        return KubernetesDriver(KubernetesContext(self.api, lambda: rendering, owners.get))

    async def crash(self, driver: Driver, replica: str) -> None:
        del driver
        pod = self.pod(replica)
        processes = list(_processes(pod["metadata"]["uid"]))
        if not processes:
            await asyncio.to_thread(self.api.delete, self.path(PODS, pod["metadata"]["name"]))
        for pid in processes:
            os.kill(pid, signal.SIGKILL)

    def is_launching(self, replica: str) -> bool:
        return self.get(DEPLOYMENTS, replica) is not None

    def revision(self, replica: str) -> str:
        found: str = self.pod(replica)["metadata"]["annotations"][REVISION]
        return found

    def identity(self, driver: Driver, replica: str) -> str:
        del driver
        pod = self.pod(replica)
        (container,) = pod["status"]["containerStatuses"]
        return f"{pod['metadata']['uid']} {container['restartCount']}"

    async def clean_up(self) -> None:
        for item in self.api.list(DEPLOYMENTS.path(self.namespace))[0]:
            self.api.delete(self.path(DEPLOYMENTS, item["metadata"]["name"]))

    def path(self, what: Resource, name: str) -> str:
        return what.path(self.namespace, name)

    def get(self, what: Resource, name: str) -> dict[str, Any] | None:
        try:
            return self.api.get(self.path(what, name))
        except NotFoundError:
            return None

    def nodes(self) -> list[dict[str, Any]]:
        return self.api.list(NODES.path())[0]

    def remove_owner(self) -> None:
        self.api.delete(self.path(CONFIG_MAPS, self.owner.name))

    def pods(self, replica: str) -> list[dict[str, Any]]:
        labels = f"edge-appliance.dev/replica={replica}"
        return self.api.list(PODS.path(self.namespace), labels=labels)[0]

    def pod(self, replica: str) -> dict[str, Any]:
        (found,) = (p for p in self.pods(replica) if "deletionTimestamp" not in p["metadata"])
        return found


@pytest.fixture
def engines(
    request: pytest.FixtureRequest, api: "KubeApi", namespace: str, tmp_path: Path
) -> EngineWorld:
    """Engines in the cluster under test.

    Where the nodes' disk is not ours, ``EDGE_TEST_MODELS`` names the folder on it that holds
    ``small/1/Q4_1/model.gguf``.
    """
    cluster = request.getfixturevalue("cluster")
    named = os.environ.get("EDGE_TEST_MODELS")
    image = os.environ.get("EDGE_TEST_ENGINE") or engine_image(cluster)
    if named is None and not (cluster.is_ours or _is_here(api)):
        pytest.skip("the cluster's nodes are other machines, and EDGE_TEST_MODELS is not set")
    models = Path(named) if named else lay_out(tmp_path, request.getfixturevalue("demo_weights"))
    return EngineWorld(api, namespace, models, image)


def _is_here(api: "KubeApi") -> bool:
    """Whether the one node of the cluster is this machine."""
    nodes, _ = api.list(NODES.path())
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return [n["status"]["nodeInfo"]["bootID"] for n in nodes] == [boot]


def _processes(uid: str) -> Iterable[int]:
    """Yield the engines in a pod, where its node is this machine."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if uid in (folder / "cgroup").read_text() and b"--model" in (
                folder / "cmdline"
            ).read_bytes().split(b"\0"):
                yield int(folder.name)
        except OSError:
            continue
