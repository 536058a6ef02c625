"""Devices on a real node: asked for, handed out, refused in words, gone when they are not well."""

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.kube.client import KubeApi
from appliance.kube.resources import DEPLOYMENTS, NODES, PODS
from appliance.ledger.db import Ledger
from appliance.node.gpus import Gpus
from appliance.node.leaving import Leaving
from tests.fakes.device_plugin import FakeDevicePlugin
from tests.fakes.gpus import FakeGpus
from tests.helpers.clusters import Cluster
from tests.helpers.waiting import StillClock, wait_until

Json = dict[str, Any]
GPU, MIG = "nvidia.com/gpu", "nvidia.com/mig-1g.10gb"
IMAGE = "localhost/empty:1"
MOUNTS = {"/usr": "/usr", "/lib": "/usr/lib", "/lib64": "/usr/lib64"}
"""In a container without files of its own: where, and which of the machine's folders."""
FOLDERS = [{"name": f"v{i}", "hostPath": {"path": path}} for i, path in enumerate(MOUNTS.values())]


@pytest.fixture(scope="module")
def sockets(cluster: Cluster) -> Path:
    """The folder in which the kubelet waits for device plugins."""
    if cluster.state is None:
        pytest.skip("a device plugin needs the kubelet's own folder: only on a cluster of this run")
    return cluster.state / "node" / "kubelet" / "device-plugins"


@pytest.fixture(scope="module")
def image(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("empty")
    for name in ("usr", "lib", "lib64"):
        (folder / name).mkdir()
    cluster.call("image", IMAGE.removeprefix("localhost/"), str(folder))
    return IMAGE


@pytest.fixture
def pod(api: KubeApi, namespace: str, image: str) -> Iterator[Callable[..., str]]:
    """Make a pod that asks for devices, and prints its environment; return its path."""
    made: list[str] = []

    def make(**devices: int) -> str:
        limits = {{"gpu": GPU, "mig": MIG}[name]: str(n) for name, n in devices.items()}
        name = f"p-{uuid.uuid4().hex[:8]}"
        container = {**program(image), "resources": {"limits": limits}}
        spec = {
            "containers": [container], "volumes": FOLDERS, "terminationGracePeriodSeconds": 0,
        }  # fmt: skip
        api.create(PODS.path(namespace), {"metadata": {"name": name}, "spec": spec})
        made.append(PODS.path(namespace, name))
        return made[-1]

    yield make
    for path in made:
        api.delete(path)


def program(image: str) -> Json:
    """Return a container that prints its environment, and goes on."""
    return {
        "name": "main",
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["/usr/bin/sh", "-c", "/usr/bin/env; exec /usr/bin/sleep 600"],
        "volumeMounts": [
            {"name": f"v{i}", "mountPath": path, "readOnly": True} for i, path in enumerate(MOUNTS)
        ],
    }


def capacity(api: KubeApi, resource: str) -> int:
    nodes, _ = api.list(NODES.path())
    return sum(int(n["status"]["allocatable"].get(resource, 0)) for n in nodes)


def runs(api: KubeApi, path: str) -> bool:
    return bool(api.get(path)["status"]["phase"] == "Running")


def refusal(api: KubeApi, path: str) -> str:
    """Return why a pod is not on any node, in the scheduler's words."""
    conditions = api.get(path)["status"].get("conditions") or ()
    found = [c for c in conditions if c["type"] == "PodScheduled" and c["status"] == "False"]
    return str(found[0]["message"]) if found else ""


@pytest.mark.parametrize(
    ("what", "resource", "devices"), [("gpu", GPU, ["GPU-a"]), ("mig", MIG, ["MIG-a"])]
)
def test_a_device_is_handed_out_once_and_the_second_to_ask_is_told_why(
    api: KubeApi, sockets: Path, pod: Callable[..., str],
    what: str, resource: str, devices: list[str],
) -> None:  # fmt: skip
    plugin = FakeDevicePlugin(sockets, resource, *devices, variable="NVIDIA_VISIBLE_DEVICES")
    with plugin.running():
        wait_until(lambda: capacity(api, resource) == 1, "the device", 60)
        first = pod(**{what: 1})
        wait_until(lambda: runs(api, first), "the pod", 60)
        assert plugin.allocated == [devices]
        wait_until(
            lambda: f"NVIDIA_VISIBLE_DEVICES={devices[0]}" in api.text(f"{first}/log"), "its log"
        )
        second = pod(**{what: 1})
        wait_until(lambda: refusal(api, second), "the refusal", 60)
        assert f"Insufficient {resource}" in refusal(api, second)
        api.delete(first)
        wait_until(lambda: runs(api, second), "the second, once the first has gone", 90)
        assert plugin.allocated == [devices, devices]


def test_more_than_there_are_is_refused_in_words(
    api: KubeApi, sockets: Path, pod: Callable[..., str]
) -> None:
    with FakeDevicePlugin(sockets, GPU, "GPU-a", variable="X").running() as plugin:
        wait_until(lambda: capacity(api, GPU) == 1, "the device", 60)
        path = pod(gpu=2)
        wait_until(lambda: refusal(api, path), "the refusal", 60)
        assert f"Insufficient {GPU}" in refusal(api, path)
        assert plugin.allocated == []


def test_a_device_that_is_not_well_is_not_there_to_be_asked_for(
    api: KubeApi, sockets: Path, pod: Callable[..., str]
) -> None:
    with FakeDevicePlugin(sockets, GPU, "GPU-a", "GPU-b", variable="X").running() as plugin:
        wait_until(lambda: capacity(api, GPU) == 2, "both devices", 60)
        plugin.set_health("GPU-a", healthy=False)
        wait_until(lambda: capacity(api, GPU) == 1, "one of them", 60)
        path = pod(gpu=1)
        wait_until(lambda: runs(api, path), "the pod", 60)
        assert plugin.allocated == [["GPU-b"]]
        plugin.set_health("GPU-a", healthy=True)
        wait_until(lambda: capacity(api, GPU) == 2, "both again", 60)


def test_an_engine_in_a_pod_leaves_a_fenced_gpu_and_comes_back_elsewhere(
    api: KubeApi, namespace: str, image: str, tmp_path: Path
) -> None:
    """The kubelet's own control groups tell whose the process is."""
    body = deployment("notes-0", image)
    api.create(DEPLOYMENTS.path(namespace), body)
    wait_until(lambda: engine(api, namespace), "the engine", 60)
    first = engine(api, namespace)
    ledger = Ledger(tmp_path / "node.db")
    driver = FakeGpus(["GPU-a"], using={"GPU-a": pids_of(first["metadata"]["uid"])})
    gpus = Gpus(ledger, StillClock(), driver, list)
    leaving = Leaving(api, gpus, namespace=namespace, node=first["spec"]["nodeName"])
    gpus.look_now()
    gpus.fence("GPU-a", "a test says so", "uid 0")
    assert list(gpus.stops()) == ["notes-0"]
    asyncio.run(leaving.look())
    wait_until(lambda: not api.list(PODS.path(namespace))[0], "the end of the pod", 60)
    api.create(DEPLOYMENTS.path(namespace), body)
    wait_until(lambda: engine(api, namespace), "the engine again", 60)
    gpus.look_now()
    assert gpus.stops() == {}
    ledger.close()


def engine(api: KubeApi, namespace: str) -> Json:
    """Return the engine's pod once it runs; nothing before."""
    pods, _ = api.list(PODS.path(namespace))
    return next((p for p in pods if p["status"]["phase"] == "Running"), {})


def pids_of(uid: str) -> frozenset[int]:
    """Return the processes of a pod, as this machine numbers them."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if uid in (folder / "cgroup").read_text():
                found.add(int(folder.name))
    assert found, "no process of the pod is in a control group of its own"
    return frozenset(found)


def deployment(name: str, image: str) -> Json:
    labels = {
        "app.kubernetes.io/managed-by": "edge-appliance",
        "edge-appliance.dev/replica": name,
    }
    spec = {"containers": [program(image)], "volumes": FOLDERS, "terminationGracePeriodSeconds": 0}
    return {
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }
