"""Requests while pods are killed: those not begun go elsewhere or wait, those begun end clearly.

The engine is a small program of this machine's own Python in a pod, so this needs the cluster that
the tests start themselves.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.core.routes import Route
from appliance.gateway.routes import RouteFile
from appliance.kit.clock import SystemClock
from appliance.kube.client import Json, KubeApi
from appliance.kube.marks import DEPLOYMENT
from appliance.kube.resources import DEPLOYMENTS, NODES, PODS, SERVICES
from appliance.kube.routes import ClusterRoutes
from tests.helpers.clusters import Cluster
from tests.helpers.gateways import Front, gateway
from tests.helpers.waiting import until

LABELS = {DEPLOYMENT: "notes"}
ENGINE = """
import http.server, json, os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # as an engine that ends at once
class Engine(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # in chunks, so that an end is told from a break
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked"); self.end_headers()
        for n in range(asked.get("n", 1)):
            self.say(b"data: %d\\n\\n" % n)
            time.sleep(0.1)
        self.say(b"data: [DONE]\\n\\n"); self.say(b"")
    def say(self, data):
        self.wfile.write(b"%x\\r\\n%b\\r\\n" % (len(data), data))
http.server.ThreadingHTTPServer(("", 8080), Engine).serve_forever()
"""


def stream_of(count: int) -> bytes:
    return json.dumps({"model": "notes", "stream": True, "n": count}).encode()


@pytest.fixture
def engines(cluster: Cluster, api: KubeApi, namespace: str, tmp_path: Path) -> tuple[KubeApi, str]:
    if not cluster.is_ours:
        pytest.skip("KUBECONFIG names a cluster whose nodes need not have this machine's Python")
    (tmp_path / "rootfs").mkdir()
    for folder in ("usr", "lib", "lib64", "tmp", "dev", "proc", "sys", "etc"):
        (tmp_path / "rootfs" / folder).mkdir()
    cluster.call("image", "fake-engine:1", str(tmp_path / "rootfs"), "/usr/bin/python3")
    metadata = {"name": "notes", "labels": LABELS}
    ports = [{"name": "http", "port": 8080}]
    api.create(
        SERVICES.path(namespace),
        {"metadata": metadata, "spec": {"clusterIP": "None", "selector": LABELS, "ports": ports}},
    )
    api.create(DEPLOYMENTS.path(namespace), {"metadata": metadata, "spec": deployment(2)})
    return api, namespace


def deployment(replicas: int) -> Json:
    mounts = {"usr": "/usr", "lib": "/usr/lib", "lib64": "/usr/lib64"}
    probe = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}
    container: dict[str, Any] = {
        "name": "engine",
        "image": "localhost/fake-engine:1",
        "imagePullPolicy": "Never",
        "command": ["/usr/bin/python3", "-c", ENGINE],
        "readinessProbe": probe,
        "volumeMounts": [{"name": n, "mountPath": f"/{n}", "readOnly": True} for n in mounts],
    }
    volumes = [{"name": n, "hostPath": {"path": path}} for n, path in mounts.items()]
    return {
        "replicas": replicas,
        "selector": {"matchLabels": LABELS},
        "template": {
            "metadata": {"labels": LABELS},
            "spec": {"containers": [container], "volumes": volumes},
        },
    }


def pods(api: KubeApi, namespace: str) -> list[str]:
    found, _ = api.list(PODS.path(namespace))
    return [p["metadata"]["name"] for p in found if "deletionTimestamp" not in p["metadata"]]


def test_pods_are_killed_and_a_node_is_drained_and_comes_back(
    engines: tuple[KubeApi, str], cluster: Cluster
) -> None:
    api, namespace = engines
    logging.getLogger("appliance.kube").setLevel(logging.ERROR)

    def connect() -> KubeApi:
        return KubeApi.connect(cluster.kubeconfig, manager="gateway")

    async def story() -> None:
        made: list[ClusterRoutes] = []

        def source(file: RouteFile) -> ClusterRoutes:
            made.append(ClusterRoutes(file, connect, namespace, SystemClock()))
            return made[0]

        def seen() -> list[str]:
            route = made[0].current().route("notes")
            return [] if route is None else [e.replica for e in route.endpoints]

        async with gateway(source=source, hold_s=60.0) as front:
            front.route(Route("notes", (), ()))
            following = asyncio.create_task(made[0].follow())
            first = await front.ask(stream_of(1))  # held until a pod is ready
            assert first.body.endswith(b"[DONE]\n\n")
            await patiently(lambda: len(seen()) == 2)

            # A pod is killed: what it had begun ends with an error, all else is answered.
            running = [asyncio.create_task(front.ask(stream_of(30))) for _ in range(4)]
            await asyncio.sleep(1)
            victim = seen()[0]
            await asyncio.to_thread(api.delete, PODS.path(namespace, victim))
            between = [await front.ask(stream_of(1)) for _ in range(3)]
            await patiently(lambda: victim not in seen())
            new = [await front.ask(stream_of(1)) for _ in range(20)]
            assert all(a.body.endswith(b"[DONE]\n\n") for a in new)
            ended = [(await r).body for r in running] + [a.body for a in between]
            cut = [body for body in ended if not body.endswith(b"[DONE]\n\n")]
            assert 0 < len(cut) < len(ended), "the other pod's requests came to their end"
            assert [b for b in cut if b'"code": "engine_failed"' not in b] == []

            await drain_and_return(api, namespace, front, seen)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    asyncio.run(story())


async def drain_and_return(
    api: KubeApi, namespace: str, front: Front, seen: Callable[[], list[str]]
) -> None:
    """While the node is drained requests wait; it comes back, and they are answered."""
    (node, *_), _ = await asyncio.to_thread(api.list, NODES.path())
    path = NODES.path(name=node["metadata"]["name"])
    await asyncio.to_thread(api.merge, path, {"spec": {"unschedulable": True}})
    try:
        for pod in await asyncio.to_thread(pods, api, namespace):
            await asyncio.to_thread(api.delete, PODS.path(namespace, pod))
        await patiently(lambda: not seen())
        held = [asyncio.create_task(front.ask(stream_of(1))) for _ in range(4)]
        await asyncio.sleep(0.5)
        assert not any(task.done() for task in held)
    finally:
        await asyncio.to_thread(api.merge, path, {"spec": {"unschedulable": None}})
    answers = [(await one).body for one in held]
    assert all(body.endswith(b"[DONE]\n\n") for body in answers)


async def patiently(holds: Any) -> None:
    """Wait longer than ``until``: a pod takes its time on a busy machine."""
    for attempt in range(6):
        try:
            await until(holds)
        except AssertionError:
            if attempt == 5:
                raise
        else:
            return
