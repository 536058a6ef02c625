from dataclasses import replace
from typing import Any

import pytest

from appliance.software.gate import Seen, Verdict, judge

OLD = Seen("1.0.0", "box-1", "ab", 9, {"a-0": 10}, {"a-0": 10, "b-0": 11})
NEW = Seen("2.0.0", "box-1", "ab", 1, {"a-0": 10}, {"a-0": 10})


def test_the_same_node_with_the_same_engines_is_fit() -> None:
    assert judge(OLD, NEW, "2.0.0", restarts=False).is_fit


@pytest.mark.parametrize(
    ("now", "wait"),
    [
        (None, "does not answer"),
        (replace(NEW, passes=0), "not looked at the world"),
        (replace(NEW, ready={}), "a-0 is not ready"),
    ],
)
def test_what_may_still_come_is_waited_for(now: Seen | None, wait: str) -> None:
    found = judge(OLD, now, "2.0.0", restarts=False)
    assert wait in found.wait
    assert not found.wrong
    assert not found.is_fit


@pytest.mark.parametrize(
    ("now", "wrong"),
    [
        (replace(NEW, version="1.0.0"), "calls itself 1.0.0"),
        (replace(NEW, node="box-2"), "another node"),
        (replace(NEW, epoch="cd"), "another ledger"),
        (replace(NEW, pids={"a-0": 12}, ready={"a-0": 12}), "pid 10, was not taken over"),
        (replace(NEW, pids={}, ready={}), "was not taken over"),
    ],
)
def test_what_cannot_become_right_is_wrong_at_once(now: Seen, wrong: str) -> None:
    assert wrong in judge(OLD, now, "2.0.0", restarts=False).wrong


def test_engines_may_be_started_anew_if_that_was_said_but_must_serve() -> None:
    anew = replace(NEW, pids={"a-0": 12}, ready={"a-0": 12})
    assert judge(OLD, anew, "2.0.0", restarts=True).is_fit
    gone = replace(NEW, pids={}, ready={})
    assert "not ready" in judge(OLD, gone, "2.0.0", restarts=True).wait


def test_an_old_one_that_did_not_answer_asks_for_no_engine() -> None:
    assert judge(None, replace(NEW, ready={}, pids={}), "2.0.0", restarts=False) == Verdict()


STATUS: dict[str, Any] = {
    "version": "1.0.0",
    "node": "box-1",
    "epoch": "ab",
    "passes": 9,
    "engines": [
        {"id": "a-0", "pid": 10, "phase": "ready"},
        {"id": "b-0", "pid": 11, "phase": "starting"},
        {"id": "c-0", "pid": None, "phase": "backoff"},
    ],
}


def test_a_status_is_read() -> None:
    assert Seen.read(STATUS) == OLD
    old = Seen.read({k: v for k, v in STATUS.items() if k != "passes"})
    assert old is not None, "a release from before passes were counted can be left"
    assert old.passes == 0


@pytest.mark.parametrize("without", ["version", "node", "epoch", "engines"])
def test_what_is_no_status_of_a_controller_is_none(without: str) -> None:
    assert Seen.read({k: v for k, v in STATUS.items() if k != without}) is None
