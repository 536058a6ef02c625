"""Pods on a fenced GPU: told by their control group, taken away once, by whoever has the GPU."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import PeerUnreachableError
from appliance.kube.client import KubeApi
from appliance.ledger.db import Ledger
from appliance.node import gpus as module
from appliance.node.gpus import Gpus
from appliance.node.leaving import Leaving
from appliance.planner.fence import Owner
from tests.fakes.gpus import FakeGpus
from tests.helpers.waiting import StillClock

POD, NEXT = "0e5f3c1a-7b1e-4a53-9d0c-2f6f1f3f9a11", "1e5f3c1a-7b1e-4a53-9d0c-2f6f1f3f9a12"


class Pods(KubeApi):
    """The pods of a node; taking a Deployment away makes its pod end, and another begin."""

    def __init__(self) -> None:
        self.pods = {POD: pod(POD)}
        self.away = False
        self.deleted: list[str] = []

    def list(
        self, path: str, *, labels: str = "", fields: str = "", page: int = 500
    ) -> tuple[list[Any], str]:
        if self.away:
            raise PeerUnreachableError("away")
        assert path == "/api/v1/namespaces/edge-engines/pods"
        assert labels == "app.kubernetes.io/managed-by=edge-appliance"
        assert (fields, page) == ("spec.nodeName=box", 500)
        return list(self.pods.values()), "1"

    def delete(self, path: str, *, uid: str = "") -> bool:
        del uid
        self.deleted.append(path)
        self.pods[POD]["metadata"]["deletionTimestamp"] = "now"
        self.pods[NEXT] = pod(NEXT)
        return True


def pod(uid: str) -> dict[str, Any]:
    return {"metadata": {"uid": uid, "labels": {"edge-appliance.dev/replica": "notes-0"}}}


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpus]:
    groups = {42: f"0::/kubepods/pod{POD}/1\n", 43: f"0::/kubepods/pod{NEXT}/1\n"}
    monkeypatch.setattr(module, "_cgroup", lambda pid: groups.get(pid, ""))
    ledger = Ledger(tmp_path / "node.db")
    driver = FakeGpus(["GPU-a", "GPU-b"], using={"GPU-a": frozenset({42})})
    found = Gpus(ledger, StillClock(), driver, lambda: [Owner("here-0", 7)])
    found.look_now()
    yield found
    ledger.close()


@pytest.fixture
def api() -> Pods:
    return Pods()


@pytest.fixture
def leaving(api: Pods, gpus: Gpus) -> Leaving:
    return Leaving(api, gpus, namespace="edge-engines", node="box")


def test_while_nothing_is_fenced_nobody_is_asked_and_nothing_leaves(
    leaving: Leaving, gpus: Gpus, api: Pods
) -> None:
    api.away = True
    gpus.look_now()
    asyncio.run(leaving.look())
    assert api.deleted == []


def test_a_replica_leaves_once_though_its_pod_takes_its_time_to_end(
    leaving: Leaving, gpus: Gpus, api: Pods
) -> None:
    gpus.fence("GPU-a", "smells of smoke", "uid 7")
    for _ in range(3):
        asyncio.run(leaving.look())
        gpus.look_now()
    assert api.deleted == ["/apis/apps/v1/namespaces/edge-engines/deployments/notes-0"]


def test_engines_outside_of_pods_are_still_known(leaving: Leaving) -> None:
    assert {owner.replica for owner in leaving.owners()} == {"here-0", "notes-0"}


def test_while_the_server_is_away_nothing_leaves(leaving: Leaving, gpus: Gpus, api: Pods) -> None:
    api.away = True
    gpus.fence("GPU-a", "smells of smoke", "uid 7")
    asyncio.run(leaving.look())
    assert api.deleted == []
    api.away = False
    gpus.look_now()
    asyncio.run(leaving.look())
    assert len(api.deleted) == 1
