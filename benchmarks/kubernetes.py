"""The controller in a cluster of 1,000 ModelDeployments, on a real API server without pods' nodes.

Five machines with much memory are made up by their entries in the Site and the Model, as if their
controllers had written them: the planner reads nothing else. Every call of the controller goes
through a proxy that counts; calls for leases and watches are apart, as the target has it.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from appliance.errors import NotFoundError
from appliance.kube.client import Json, KubeApi
from appliance.kube.resources import (
    DEPLOYMENTS,
    MODEL_DEPLOYMENTS,
    MODELS,
    NAMESPACES,
    SITES,
)
from benchmarks.measure import Row, limit, row
from tests.helpers.clusters import Cluster, start_cluster
from tests.helpers.definitions import install
from tests.helpers.kubenode import KubeNode, prepared
from tests.helpers.kubeproxy import KubeProxy
from tests.helpers.madeup import have_priorities, made_up_nodes
from tests.helpers.organisation import Organisation

ROOT = Path(__file__).parent.parent
_OBJECTS = 1000
_MACHINES = 5
_STEADY_S = 90.0
_EVENTS = 40
_NAMESPACE = "edge-engines"


def run() -> list[Row]:
    """Measure everything; takes some eight minutes."""
    scratch = Path(tempfile.mkdtemp(prefix="appliance-bench-"))
    try:
        with _cluster() as cluster:
            return _measure(cluster, scratch)
    finally:
        shutil.rmtree(scratch)


@contextmanager
def _cluster() -> Iterator[Cluster]:
    if named := os.environ.get("KUBECONFIG"):
        yield Cluster(Path(named))
        return
    cluster = start_cluster(f"bench{os.getpid()}")
    try:
        yield cluster
    finally:
        cluster.call("down")


def _measure(cluster: Cluster, scratch: Path) -> list[Row]:
    api = KubeApi.connect(cluster.kubeconfig, manager="bench", timeout_s=60)
    _install(api)
    organisation = Organisation.create(scratch / "organisation")
    box = prepared(scratch / "box", organisation, organisation.bundle())
    big = made_up_nodes(api, *(f"big-{number}" for number in range(_MACHINES)), roomy=True)
    with made_up_nodes(api, "box-1"), big, KubeProxy(api) as proxy:
        kubeconfig = proxy.kubeconfig(scratch / "kubeconfig")
        node = KubeNode(
            box, scratch / "state", kubeconfig, _NAMESPACE,
            name="box-1", python=_installed(scratch / "venv"),
        )  # fmt: skip
        try:
            return _rows(api, proxy, node)
        finally:
            node.stop()


def _installed(venv: Path) -> str:
    """Install the controller as its image has it: what tests use besides weighs some 20 MiB."""
    python = str(venv / "bin" / "python")
    lock = ROOT / "requirements" / "image-appliance.lock"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in (
        [sys.executable, "-m", "venv", str(venv)],
        [*pip, "--require-hashes", "-r", str(lock)],
        [*pip, "hatchling", "editables"],
        [*pip, "--no-deps", "--no-build-isolation", "-e", str(ROOT)],
        [python, "-c", "import appliance.wiring.node, appliance.wiring.connected"],
    ):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return python


def _rows(api: KubeApi, proxy: KubeProxy, node: KubeNode) -> list[Row]:
    node.start()
    _machines(api)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: _want(api, f"m-{n:04}"), range(_OBJECTS)))
    _wait(lambda: _engines(api) == _OBJECTS, 900)
    _quiet(proxy, 20)
    steady = _steady(proxy)
    events = _events(api)
    bare = _bare(api)
    resync = _resync(api, proxy, node)
    rss = _rss(node)
    p95 = statistics.quantiles(events, n=20)[18]
    return [
        limit("steady state, 1,000 objects", steady, "calls/min", 10),
        limit("restart to all looked at", resync, "s", 30),
        limit("controller, 1,000 objects, RSS", rss / 2**20, "MiB", 130),
        limit("event to applied object, p95", p95 * 1000, "ms", 300),
        row(
            "event to applied object, median", statistics.median(events) * 1000, "ms",
            ("apply to watch, bare, median", bare * 1000), 20,
        ),
    ]  # fmt: skip


def _install(api: KubeApi) -> None:
    install(api)
    have_priorities(api)
    with suppress(Exception):
        api.create(NAMESPACES.path(), {"metadata": {"name": _NAMESPACE}})


def _machines(api: KubeApi) -> None:
    """Make up machines that hold what box-1 holds, and have 512 GiB each."""
    _wait(lambda: bool(api.list(MODELS.path())[0]) and bool(api.list(SITES.path())[0]), 60)
    model, site = api.list(MODELS.path())[0][0], api.list(SITES.path())[0][0]
    held = [v["manifest"] for v in model["spec"]["variants"]]
    for number in range(_MACHINES):
        name = f"big-{number}"
        entry: Json = {"name": name, "held": held}
        _status(api, MODELS.path(name=model["metadata"]["name"]), model, entry, name)
        facts: Json = {"name": name, "id": name, "version": "0", "memoryBytes": 512 << 30}
        _status(api, SITES.path(name=site["metadata"]["name"]), site, facts, name)


def _status(api: KubeApi, path: str, whole: Json, entry: Json, manager: str) -> None:
    body = {
        "apiVersion": whole["apiVersion"],
        "kind": whole["kind"],
        "metadata": {"name": whole["metadata"]["name"]},
        "status": {"nodes": [entry]},
    }
    api.apply(f"{path}/status", body, manager=f"bench-{manager}")


def _want(api: KubeApi, name: str) -> None:
    api.apply(
        MODEL_DEPLOYMENTS.path(_NAMESPACE, name),
        {
            "apiVersion": MODEL_DEPLOYMENTS.api_version,
            "kind": "ModelDeployment",
            "metadata": {"name": name},
            "spec": {"model": "small", "context": 256},
        },
    )


def _engines(api: KubeApi) -> int:
    return len(api.list(DEPLOYMENTS.path(_NAMESPACE))[0])


def _quiet(proxy: KubeProxy, seconds: float) -> None:
    """Wait until nothing was changed for so long."""
    seen, since = -1, time.monotonic()
    while time.monotonic() - since < seconds:
        if len(proxy.changes) != seen:
            seen, since = len(proxy.changes), time.monotonic()
        time.sleep(0.5)


def _steady(proxy: KubeProxy) -> float:
    before = proxy.calls
    time.sleep(_STEADY_S)
    return (proxy.calls - before) / _STEADY_S * 60


def _events(api: KubeApi) -> list[float]:
    """Return the seconds from a ModelDeployment's creation to that of its engine's object."""
    found: dict[str, float] = {}
    _, since = api.list(DEPLOYMENTS.path(_NAMESPACE))
    watch = api.watch(DEPLOYMENTS.path(_NAMESPACE), since)

    def look() -> None:
        for event in watch:
            if event["type"] == "ADDED":
                found[event["object"]["metadata"]["name"]] = time.monotonic()

    watcher = threading.Thread(target=look)
    watcher.start()
    times = []
    for number in range(_EVENTS):
        name = f"e-{number}"
        began = time.monotonic()
        _want(api, name)
        _wait(lambda name=name: f"{name}-0" in found, 60)  # type: ignore[misc]
        times.append(found[f"{name}-0"] - began)
        time.sleep(1)
    watch.close()
    watcher.join()
    return times


def _bare(api: KubeApi) -> float:
    """Return the median seconds from applying a Deployment until a watch tells of it."""
    (some, *_), since = api.list(DEPLOYMENTS.path(_NAMESPACE))
    watch = api.watch(DEPLOYMENTS.path(_NAMESPACE), since, labels="bench=bare")
    events = iter(watch)
    times = []
    for number in range(20):
        name = f"bare-{number}"
        body = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "labels": {"bench": "bare"}},
            "spec": json.loads(json.dumps(some["spec"])) | {"replicas": 0},
        }
        began = time.monotonic()
        api.apply(DEPLOYMENTS.path(_NAMESPACE, name), body)
        while next(events)["type"] != "ADDED":
            pass
        times.append(time.monotonic() - began)
        api.delete(DEPLOYMENTS.path(_NAMESPACE, name))
    watch.close()
    return statistics.median(times)


def _resync(api: KubeApi, proxy: KubeProxy, node: KubeNode) -> float:
    """Kill the controller, take one engine's object away; return how long until it is back."""
    node.kill()
    api.delete(DEPLOYMENTS.path(_NAMESPACE, f"m-{_OBJECTS - 1:04}-0"))
    began = time.monotonic()
    node.start()
    _wait(lambda: _is_there(api), 120)
    took = time.monotonic() - began
    _quiet(proxy, 15)
    return took


def _is_there(api: KubeApi) -> bool:
    try:
        api.get(DEPLOYMENTS.path(_NAMESPACE, f"m-{_OBJECTS - 1:04}-0"))
    except NotFoundError:
        return False
    return True


def _rss(node: KubeNode) -> int:
    for line in Path(f"/proc/{node.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"{node.pid} has no VmRSS")


def _wait(holds: Callable[[], object], at_most_s: float) -> None:
    deadline = time.monotonic() + at_most_s
    while time.monotonic() < deadline:
        if holds():
            return
        time.sleep(0.005)
    raise AssertionError(f"not within {at_most_s} s")
