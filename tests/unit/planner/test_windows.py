"""Windows are hours on the site's wall, also in the two nights when its clock is changed."""

import datetime
from zoneinfo import ZoneInfo

import pytest

from appliance.planner.windows import Window, Windows

ZURICH = ZoneInfo("Europe/Zurich")
WORKDAYS = frozenset(range(5))
EVERY_DAY = frozenset(range(7))


def utc(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text + "Z")


def windows(days: frozenset[int], opens: str, closes: str) -> Windows:
    time = datetime.time.fromisoformat
    return Windows((Window(days, time(opens), time(closes)),), ZURICH)


NIGHTS = windows(WORKDAYS, "22:00", "05:00")


@pytest.mark.parametrize(
    ("at", "is_open", "opens", "closes"),
    [  # Friday 20 November 2026; Zurich is an hour ahead
        ("2026-11-20T20:59:59", False, "2026-11-20T21:00:00", "2026-11-20T20:59:59"),
        ("2026-11-20T21:00:00", True, "2026-11-20T21:00:00", "2026-11-21T04:00:00"),
        ("2026-11-21T03:59:59", True, "2026-11-21T03:59:59", "2026-11-21T04:00:00"),
        ("2026-11-21T04:00:00", False, "2026-11-23T21:00:00", "2026-11-21T04:00:00"),
        ("2026-11-23T01:00:00", False, "2026-11-23T21:00:00", "2026-11-23T01:00:00"),
    ],
)
def test_a_night_s_window_belongs_to_the_day_it_opens_on(
    at: str, *, is_open: bool, opens: str, closes: str
) -> None:
    assert NIGHTS.is_open(utc(at)) is is_open
    assert NIGHTS.opens_at(utc(at)) == utc(opens)
    assert NIGHTS.closes_at(utc(at)) == utc(closes)


def test_without_windows_it_is_always_open() -> None:
    none = Windows((), ZURICH)
    at = utc("2026-11-20T12:00:00")
    assert (none.is_open(at), none.opens_at(at), none.closes_at(at)) == (True, at, None)


def test_the_whole_week_never_closes() -> None:
    at = utc("2026-11-20T12:00:00")
    assert windows(EVERY_DAY, "00:00", "00:00").closes_at(at) is None
    assert windows(frozenset(), "00:00", "00:00").opens_at(at) is None


def test_windows_that_touch_are_one() -> None:
    time = datetime.time
    both = Windows(
        (Window(EVERY_DAY, time(20), time(22)), Window(EVERY_DAY, time(22), time(5))), ZURICH
    )
    assert both.closes_at(utc("2026-11-20T19:30:00")) == utc("2026-11-21T04:00:00")


# On 29 March 2026 clocks in Zurich go from 02:00 to 03:00, at 01:00 UTC.


def test_in_spring_a_window_that_begins_in_the_skipped_hour_opens_when_the_clock_has_jumped() -> (
    None
):
    assert windows(EVERY_DAY, "02:30", "04:00").opens_at(utc("2026-03-29T00:00:00")) == utc(
        "2026-03-29T01:00:00"
    )


def test_in_spring_one_that_ends_in_the_skipped_hour_closes_with_the_jump() -> None:
    assert windows(EVERY_DAY, "01:00", "02:30").closes_at(utc("2026-03-29T00:30:00")) == utc(
        "2026-03-29T01:00:00"
    )


def test_in_spring_one_inside_the_skipped_hour_waits_for_the_next_time() -> None:
    sundays = windows(frozenset({6}), "02:15", "02:45")
    assert sundays.opens_at(utc("2026-03-28T00:00:00")) == utc("2026-04-05T00:15:00")


# On 25 October 2026 they go from 03:00 back to 02:00, at 01:00 UTC.


def test_in_autumn_a_window_in_the_repeated_hour_opens_twice() -> None:
    window = windows(EVERY_DAY, "01:00", "02:30")
    first = window.closes_at(utc("2026-10-25T00:00:00"))
    assert first == utc("2026-10-25T00:30:00")
    assert window.opens_at(first) == utc("2026-10-25T01:00:00")
    assert window.closes_at(utc("2026-10-25T01:00:00")) == utc("2026-10-25T01:30:00")


def test_over_the_change_a_night_s_window_keeps_its_wall_times() -> None:
    nights = windows(EVERY_DAY, "22:00", "05:00")
    assert nights.closes_at(utc("2026-10-24T20:00:00")) == utc("2026-10-25T04:00:00")
    assert nights.closes_at(utc("2026-03-28T21:00:00")) == utc("2026-03-29T03:00:00")
