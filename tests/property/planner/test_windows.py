"""Whatever the windows and the zone: what is said of the next edge is what the wall then shows."""

import datetime
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.planner.windows import Window, Windows

ZONES = ["UTC", "Europe/Zurich", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu"]
MINUTE = datetime.timedelta(minutes=1)
times = st.times().map(lambda time: time.replace(second=0, microsecond=0))
windows = st.builds(
    Windows,
    st.lists(st.builds(Window, st.frozensets(st.integers(0, 6)), times, times), max_size=3).map(
        tuple
    ),
    st.sampled_from(ZONES).map(ZoneInfo),
)
changes = [  # nights in which some of the zones change their clocks
    datetime.datetime(2026, month, day, tzinfo=datetime.UTC)
    for month, day in [(3, 8), (3, 28), (4, 4), (10, 3), (10, 24), (10, 31), (7, 1)]
]
moments = st.builds(
    lambda near, minutes: near + minutes * MINUTE,
    st.sampled_from(changes),
    st.integers(0, 2 * 24 * 60),
)


def by_the_minute(windows: Windows, at: datetime.datetime, *, wanted: bool) -> datetime.datetime:
    """Look at the wall every minute, for a day at most."""
    end = at + datetime.timedelta(days=1)
    while at < end and windows.is_open(at) is not wanted:
        at += MINUTE
    return at


@settings(max_examples=50)
@given(windows=windows, at=moments)
def test_it_opens_and_closes_when_it_says(windows: Windows, at: datetime.datetime) -> None:
    end = at + datetime.timedelta(days=1)
    for wanted, said in ((True, windows.opens_at(at)), (False, windows.closes_at(at))):
        seen = by_the_minute(windows, at, wanted=wanted)
        assert seen == (end if said is None else min(end, said))
        if said is not None:
            assert windows.is_open(said) is wanted
