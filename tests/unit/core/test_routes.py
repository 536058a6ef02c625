import pytest

from appliance.core import wire
from appliance.core.routes import ApiKey, Endpoint, Route, RouteSnapshot
from appliance.errors import MalformedError

SNAPSHOT = RouteSnapshot(
    routes=(
        Route("chat", ("chat",), (Endpoint("chat-0", "/run/a.sock"), Endpoint("chat-1", "/b"))),
        Route("large", (), (), cannot="needs 40.0 GiB, 6.0 GiB are there", retry_after_s=60),
    ),
    keys=(ApiKey("k1", "ward-3", "0" * 64),),
)


def test_a_snapshot_survives_its_file() -> None:
    assert RouteSnapshot.load(SNAPSHOT.dump()) == SNAPSHOT
    assert RouteSnapshot.load(RouteSnapshot().dump()) == RouteSnapshot()


def test_a_route_is_found_by_its_model() -> None:
    assert SNAPSHOT.route("large") == SNAPSHOT.routes[1]
    assert SNAPSHOT.route("other") is None


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is not strict JSON"),
        (b"{}", "version None"),
        (wire.dumps({"version": 2, "routes": [], "keys": []}), "version 2"),
        (wire.dumps({"version": 1, "routes": []}), "lacks or repeats 'keys'"),
        (wire.dumps({"version": 1, "routes": [{}], "keys": []}), "'capabilities'"),
        (wire.dumps({"version": 1, "routes": [], "keys": [{"id": "k"}]}), "'tenant' and 'sha256'"),
        (wire.dumps({"version": 1, "routes": 7, "keys": []}), "not iterable"),
    ],
)
def test_what_is_no_snapshot_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(MalformedError, match=says):
        RouteSnapshot.load(data)
