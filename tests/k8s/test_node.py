"""The real model, in pods of the images that this project builds, on a real node.

What kills the node's own parts needs the cluster that the tests start; the rest runs on any cluster
of which this machine is a node.
"""

import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.kube.client import KubeApi
from appliance.kube.resources import NODES, PODS, Resource
from tests.conftest import ROOT, need_tool
from tests.fakes.device_plugin import FakeDevicePlugin
from tests.helpers.clusters import Cluster
from tests.helpers.organisation import Organisation
from tests.helpers.traffic import Gateway, Traffic
from tests.helpers.waiting import wait_until
from tests.k8s.wholenode import ENGINES, SYSTEM, WholeNode, is_ready

log = logging.getLogger(__name__)
Json = dict[str, Any]
GPU = "nvidia.com/gpu"
ENDPOINTS = Resource("", "v1", "endpoints", "Endpoints")
NVML = ROOT / "tests" / "data" / "nvml" / "fake.c"
KUBECTL = Path(sysconfig.get_path("scripts")) / "kubectl"
READY_S = 90
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def node(
    cluster: Cluster,
    api: KubeApi,
    organisation: Organisation,
    demo_weights: Path,
) -> Iterator[WholeNode]:
    assert demo_weights.exists()
    # Not pytest's own folder: that is shut again for all others whenever another run begins.
    with tempfile.TemporaryDirectory(prefix="appliance-test-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        environment = two_gpus(folder) if cluster.is_ours else {}
        with WholeNode(cluster, api, organisation, folder, **environment) as made:
            yield made


@pytest.fixture(scope="module")
def assistant(node: WholeNode) -> str:
    """A deployment that serves."""
    node.apply("assistant")
    wait_until(lambda: node.is_ready("assistant"), "the assistant", READY_S)
    return "assistant"


def two_gpus(folder: Path) -> dict[str, str]:
    """Build a driver that tells of two GPUs, and return the environment in which it is found."""
    library = folder / "nvml" / "libnvidia-ml.so.1"
    library.parent.mkdir()
    subprocess.run([need_tool("gcc"), "-shared", "-fPIC", "-o", library, NVML], check=True)
    return {"LD_LIBRARY_PATH": str(library.parent)}


def kubectl(node: WholeNode, *arguments: str) -> str:
    done = subprocess.run(
        [KUBECTL, "--kubeconfig", node.cluster.kubeconfig, *arguments],
        check=True, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    return done.stdout


def ask(node: WholeNode, model: str) -> str:
    """Return what the model says, all of it at once."""
    body = {"model": model, "messages": QUESTION, "max_tokens": 16, "temperature": 0}
    answer = node.gateway().call("POST", "/v1/chat/completions", body)
    return str(answer["choices"][0]["message"]["content"])


def stream(node: WholeNode, model: str) -> list[str]:
    """Return what the model says, as it came piece by piece."""
    body = {
        "model": model, "messages": QUESTION, "max_tokens": 16, "temperature": 0, "stream": True,
    }  # fmt: skip
    connection = http.client.HTTPConnection(*node.address, timeout=60)
    headers = {"Authorization": f"Bearer {node.key}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    events = connection.getresponse().read().decode().split("\n\n")
    connection.close()
    assert events[-2:] == ["data: [DONE]", ""]
    found = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    deltas = [chunk["choices"][0]["delta"] for chunk in found if chunk["choices"]]
    return [delta["content"] for delta in deltas if delta.get("content")]


def test_what_is_applied_serves_and_answers_through_the_gateway_in_the_cluster(
    node: WholeNode, assistant: str
) -> None:
    whole = ask(node, assistant)
    pieces = stream(node, assistant)
    assert "".join(pieces) == whole
    assert len(pieces) > 3, "it came as it was made"
    (pod,) = node.pods(assistant)
    (engine,) = pod["spec"]["containers"]
    assert engine["image"] == node.engine_image
    line = kubectl(node, "get", "modeldeployments", "-n", ENGINES, assistant, "--no-headers")
    assert line.split()[:5] == [assistant, "smollm2-135m-instruct", "Q4_1", "True", "1"]


def test_without_a_key_nobody_is_let_in(node: WholeNode) -> None:
    connection = http.client.HTTPConnection(*node.address, timeout=10)
    connection.request("GET", "/v1/models")
    assert connection.getresponse().status == 401
    connection.close()


def test_a_gateway_is_an_endpoint_only_once_it_listens(node: WholeNode) -> None:
    """There is no probe that says so: its start is not over before."""

    def addresses() -> set[str]:
        found = node.api.get(ENDPOINTS.path(SYSTEM, "edge-gateway")).get("subsets", ())
        return {a["ip"] for subset in found for a in subset.get("addresses", ())}

    before = addresses()
    labels = "app.kubernetes.io/name=edge-gateway"
    for pod in node.api.list(PODS.path(SYSTEM), labels=labels)[0]:
        node.api.delete(PODS.path(SYSTEM, pod["metadata"]["name"]))
    new: set[str] = set()
    deadline = time.monotonic() + READY_S
    while not new and time.monotonic() < deadline:
        new = addresses() - before
    for address in new:
        socket.create_connection((address, 8080), 5).close()
    assert new
    wait_until(lambda: node.gateway().call("GET", "/v1/models"), "the gateway", READY_S)


def test_a_node_is_drained_and_comes_back_and_serves(node: WholeNode, assistant: str) -> None:
    name = node.node["metadata"]["name"]
    (before,) = node.pods(assistant)
    ours = "--pod-selector=app.kubernetes.io/managed-by=edge-appliance"
    try:
        kubectl(node, "drain", name, "--ignore-daemonsets", "--delete-emptydir-data", ours)
        wait_until(lambda: not node.is_ready(assistant), "word of it")
        assert not any(map(is_ready, node.pods(assistant)))
    finally:
        kubectl(node, "uncordon", name)
    wait_until(lambda: node.is_ready(assistant), "the assistant again", READY_S)
    (after,) = node.pods(assistant)
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert ask(node, assistant)


# --- kills ----------------------------------------------------------------------------------------


@contextmanager
def streaming(node: WholeNode, model: str) -> Iterator[Traffic]:
    """Have callers stream for as long as the block runs, and all be well before and after it."""
    traffic = Traffic(Gateway(node.address, node.key, model), callers=3)
    with traffic.flowing():
        flows(traffic)
        yield traffic
        flows(traffic)


def flows(traffic: Traffic) -> None:
    """Wait until some requests that began from now on have come to their end."""
    now = time.monotonic()
    wait_until(lambda: traffic.well_since(now) >= 6, "answers", READY_S)


def of_the_node(node: WholeNode, program: str) -> int:
    """Return the process of the node's kubelet or containerd; 0 while there is none."""
    assert node.cluster.state is not None
    pids = json.loads((node.cluster.state / "state.json").read_text())["pids"]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            comm, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        if comm == program and int(rest.split()[1]) == pids["node-init"][0]:
            return int(folder.name)
    return 0


def kill(node: WholeNode, program: str) -> None:
    """Kill a part of the node, and wait until it was started again."""
    old = of_the_node(node, program)
    assert old
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: of_the_node(node, program) not in (0, old), program, 30)


@pytest.mark.parametrize("program", ["kubelet", "containerd"])
def test_no_request_is_lost_when_the_nodes_own_parts_are_killed(
    node: WholeNode, assistant: str, program: str
) -> None:
    if not node.cluster.is_ours:
        pytest.skip(f"{program} is killed only on a cluster that the tests started")
    with streaming(node, assistant) as traffic:
        for _ in range(2):
            traffic.strike()
            kill(node, program)
            time.sleep(4)  # what was started again looks at its pods anew
            flows(traffic)
    report(traffic, program)


def test_no_request_is_lost_when_the_controller_is_killed(node: WholeNode, assistant: str) -> None:
    (before,) = node.pods(assistant)
    with streaming(node, assistant) as traffic:
        for _ in range(2):
            traffic.strike()
            node.controller.kill()
            flows(traffic)
            node.start()
            flows(traffic)
    report(traffic, "the controller")
    (after,) = node.pods(assistant)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]


def report(traffic: Traffic, killed: str) -> None:
    in_flight = sum(any(map(a.was_in_flight, traffic.strikes)) for a in traffic.asked)
    counts = len(traffic.asked), in_flight, len(traffic.broken)
    log.info("%s: %d requests, %d in flight at a kill, %d cut", killed, *counts)
    assert traffic.lost == []
    assert in_flight > 0


# --- GPUs -----------------------------------------------------------------------------------------


@pytest.fixture
def one_gpu(node: WholeNode) -> Iterator[FakeDevicePlugin]:
    """One GPU in the cluster, while the machine's driver tells of two."""
    if node.cluster.state is None:
        pytest.skip("a device plugin needs the kubelet's own folder: only on a cluster of this run")
    folder = node.cluster.state / "node" / "kubelet" / "device-plugins"
    plugin = FakeDevicePlugin(folder, GPU, "GPU-00000001", variable="NVIDIA_VISIBLE_DEVICES")

    def offered(count: str) -> Callable[[], bool]:
        path = NODES.path(name=node.node["metadata"]["name"])
        return lambda: node.api.get(path)["status"]["allocatable"].get(GPU, "0") == count

    with plugin.running():
        wait_until(offered("1"), "the device", 60)
        yield plugin
        node.delete("drawings")
        wait_until(lambda: not node.pods("drawings"), "its end", READY_S)


def test_a_gpu_is_asked_for_and_handed_out(node: WholeNode, one_gpu: FakeDevicePlugin) -> None:
    node.apply("drawings", resources={"gpu": 1})
    wait_until(lambda: node.is_ready("drawings"), "the deployment", READY_S)
    (pod,) = node.pods("drawings")
    assert pod["spec"]["containers"][0]["resources"]["limits"][GPU] == "1"
    assert one_gpu.allocated == [["GPU-00000001"]]
    assert ask(node, "drawings")


def test_more_gpus_than_are_free_are_said_to_be_missing(
    node: WholeNode, one_gpu: FakeDevicePlugin
) -> None:
    node.apply("drawings", resources={"gpu": 2})

    def why() -> str:
        return str(node.condition("drawings", "Ready").get("message", ""))

    wait_until(lambda: f"Insufficient {GPU}" in why(), "the reason", 30)
    assert not node.is_ready("drawings")
    assert one_gpu.allocated == []
    assert f"Insufficient {GPU}" in kubectl(node, "describe", "md", "-n", ENGINES, "drawings")
    wide = kubectl(node, "get", "md", "-n", ENGINES, "drawings", "-o", "wide", "--no-headers")
    assert wide.split()[-1] == "EngineFails"


# --- what all of the above was done with ----------------------------------------------------------


def test_the_controllers_own_rights_were_enough(node: WholeNode, assistant: str) -> None:
    assert node.is_ready(assistant)
    words = ("forbidden", "Traceback")
    lines = node.controller.log.read_text().splitlines()
    assert [line for line in lines if any(word in line for word in words)] == []
