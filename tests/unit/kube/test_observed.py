"""From pods to replicas as every driver shows them."""

import dataclasses
from typing import Any

import pytest

from appliance.core.state import ObservedReplica, Phase
from appliance.kube.pods.observed import History, Known, current, observed
from appliance.kube.pods.seen import PodSeen, Seen
from tests.unit.kube.test_engine import replica

WELL = PodSeen(
    "p", "u", "notes", "notes-0", "abc", is_deleting=False, is_over=False, is_ready=True,
    runs=True, node="n1", address="10.0.0.7", image="i", restarts=0, created="2026",
)  # fmt: skip
KNOWN = Known("notes-0", "notes", "abc")
DEPLOYMENT = Seen("notes-0", "u", "notes", "notes-0", "m", True, False, b"{}")


def pod(**changes: Any) -> PodSeen:
    return dataclasses.replace(WELL, **changes)


def waiting(reason: str, why: str = "", **changes: Any) -> PodSeen:
    return pod(is_ready=False, runs=False, waiting=reason, why=why, **changes)


def look(
    found: PodSeen | None, known: Known = KNOWN, deployment: Seen | None = DEPLOYMENT
) -> ObservedReplica:
    return observed(known, replica(), deployment, found)


def test_a_ready_pod_says_where_it_answers() -> None:
    found = look(WELL)
    assert (found.phase, found.endpoint, found.node) == (Phase.READY, "http://10.0.0.7:8080", "n1")
    assert found.memory_limit == "1Gi (kubelet)"
    assert look(pod(address="fd00::7")).endpoint == "http://[fd00::7]:8080"


def test_a_ready_pod_that_is_being_ended_answers_nobody() -> None:
    assert look(pod(is_deleting=True)).endpoint is None


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (waiting("ImagePullBackOff", "no such image"),
         "notes-0 cannot start: its image i cannot be had: no such image"),
        (waiting("CreateContainerError", "no space"),
         "notes-0 cannot start: CreateContainerError: no space"),
        (waiting("CrashLoopBackOff", ended="was killed: out of its memory"),
         "notes-0 was killed: out of its memory, and again after each start"),
        (waiting("", unplaced="0/1 nodes are available"),
         "notes-0 finds no machine: 0/1 nodes are available"),
        (pod(is_ready=False, is_over=True, runs=False, why="low on memory"),
         "notes-0 was ended by its machine: low on memory"),
        (pod(is_ready=False, runs=False, ended="ended with status 1"),
         "notes-0 ended with status 1"),
    ],
)  # fmt: skip
def test_what_does_not_come_up_says_why(found: PodSeen, message: str) -> None:
    seen = look(found)
    assert (seen.phase, seen.message, seen.failures) == (Phase.BACKOFF, message, 1)


def test_an_image_that_cannot_be_had_is_told_in_one_way() -> None:
    history, told = History(), []
    for reason, why in [("ErrImagePull", "no route"), ("ImagePullBackOff", "Back-off pulling")] * 2:
        found = waiting(reason, why)
        history.note(found)
        told.append(look(found, dataclasses.replace(KNOWN, unpulled=history.unpulled)))
    assert len(set(told)) == 1
    assert told[0].message.endswith("its image i cannot be had: no route")


@pytest.mark.parametrize("found", [None, waiting("ContainerCreating"), pod(is_ready=False)])
def test_what_may_come_up_is_starting(found: PodSeen | None) -> None:
    assert look(found).phase is Phase.STARTING


def test_the_pause_before_the_next_try_is_read_from_the_kubelets_words() -> None:
    words = "back-off {} restarting failed container=engine"
    assert look(waiting("CrashLoopBackOff", words.format("40s"))).retry_in_s == 40
    assert look(waiting("CrashLoopBackOff", words.format("2m40s"))).retry_in_s == 160
    assert look(waiting("CrashLoopBackOff", "soon")).retry_in_s is None


def test_a_deployment_without_a_pod_says_what_hinders_it() -> None:
    troubled = dataclasses.replace(DEPLOYMENT, trouble="no PriorityClass edge-standard")
    found = look(None, deployment=troubled)
    assert found.message == "notes-0 gets no pod: no PriorityClass edge-standard"


def test_what_was_stopped_is_stopping_until_its_last_pod_is_gone() -> None:
    found = observed(KNOWN, None, None, pod(is_deleting=True))
    assert (found.phase, found.revision, found.deployment) == (Phase.STOPPING, "abc", "notes")


def test_an_error_is_told_beside_an_engine_that_serves() -> None:
    known = dataclasses.replace(KNOWN, error="there is a Service notes")
    assert (look(WELL, known).phase, look(WELL, known).message) == (
        Phase.READY,
        "there is a Service notes",
    )
    assert look(None, known).phase is Phase.BACKOFF


def test_the_pod_that_counts_is_the_newest_that_is_not_ending() -> None:
    old, new = pod(name="a", created="2026-01"), pod(name="b", created="2026-02")
    ending = pod(name="c", created="2026-03", is_deleting=True)
    assert current([new, ending, old]) is new
    assert current([ending]) is ending
    assert current([]) is None


def test_failures_count_from_when_it_last_was_ready() -> None:
    history = History()
    crashed = waiting("CrashLoopBackOff", restarts=1, ended="ended with status 1")
    assert history.note(crashed)
    assert not history.note(crashed)
    assert not history.note(pod(restarts=2))
    assert history.note(dataclasses.replace(crashed, restarts=3))
    known = dataclasses.replace(KNOWN, served=history.served)
    assert look(dataclasses.replace(crashed, restarts=3), known).failures == 1


def test_restarts_go_on_counting_over_pods() -> None:
    history = History()
    history.note(pod(restarts=2))
    history.note(pod(uid="v"))
    found = look(pod(uid="v"), dataclasses.replace(KNOWN, restarts=history.before))
    assert found.restarts == 3
