"""Devices on a real node: asked for, handed out, refused in words, gone when they are not well."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.kube.client import KubeApi
from appliance.kube.resources import NODES, PODS
from tests.fakes.device_plugin import FakeDevicePlugin
from tests.helpers.waiting import wait_until
from tests.k8s.conftest import Cluster

Json = dict[str, Any]
GPU, MIG = "nvidia.com/gpu", "nvidia.com/mig-1g.10gb"
IMAGE = "localhost/empty:1"


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
        mounts = {"/usr": "/usr", "/lib": "/usr/lib", "/lib64": "/usr/lib64"}
        volumes = [
            {"name": f"v{i}", "hostPath": {"path": path}} for i, path in enumerate(mounts.values())
        ]
        container = {
            "name": "main", "image": image, "imagePullPolicy": "Never",
            "command": ["/usr/bin/sh", "-c", "/usr/bin/env; exec /usr/bin/sleep 600"],
            "resources": {"limits": limits},
            "volumeMounts": [
                {"name": f"v{i}", "mountPath": path, "readOnly": True}
                for i, path in enumerate(mounts)
            ],
        }  # fmt: skip
        spec = {
            "containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 0,
        }  # fmt: skip
        api.create(PODS.path(namespace), {"metadata": {"name": name}, "spec": spec})
        made.append(PODS.path(namespace, name))
        return made[-1]

    yield make
    for path in made:
        api.delete(path)


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
