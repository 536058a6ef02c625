"""Time without trusting the clock."""

import datetime

from hypothesis import example, given
from hypothesis import strategies as st

from appliance.trust import floor
from appliance.trust.floor import BUILT, SPAN, Now

moments = st.datetimes(timezones=st.just(datetime.UTC))
floors = st.none() | moments
LAST = datetime.datetime.max.replace(tzinfo=datetime.UTC)
SECOND = datetime.timedelta(seconds=1)


@given(floors, moments)
def test_the_floor_only_rises_and_never_lies_before_the_release(
    known: datetime.datetime | None, signed: datetime.datetime
) -> None:
    new = floor.raised(known, signed)
    assert new >= BUILT
    assert new >= signed
    assert known is None or new >= known
    assert floor.raised(new, signed) == new


@given(floors, moments)
@example(LAST, LAST)
def test_now_is_the_clock_within_the_span_and_else_the_floor(
    known: datetime.datetime | None, clock: datetime.datetime
) -> None:
    now, low = floor.now(known, clock), floor.raised(known, BUILT)
    assert now == (Now(clock, proven=True) if now.proven else Now(low, proven=False))
    assert now.at >= low
    assert now.at - low <= SPAN
    assert now.proven == (clock >= low and clock - low <= SPAN)


def test_the_span_includes_its_ends() -> None:
    known = BUILT + datetime.timedelta(days=100)
    assert floor.now(known, known).proven
    assert floor.now(known, known + SPAN).proven
    assert not floor.now(known, known - SECOND).proven
    assert not floor.now(known, known + SPAN + SECOND).proven


def test_1970_and_2038_harm_nothing() -> None:
    for clock in (
        datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC),
        datetime.datetime(2038, 1, 19, 3, 14, 8, tzinfo=datetime.UTC),
    ):
        assert floor.now(None, clock) == Now(BUILT, proven=False)
