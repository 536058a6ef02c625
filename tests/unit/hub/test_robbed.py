"""What a new hub makes of the numbers that the thief of an older director's key reached."""

from typing import Any

import pytest

from appliance.hub import resume

ALL_NUMBERS = 2**53 - 1


def report(epoch: object) -> dict[str, Any]:
    return {
        "report": 7,
        "applied": {"generation": ALL_NUMBERS, "hash": "aa", "directorEpoch": epoch},
        "commands": {"counter": ALL_NUMBERS, "nonce": "bb", "directorEpoch": epoch},
    }


def test_numbers_of_an_earlier_director_do_not_count() -> None:
    found = resume.of_this_director(report(1), 2)
    assert found["applied"]["generation"] is None
    assert found["commands"] == {"counter": 0, "nonce": "bb", "directorEpoch": 1}
    assert found["report"] == 7


@pytest.mark.parametrize("epoch", [2, 3, 0, None, True, "1"])
def test_numbers_of_this_director_count_and_so_do_those_of_nobody_known(epoch: object) -> None:
    assert resume.of_this_director(report(epoch), 2) == report(epoch)


def test_a_report_without_numbers_stays_as_it_is() -> None:
    assert resume.of_this_director({"applied": "x"}, 2) == {"applied": "x"}
