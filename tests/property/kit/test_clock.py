import contextlib
import datetime

from hypothesis import example, given
from hypothesis import strategies as st

from appliance.kit.clock import parse_rfc3339, rfc3339

ZONES = st.integers(-1439, 1439).map(
    lambda minutes: datetime.timezone(datetime.timedelta(minutes=minutes))
)
FIRST, LAST = datetime.datetime(2, 1, 1), datetime.datetime(9998, 12, 31)  # noqa: DTZ001


@given(st.datetimes(FIRST, LAST, timezones=ZONES))
def test_a_time_survives_its_text_to_the_millisecond(moment: datetime.datetime) -> None:
    found = parse_rfc3339(rfc3339(moment))
    assert found.tzinfo is datetime.UTC
    assert datetime.timedelta(0) <= moment - found < datetime.timedelta(milliseconds=1)


@given(st.text(max_size=30) | st.text("0123456789-:T+.ZW ", max_size=30))
@example("0001-01-01T00:00:00+01:00")
def test_any_text_is_a_time_in_utc_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_rfc3339(text).tzinfo is datetime.UTC
