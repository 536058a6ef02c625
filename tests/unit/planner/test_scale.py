"""How many replicas there should be follows what is asked, its bounds and who asked last."""

import datetime
from typing import Any

import pytest

from appliance.planner.scale import Scale, limited, scale
from tests.helpers.models import deployment

NOW = datetime.datetime(2026, 11, 21, 12, tzinfo=datetime.UTC)


def asked(seconds_ago: float | None, **spec: Any) -> Scale:
    last = None if seconds_ago is None else NOW - datetime.timedelta(seconds=seconds_ago)
    return scale(deployment(**spec), last, NOW)


def test_without_bounds_it_is_what_was_asked_for() -> None:
    assert asked(None, replicas=3) == Scale(3)
    assert asked(1, replicas=0) == Scale(0), "nobody said that a request may wake it"


@pytest.mark.parametrize(("replicas", "found"), [(0, 1), (1, 1), (2, 2), (9, 3)])
def test_bounds_hold(replicas: int, found: int) -> None:
    assert asked(None, replicas=replicas, scaling={"min": 1, "max": 3}) == Scale(found)


@pytest.mark.parametrize(
    ("replicas", "words"),
    [
        (0, "BelowMin: 0 asked, 1 kept by scaling.min"),
        (1, None),
        (3, None),
        (9, "AboveMax: 9 asked, 3 allowed by scaling.max"),
    ],
)
def test_what_bounds_forbid_is_said(replicas: int, words: str | None) -> None:
    found = limited(deployment(replicas=replicas, scaling={"min": 1, "max": 3}))
    assert words == (None if found is None else f"{found.reason}: {found.message}")
    assert limited(deployment(replicas=replicas)) is None


def test_what_may_sleep_sleeps_until_a_request_and_again_after_it() -> None:
    spec = {"replicas": 2, "scaling": {"min": 0, "max": 3, "idleAfter": "1m"}}
    assert asked(None, **spec) == Scale(0, asleep=True)
    assert asked(0, **spec) == Scale(2, changes_in_s=60)
    assert asked(59, **spec) == Scale(2, changes_in_s=1)
    assert asked(60, **spec) == Scale(0, asleep=True)


def test_a_request_wakes_at_least_one_and_idle_is_fifteen_minutes() -> None:
    spec = {"replicas": 0, "scaling": {"min": 0, "max": 3}}
    assert asked(0, **spec) == Scale(1, changes_in_s=900)


def test_a_request_from_the_future_is_one_from_now() -> None:
    assert asked(-3600, scaling={"min": 0, "max": 1}) == Scale(1, changes_in_s=900)
