"""Nodes that are Ready as far as an API server knows, and run nothing."""

import datetime
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import yaml

from appliance.errors import ApplianceError, NotFoundError
from appliance.kube.client import Json, KubeApi
from appliance.kube.resources import NODES, PODS, Resource
from tests.conftest import ROOT

_PRIORITIES = Resource("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", False)
_CLEAN_S = 2.0
_AGAIN_S = 8.0
"""Well below the 40 seconds after which a silent node counts as lost."""


@contextmanager
def made_up_nodes(api: KubeApi, *names: str, roomy: bool = False) -> Iterator[None]:
    """Have Nodes of these names, for as long as the block runs.

    Pods find no room there, or with ``roomy`` are bound to them, and wait for ever to be started.
    """
    over = threading.Event()
    for name in names:
        labels = {"kubernetes.io/hostname": name}
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
        api.apply(NODES.path(name=name), body)
        _say_ready(api, name, roomy=roomy)
    breath = threading.Thread(target=_breathe, args=(api, names, roomy, over))
    breath.start()
    try:
        yield
    finally:
        over.set()
        breath.join()
        for name in names:
            api.delete(NODES.path(name=name))


def _breathe(api: KubeApi, names: tuple[str, ...], roomy: bool, over: threading.Event) -> None:  # noqa: FBT001
    since = 0.0
    while not over.wait(_CLEAN_S):
        since += _CLEAN_S
        with suppress(ApplianceError):  # the server is away for a test; the next breath tries again
            if since >= _AGAIN_S:
                since = 0.0
                for name in names:
                    _say_ready(api, name, roomy=roomy)
            if roomy:
                _let_go_of_pods(api)


def _let_go_of_pods(api: KubeApi) -> None:
    """Confirm the end of pods, as their kubelet would."""
    pods, _ = api.list(PODS.path(), fields="status.phase=Pending")
    for pod in (p["metadata"] for p in pods):
        if "deletionTimestamp" in pod:
            path = PODS.path(pod["namespace"], pod["name"])
            with suppress(NotFoundError):
                api._call("DELETE", path, None, {"gracePeriodSeconds": 0})


def _say_ready(api: KubeApi, name: str, *, roomy: bool) -> None:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready: Json = {
        "type": "Ready", "status": "True", "reason": "MadeUp", "message": "made up",
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    }  # fmt: skip
    room = {"pods": "9999", "cpu": "9999", "memory": "99Ti"} if roomy else {"pods": "0"}
    status = {"conditions": [ready], "allocatable": room, "capacity": room}
    api.merge(NODES.path(name=name, sub="status"), {"status": status})


def have_priorities(api: KubeApi) -> None:
    """Have the priority classes that engines are started with."""
    text = (ROOT / "manifests" / "base" / "priorities.yaml").read_text()
    for body in yaml.safe_load_all(text):
        api.apply(_PRIORITIES.path(name=body["metadata"]["name"]), body, force=True)
