"""What is said to people when there is no room."""

import pytest

from appliance.planner.space import Room, lacking

GIB = 1 << 30


@pytest.mark.parametrize(
    ("room", "short", "why"),
    [
        (Room(free=3 * GIB, stored=0), 0, ""),
        (Room(free=GIB, stored=0), GIB + (64 << 20), "64 MiB must stay free (the reserve)"),
        (Room(free=3 * GIB, stored=0, floor=2 * GIB), GIB, "2048 MiB must stay free (the site's"),
        (Room(free=9 * GIB, stored=GIB, budget=2 * GIB), GIB, "models take 1024 MiB, and the site"),
        (Room(free=9 * GIB, stored=GIB, budget=3 * GIB), 0, ""),
    ],
)
def test_two_gibibytes(room: Room, short: int, why: str) -> None:
    found, words = lacking(2 * GIB, room)
    assert found == short
    assert why in words
