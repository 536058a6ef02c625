import asyncio
import datetime

import pytest

from appliance.kit.clock import SystemClock, parse_rfc3339, rfc3339

MOMENT = datetime.datetime(2026, 12, 1, 8, 30, 0, 123_999, tzinfo=datetime.UTC)


def test_a_time_is_written_in_utc_to_the_millisecond() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
    assert rfc3339(MOMENT) == rfc3339(MOMENT.astimezone(zone)) == "2026-12-01T08:30:00.123Z"


@pytest.mark.parametrize(
    "text", ["2026-12-01T08:30:00Z", "2026-12-01T10:00:00+01:30", "2026-12-01 08:30:00.000000Z"]
)
def test_a_time_in_any_zone_is_read_as_utc(text: str) -> None:
    found = parse_rfc3339(text)
    assert found == MOMENT.replace(microsecond=0)
    assert found.tzinfo is datetime.UTC


@pytest.mark.parametrize(
    "text",
    ["", "soon", "2026-12-01T08:30:00", "2026-13-01T08:30:00Z", "2026-12-01T08:30:00+99:00",
     "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"],
)  # fmt: skip
def test_what_is_no_time_with_a_zone_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_rfc3339(text)


def test_the_machine_s_clock_is_aware_and_its_sleep_can_be_cancelled() -> None:
    clock = SystemClock()
    assert clock.utc().tzinfo is datetime.UTC
    assert clock.monotonic() <= clock.monotonic()

    async def scenario() -> None:
        async with asyncio.timeout(0.01):
            await clock.sleep(3600)

    with pytest.raises(TimeoutError):
        asyncio.run(scenario())
