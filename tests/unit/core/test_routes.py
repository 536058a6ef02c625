import pytest

from appliance.core import wire
from appliance.core.routes import ApiKey, Endpoint, Route, RouteSnapshot
from appliance.errors import MalformedError

SNAPSHOT = RouteSnapshot(
    routes=(
        Route("chat", ("chat",), (Endpoint("chat-0", "/run/a.sock"), Endpoint("chat-1", "/b"))),
        Route("pods", ("chat",), (Endpoint("pods-0", "http://10.42.1.7:8080", "node-b"),)),
        Route("idle", ("chat",), (), wakes=True),
        Route("large", (), (), cannot="needs 40.0 GiB, 6.0 GiB are there", retry_after_s=60),
    ),
    keys=(ApiKey("k1", "ward-3", "0" * 64),),
)

WRITTEN_BEFORE = {
    "model": "chat",
    "capabilities": ["chat"],
    "endpoints": [{"replica": "chat-0", "socket": "/run/a.sock"}],
    "cannot": "",
    "retry_after_s": 5,
}


def test_a_snapshot_of_the_release_before_is_read() -> None:
    data = wire.dumps({"version": 1, "routes": [WRITTEN_BEFORE], "keys": [], "needs_key": True})
    found = RouteSnapshot.load(data)
    assert found.routes == (Route("chat", ("chat",), (Endpoint("chat-0", "/run/a.sock"),)),)
    assert found.needs_key


def test_the_release_before_reads_what_is_written_now() -> None:
    """Its reader gave each route and endpoint to a constructor: a word more was an error."""
    written = wire.loads(SNAPSHOT.dump(), what="it")
    assert written["version"] == 1
    assert {frozenset(route) for route in written["routes"]} == {frozenset(WRITTEN_BEFORE)}
    endpoints = [e for route in written["routes"] for e in route["endpoints"]]
    assert {frozenset(e) for e in endpoints} == {frozenset({"replica", "socket"})}
    assert {frozenset(key) for key in written["keys"]} == {frozenset({"id", "tenant", "sha256"})}


def test_what_a_later_release_adds_is_passed_over() -> None:
    later = WRITTEN_BEFORE | {"weight": 10}
    data = {"version": 1, "routes": [later], "keys": [], "needs_key": False, "canary": {}}
    assert RouteSnapshot.load(wire.dumps(data)).routes[0].model == "chat"


def test_a_snapshot_survives_its_file() -> None:
    assert RouteSnapshot.load(SNAPSHOT.dump()) == SNAPSHOT
    assert RouteSnapshot.load(RouteSnapshot().dump()) == RouteSnapshot()


def test_a_route_is_found_by_its_model() -> None:
    assert SNAPSHOT.route("large") == SNAPSHOT.routes[3]
    assert SNAPSHOT.route("other") is None


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is not strict JSON"),
        (b"{}", "version None"),
        (wire.dumps({"version": 2, "routes": [], "keys": []}), "version 2"),
        (wire.dumps({"version": 1, "routes": []}), "lacks or repeats 'keys'"),
        (wire.dumps({"version": 1, "routes": [{}], "keys": []}), "'model'"),
        (wire.dumps({"version": 1, "routes": [], "keys": [{"id": "k"}]}), "'tenant'"),
        (wire.dumps({"version": 1, "routes": 7, "keys": []}), "not iterable"),
        (wire.dumps({"version": 1, "routes": [], "keys": [], "wakes": 1}), "not iterable"),
        (
            wire.dumps({"version": 1, "routes": [WRITTEN_BEFORE], "keys": [], "nodes": []}),
            "no attribute 'get'",
        ),
    ],
)
def test_what_is_no_snapshot_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(MalformedError, match=says):
        RouteSnapshot.load(data)
