"""Ready is only what the node signed a short while ago; silence and nonsense never look well."""

import datetime
from typing import Any

import pytest

from appliance.hub.store import NodeRow
from appliance.hub.view import NodeView, State, view
from appliance.kit.clock import rfc3339

NOW = datetime.datetime(2026, 12, 1, 12, tzinfo=datetime.UTC)
READY = {"type": "Ready", "status": "True"}


def serving(name: str = "notes", **changes: Any) -> dict[str, Any]:
    return {"name": name, "conditions": [READY], **changes}


def look(reported: Any, *, silent_s: float = 1, link: dict[str, Any] | None = None) -> NodeView:
    heard = rfc3339(NOW - datetime.timedelta(seconds=silent_s))
    row = NodeRow("box-1", "k", "2026-11-30T00:00:00Z", "e", link, reported, 1, heard)
    return view(row, 3, NOW, heartbeat_s=30)


def test_a_node_that_was_never_heard_says_so() -> None:
    row = NodeRow("box-1", "k", "2026-11-30T00:00:00Z", None, {"online": True}, None, None, None)
    found = view(row, None, NOW, heartbeat_s=30)
    assert (found.state, found.gpus, found.applied) == (State.NEVER_HEARD, "not known", None)
    assert found.why == "admitted 2026-11-30T00:00:00Z, no report yet"


def test_all_deployments_serve() -> None:
    found = look({"deployments": [serving(), serving("b")], "applied": {"generation": 2}})
    assert (found.state, found.why) == (
        State.READY,
        "2 of 2 deployments serve; asked for generation 3, it follows 2",
    )
    assert (found.generation, found.applied) == (3, 2)


def test_one_that_does_not_serve_is_named() -> None:
    waiting = {"name": "b", "conditions": [{"type": "Ready", "status": "False"}]}
    applied = {"generation": 3}
    found = look({"deployments": [serving(), waiting, {"name": "c"}], "applied": applied})
    assert (found.state, found.why) == (State.DEGRADED, "not ready: b, c")


@pytest.mark.parametrize(("silent_s", "state"), [(90, State.READY), (90.1, State.STALE)])
def test_three_heartbeats_of_silence_make_it_stale_whatever_it_said(
    silent_s: float, state: State
) -> None:
    found = look({"deployments": [serving()]}, silent_s=silent_s, link={"online": True})
    assert found.state is state


def test_a_stale_node_says_since_when() -> None:
    found = look({"deployments": [serving()], "applied": {"generation": 3}}, silent_s=3700)
    assert found.why == "stale since 2026-12-01T10:58:20.000Z, 1 h 1 min ago"


@pytest.mark.parametrize(
    "reported",
    [
        {},
        {"deployments": "all well"},
        {"deployments": {"notes": serving()}},
        {"deployments": [serving(), "more"]},
        {"deployments": [serving(), {"conditions": [READY]}]},
        {"deployments": [{"name": 7, "conditions": [READY]}]},
        {"deployments": [serving(conditions=[7, READY])], "applied": 7, "drift": [1], "machine": 1},
        {"deployments": [], "machine": {"gpus": [1]}, "drift": {"notes": 1}},
        {"deployments": [], "machine": {"gpus": {"gpus": [1, {"name": 2}]}}},
    ],
)
def test_nonsense_that_was_signed_breaks_nothing(reported: Any) -> None:
    found = look(reported)
    sound = reported.get("deployments") in ([], [serving(conditions=[7, READY])])
    assert found.state is (State.READY if sound else State.DEGRADED)


@pytest.mark.parametrize(
    ("gpus", "text"),
    [
        (None, "not known"),
        ([], "none"),
        ([{"name": "H200"}, {"name": None}], "H200, not known"),
    ],
)
def test_gpus_that_nobody_could_read_are_not_none(gpus: Any, text: str) -> None:
    found = look({"deployments": [], "machine": {"gpus": {"gpus": gpus, "note": ""}}})
    assert found.gpus == text


def test_what_the_broker_says_is_shown_and_is_evidence_of_nothing() -> None:
    online = look({"deployments": [serving()]}, silent_s=1000, link={"online": True})
    assert (online.connected, online.state) == (True, State.STALE)
    offline = look({"deployments": [serving()]}, link={"online": False})
    assert (offline.connected, offline.state) == (False, State.READY)
    assert look({}).connected is None


def test_a_full_disk_is_said_although_everything_serves() -> None:
    report = {"deployments": [serving()], "applied": {"generation": 3}}
    found = look({**report, "reserve": False})
    assert found.state is State.DEGRADED
    assert found.why == "its disk is full, so it begins nothing new; 1 of 1 deployments serve"
    assert look({**report, "reserve": True}).state is State.READY


def test_drift_is_shown() -> None:
    assert look({"drift": {"notes": "replicas"}}).drift == {"notes": "replicas"}
