"""Nodes that are Ready as far as an API server knows, and run nothing."""

import datetime
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import yaml

from appliance.errors import ApplianceError
from appliance.kube.client import Json, KubeApi
from appliance.kube.resources import NODES, Resource
from tests.conftest import ROOT

_PRIORITIES = Resource("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", False)
_AGAIN_S = 8.0
"""Well below the 40 seconds after which a silent node counts as lost."""


@contextmanager
def made_up_nodes(api: KubeApi, *names: str) -> Iterator[None]:
    """Have Nodes of these names, for as long as the block runs."""
    over = threading.Event()
    for name in names:
        labels = {"kubernetes.io/hostname": name}
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
        api.apply(NODES.path(name=name), body)
        _say_ready(api, name)
    breath = threading.Thread(target=_breathe, args=(api, names, over))
    breath.start()
    try:
        yield
    finally:
        over.set()
        breath.join()
        for name in names:
            api.delete(NODES.path(name=name))


def _breathe(api: KubeApi, names: tuple[str, ...], over: threading.Event) -> None:
    while not over.wait(_AGAIN_S):
        for name in names:
            try:
                _say_ready(api, name)
            except ApplianceError:  # the server is away for a test; the next breath tries again
                continue


def _say_ready(api: KubeApi, name: str) -> None:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready: Json = {
        "type": "Ready", "status": "True", "reason": "MadeUp", "message": "made up",
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    }  # fmt: skip
    api.merge(
        NODES.path(name=name, sub="status"),
        {
            "status": {
                "conditions": [ready],
                "allocatable": {"pods": "0"},
                "capacity": {"pods": "0"},
            }
        },
    )


def have_priorities(api: KubeApi) -> None:
    """Have the priority classes that engines are started with."""
    text = (ROOT / "manifests" / "base" / "priorities.yaml").read_text()
    for body in yaml.safe_load_all(text):
        api.apply(_PRIORITIES.path(name=body["metadata"]["name"]), body, force=True)
