"""What a person is told about the time, and what to do about it."""

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.cli.receipts import brief
from tests.helpers.signing import new_key
from tests.helpers.sticks import DAY, Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "node", new_key())
    yield made
    made.close()


def test_a_clock_just_above_the_floor_is_believed(site: Site) -> None:
    found = site.time()
    assert (found["now"], found["proven"]) == ("2026-12-01T00:00:00.000Z", True)
    assert (found["todo"], brief(found)) == ("", "proven")


def test_a_clock_at_1970_is_not_and_setting_it_helps(site: Site) -> None:
    site.clock.time = datetime.datetime(1970, 1, 1, 0, 0, 7, tzinfo=datetime.UTC)
    found = site.time()
    assert (found["now"], found["proven"]) == ("2026-11-21T00:00:00.000Z", False)
    assert brief(found) == (
        "unproven since the clock says 1970-01-01T00:00:07.000Z, before the newest signed time "
        "2026-11-21T00:00:00.000Z"
    )
    assert found["todo"].startswith("set the clock")


def test_a_clock_far_ahead_is_not_and_a_signed_time_may_help(site: Site) -> None:
    site.clock.time += 500 * DAY
    found = site.time()
    assert (found["now"], found["proven"]) == ("2026-11-21T00:00:00.000Z", False)
    assert "appliance receipts export" in found["todo"]
    assert not found["asked"]
    site.ask()
    assert site.time()["asked"]


def test_what_counts_as_now_moves_with_an_answer(site: Site) -> None:
    """Fourteen months on a shelf, with a clock that was right all the time."""
    site.clock.time += 420 * DAY
    assert not site.time()["proven"]
    site.ask()
    site.answers.take_time(site.answer(site.clock.time - DAY))
    assert site.time()["proven"]
    assert site.time()["now"] == "2028-01-25T00:00:00.000Z"
