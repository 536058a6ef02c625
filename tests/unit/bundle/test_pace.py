"""A site's windows and limits, and the patience of those who wait for them."""

import asyncio
import datetime
from zoneinfo import ZoneInfo

import pytest

from appliance.bundle.media.pace import Gate, WindowClosedError, pace_of, patiently, windows_of
from appliance.bundle.media.queue import Step
from appliance.core.documents import Site, SiteSpec
from appliance.core.reading import parse_one
from appliance.errors import BadDocumentError, IncompleteError
from appliance.planner.windows import Windows
from tests.helpers.clock import ScriptedClock

NOON = datetime.datetime(2026, 11, 20, 11, 0, tzinfo=datetime.UTC)  # Friday, 12:00 in Zurich
NIGHT = datetime.datetime(2026, 11, 20, 22, 0, tzinfo=datetime.UTC)


def site(spec: str) -> SiteSpec:
    head = "{apiVersion: edge-appliance.dev/v1alpha1, kind: Site, metadata: {name: s}, spec: "
    return parse_one(f"{head}{spec}}}", "s.yaml", Site).spec


NIGHTS = site(
    "{timeZone: Europe/Zurich, windows: {transfer: [{from: '22:00', to: '05:00'}]},"
    " network: {bytesPerSecond: 2M}}"
)


def gate(now: datetime.datetime | None, spec: SiteSpec | None = NIGHTS) -> None:
    Gate(windows_of(spec), lambda: now)()


def test_inside_the_window_it_goes_on() -> None:
    gate(NIGHT)


def test_outside_it_says_when_it_opens_in_site_time() -> None:
    with pytest.raises(WindowClosedError, match="opens at Fri 22:00") as caught:
        gate(NOON)
    assert caught.value.until == datetime.datetime(2026, 11, 20, 21, 0, tzinfo=datetime.UTC)
    assert (caught.value.code, caught.value.exit_code) == ("incomplete", 23)
    assert "--now" in str(caught.value.hint)


def test_while_the_time_is_not_proven_nobody_knows() -> None:
    with pytest.raises(WindowClosedError, match="time here is not proven") as caught:
        gate(None)
    assert caught.value.until is None


def test_without_a_site_or_windows_it_is_always_open_even_without_time() -> None:
    gate(None, None)
    gate(None, site("{timeZone: Nowhere/AtAll}"))


def test_a_zone_that_is_not_known_is_named() -> None:
    with pytest.raises(BadDocumentError, match="Nowhere/AtAll"):
        windows_of(
            site("{timeZone: Nowhere/AtAll, windows: {transfer: [{from: '22:00', to: '05:00'}]}}")
        )


@pytest.mark.parametrize(
    ("spec", "own", "piece"),
    [
        (NIGHTS, None, 250_000),
        (NIGHTS, 80_000, 10_000),
        (NIGHTS, 800_000_000, 250_000),
        (None, 80_000, 10_000),
        (None, 0, 256 << 10),
        (site("{network: {bytesPerSecond: '0'}}"), None, 4 << 10),
    ],
)
def test_the_smaller_limit_holds(spec: SiteSpec | None, own: int | None, piece: int) -> None:
    pace = pace_of(spec, lambda: NOON, bytes_per_second=own)
    assert pace.throttle.piece == piece


def test_at_once_opens_the_window_and_keeps_the_rate() -> None:
    pace = pace_of(NIGHTS, lambda: NOON, at_once=True)
    pace.gate()
    assert pace.throttle.piece == 250_000
    with pytest.raises(WindowClosedError):
        pace_of(NIGHTS, lambda: NOON).gate()


class Transfer:
    """Goes on while its window is open; needs three openings."""

    def __init__(self, clock: ScriptedClock) -> None:
        self.windows = windows_of(NIGHTS)
        self.at: list[datetime.datetime] = []
        self._clock = clock

    async def __call__(self) -> str:
        self.at.append(self._clock.utc())
        Gate(self.windows, self._clock.utc)()
        if len(self.at) < 4:
            self._clock.time = self.windows.closes_at(self._clock.utc()) or NOON
            Gate(self.windows, self._clock.utc)()
        return "whole"


def test_whoever_waits_asks_again_whenever_the_window_opens() -> None:
    clock, told = ScriptedClock(utc=NOON, limit=10_000), list[Step]()
    work = Transfer(clock)
    assert asyncio.run(patiently(work, work.windows, clock, told.append)) == "whole"
    assert [at.strftime("%d %H:%M") for at in work.at] == [
        "20 11:00",
        "20 21:00",
        "21 21:00",
        "22 21:00",
    ]
    assert told[0].doing == "waits for the transfer window until Fri 22:00"


def test_a_clock_that_is_set_while_one_waits_is_followed() -> None:
    clock = ScriptedClock(utc=NOON)
    work = Transfer(clock)

    async def jumps(seconds: float) -> None:
        clock.slept.append(seconds)
        clock.time = NIGHT

    clock.sleep = jumps  # type: ignore[method-assign]
    work.at = [NOON] * 3
    assert asyncio.run(patiently(work, work.windows, clock, lambda _: None)) == "whole"
    assert clock.slept == [60]


def test_other_ends_are_ends() -> None:
    windows = Windows((), ZoneInfo("UTC"))

    async def lost() -> None:
        raise IncompleteError("the link broke")

    async def unknown() -> None:
        gate(None)

    for work, family in ((lost, IncompleteError), (unknown, WindowClosedError)):
        with pytest.raises(family):
            asyncio.run(patiently(work, windows, ScriptedClock(limit=0), lambda _: None))
