"""What is kept of the objects that are watched, and how a change is told."""

from collections.abc import Mapping
from typing import Any

import pytest

from appliance.kit.clock import SystemClock
from appliance.kube.marks import DEPLOYMENT, REPLICA, REVISION
from appliance.kube.pods.seen import PodSeen, differences, pod_seen, seen
from appliance.kube.pods.steps import written
from appliance.kube.pods.view import View
from tests.unit.kube.test_engine import render, replica

POD: dict[str, Any] = {
    "metadata": {
        "name": "p", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {REPLICA: "notes-0", DEPLOYMENT: "notes"}, "annotations": {REVISION: "abc"},
    },
    "spec": {"nodeName": "n1"},
    "status": {},
}  # fmt: skip


def pod(**status: Any) -> Any:
    found = pod_seen({**POD, "status": status})
    assert found is not None
    return found


def container(**found: Any) -> dict[str, Any]:
    return {"containerStatuses": [{"restartCount": 0, "image": "i", **found}]}


@pytest.mark.parametrize(
    ("wanted", "live", "found"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, []),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, [".a.b"]),
        ({"a": {"b": 1}}, {}, [".a.b"]),
        ({"a": {"b": 1}}, {"a": "text"}, [".a.b"]),
        ({"a": [1, 2]}, {"a": [1, 2, 3]}, [".a"]),
        ({"a": [{"b": 1}]}, {"a": [{"b": 1, "c": 2}]}, []),
        ({"a": [{"b": 1}]}, {"a": [{"b": 2}]}, [".a[0].b"]),
        ({"a": [1]}, {"a": None}, [".a"]),
        ({"a": True}, {"a": 1}, []),
    ],
)
def test_only_what_we_wrote_can_differ(wanted: Any, live: Any, found: list[str]) -> None:
    assert list(differences(wanted, live)) == found


def test_others_may_own_it_too() -> None:
    mine = {"metadata": {"ownerReferences": [{"uid": "1"}]}}
    both = {"metadata": {"ownerReferences": [{"uid": "2"}, {"uid": "1", "x": 1}]}}
    assert list(differences(mine, both)) == []
    assert list(differences(mine, {"metadata": {}})) == [".metadata.ownerReferences"]


def test_what_the_server_counts_is_no_change() -> None:
    (manifest, *_) = render(replica())
    body = manifest.body
    metadata = {**body["metadata"], "uid": "u", "resourceVersion": "1", "generation": 1}
    first = seen({**body, "metadata": metadata, "status": {"readyReplicas": 0}})
    notes = {**metadata["annotations"], "deployment.kubernetes.io/revision": "2"}
    later = {**metadata, "resourceVersion": "9", "annotations": notes}
    assert first == seen({**body, "metadata": later, "status": {"readyReplicas": 1}})
    assert first.is_ours
    assert list(differences(written(manifest), first.content)) == []


@pytest.mark.parametrize("lost", ["labels", "annotations"])
def test_without_our_marks_it_is_not_ours(lost: str) -> None:
    (manifest, *_) = render(replica())
    metadata = {**manifest.body["metadata"], "uid": "u", lost: {}}
    assert not seen({**manifest.body, "metadata": metadata}).is_ours


def test_a_deployment_says_why_it_gets_no_pod() -> None:
    (manifest, *_) = render(replica())
    metadata = {**manifest.body["metadata"], "uid": "u"}
    failure = {"type": "ReplicaFailure", "status": "True", "message": "no PriorityClass"}
    found = seen({**manifest.body, "metadata": metadata, "status": {"conditions": [failure]}})
    assert found.trouble == "no PriorityClass"


def test_a_pod_of_somebody_else_is_not_kept() -> None:
    assert pod_seen({"metadata": {"name": "x", "uid": "u", "labels": {}}}) is None


def test_a_new_pod_is_well_once_it_is_placed() -> None:
    assert pod().is_well
    unplaced = pod(conditions=[{"type": "PodScheduled", "status": "False", "message": "0/1"}])
    assert (unplaced.unplaced, unplaced.is_well) == ("0/1", False)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"reason": "OOMKilled", "exitCode": 137}, "was killed: out of its memory"),
        ({"reason": "Error", "exitCode": 137}, "was ended by signal 9"),
        ({"reason": "Error", "exitCode": 1, "signal": 6}, "was ended by signal 6"),
        ({"reason": "Error", "exitCode": 3}, "ended with status 3"),
    ],
)
def test_how_an_engine_ended_is_said_in_words(state: dict[str, Any], words: str) -> None:
    assert pod(**container(state={"terminated": state})).ended == words
    crashed = pod(
        **container(
            state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState={"terminated": state}
        )
    )
    assert (crashed.ended, crashed.is_well) == (words, False)


def test_a_pod_that_its_machine_ended_is_over() -> None:
    found = pod(phase="Failed", message="the node was low on memory")
    assert (found.is_over, found.why, found.is_well) == (True, "the node was low on memory", False)


@pytest.mark.parametrize(
    ("status", "deleted", "gone"),
    [
        (container(state={"terminated": {"exitCode": 0}}), True, True),
        (container(state={"terminated": {"exitCode": 0}}), False, False),
        (container(state={"running": {}}), True, False),
        (container(state={"waiting": {}}, lastState={"terminated": {}}), True, False),
        ({}, True, False),
    ],
)
def test_a_pod_is_gone_when_nothing_of_it_runs_although_its_object_stays(
    status: dict[str, Any], *, deleted: bool, gone: bool
) -> None:
    body = {**POD, "metadata": {**POD["metadata"], "namespace": "ns"}, "status": status}
    if deleted:
        body["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z"
    found = pod_seen(body)
    assert found is not None
    assert found.is_gone is gone
    view = View("ns", {}, Held({"ns/p": found}), SystemClock())
    assert view.pods("notes-0") == ([] if gone else [found])


class Held:
    """Pods that stand still."""

    def __init__(self, found: Mapping[str, PodSeen]) -> None:
        self.items = lambda: found
