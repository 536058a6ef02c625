"""Time without trusting the clock."""

import datetime

from hypothesis import example, given
from hypothesis import strategies as st

from appliance.core.signedtime import SignedTime
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


rows = st.lists(
    st.builds(
        SignedTime,
        st.sampled_from(["a", "b", "c"]),
        st.booleans(),
        moments,
    )
)


@given(rows)
@example([SignedTime("a", online=False, at=LAST), SignedTime("b", online=True, at=LAST)])
def test_online_keys_move_the_floor_by_a_span_at_most(known: list[SignedTime]) -> None:
    offline = floor.of(row for row in known if not row.online)
    found = floor.of(known)
    assert offline <= found
    assert found - offline <= SPAN
    assert found == floor.of(known[::-1])


@given(rows)
def test_without_an_offline_word_online_keys_say_nothing(known: list[SignedTime]) -> None:
    assert floor.of(row for row in known if row.online) == BUILT


@given(rows, rows)
def test_more_words_never_lower_the_floor(known: list[SignedTime], more: list[SignedTime]) -> None:
    assert floor.of([*known, *more]) >= floor.of(known)


@given(rows, st.frozensets(st.tuples(st.sampled_from(["a", "b", "c"]), st.booleans())))
def test_only_keys_in_their_own_use_are_kept(
    known: list[SignedTime], keys: frozenset[floor.KeyUse]
) -> None:
    kept = floor.kept(known, keys)
    assert {(row.key, row.online) for row in kept} <= keys
    assert all(row in kept for row in known if (row.key, row.online) in keys)
