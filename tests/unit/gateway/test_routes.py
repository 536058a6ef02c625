"""The gateway follows the controller's snapshot, and goes on with the last good one."""

from pathlib import Path

import pytest

from appliance.core.routes import Route, RouteSnapshot
from appliance.gateway.routes import RouteFile
from appliance.kit.files import replace_quickly

A, B = (RouteSnapshot((Route(name, (), ()),)) for name in "ab")


def test_there_are_no_routes_before_the_controller_wrote_any(tmp_path: Path) -> None:
    assert RouteFile(tmp_path / "routes.json").current() == RouteSnapshot()


def test_a_replaced_snapshot_is_followed_and_an_equal_one_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "routes.json"
    routes = RouteFile(path)
    for snapshot in (A, B, A):
        replace_quickly(path, snapshot.dump())
        first = routes.current()
        assert first == snapshot
        assert routes.current() is first


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"{}", b'{"version": 2}', b'{"version": 1, "routes": [1]}', b"\xff"],
)
def test_a_damaged_or_missing_snapshot_is_passed_over(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "routes.json"
    routes = RouteFile(path)
    replace_quickly(path, A.dump())
    assert routes.current() == A
    replace_quickly(path, damage)
    assert [routes.current(), routes.current()] == [A, A]
    path.unlink()
    assert routes.current() == A
    replace_quickly(path, B.dump())
    assert routes.current() == B
