"""What the node hears of demand: from marks at once, from usage facts in the end."""

import asyncio
import datetime
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.core.demand import Mark, file_name
from appliance.core.usage import Outcome, UsageRecord
from appliance.gateway.demand import DemandMarks
from appliance.kit.clock import SystemClock, rfc3339
from appliance.kit.loop import Again, Wake, drive
from appliance.node.demand import Activity, DemandLoop, MarkFolder
from tests.helpers.waiting import SetClock, StillClock


class Site:
    """A gateway's marks and the controller that reads them, at one time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = StillClock()
        self.activity = Activity(self.clock)
        self.marks = MarkFolder(folder, self.activity, self.clock)

    def gateway(self) -> DemandMarks:
        return DemandMarks(self.folder, self.clock, self.clock.monotonic)

    def at(self, seconds: float) -> datetime.datetime:
        return self.clock.time + datetime.timedelta(seconds=seconds)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_request_that_begins_to_wait_is_news_and_one_that_goes_on_waiting_is_not(
    site: Site,
) -> None:
    gateway = site.gateway()
    news = []
    for _ in range(12):
        gateway.mark("notes", waiting=True)
        news.append(site.marks.read())
        site.clock.move(1)
    assert news == [True] + [False] * 11
    found = site.activity.demand()["notes"]
    assert (found.at, found.waiting_since) == (site.at(-1), site.at(-12))
    site.clock.move(10)
    gateway.mark("notes", waiting=True)
    assert site.marks.read(), "another one waits after a long time"


@pytest.mark.parametrize("by", ["mark", "usage"])
def test_whoever_waits_after_it_served_waits_anew_however_soon(site: Site, by: str) -> None:
    """It may have fallen asleep in between: nobody else would wake it."""
    gateway = site.gateway()
    gateway.mark("notes", waiting=True)
    assert site.marks.read()
    site.clock.move(1)
    if by == "mark":
        gateway.mark("notes", waiting=False)
        site.marks.read()
    else:
        site.activity.served(record("notes", site.at(-0.5), duration_ms=300.0))
    assert site.activity.demand()["notes"].waiting_since is None
    site.clock.move(1)
    gateway.mark("notes", waiting=True)
    assert site.marks.read()
    assert site.activity.demand()["notes"].waiting_since == site.at(0)


def test_a_model_in_use_is_wanted_and_wakes_nobody(site: Site) -> None:
    site.gateway().mark("notes", waiting=False)
    assert not site.marks.read()
    assert site.activity.last_demand() == {"notes": site.at(0)}


def test_marks_are_written_once_a_second_for_each_model(site: Site) -> None:
    gateway = site.gateway()
    for _ in range(4):
        gateway.mark("a", waiting=True)
        gateway.mark("b", waiting=False)
        site.clock.move(0.4)
    site.marks.read()
    assert site.activity.last_demand() == {"a": site.at(-0.4), "b": site.at(-0.4)}
    gateway.mark("a", waiting=True)
    assert not site.marks.read(), "0.8 s after the last"


def test_a_controller_that_starts_anew_reads_what_is_there(site: Site) -> None:
    site.gateway().mark("notes", waiting=False)
    site.clock.move(3600)
    again = Site(site.folder)
    again.clock.move(3600)
    again.marks.read()
    assert again.activity.last_demand() == {"notes": again.at(-3600)}


def test_a_mark_from_the_future_is_one_from_now(site: Site) -> None:
    site.gateway().mark("notes", waiting=False)
    site.clock.move(-86_400)
    site.marks.read()
    assert site.activity.last_demand() == {"notes": site.at(0)}
    site.clock.move(-86_400)
    assert site.activity.last_demand() == {"notes": site.at(0)}, "the clock was set back"


@pytest.mark.parametrize("year", [1970, 2038])
def test_a_clock_that_is_set_and_put_right_puts_nothing_to_sleep_and_keeps_nothing_awake(
    tmp_path: Path, year: int
) -> None:
    site = Site(tmp_path)
    site.clock = clock = SetClock()
    site.activity = Activity(clock)
    mark = Mark("notes", rfc3339(clock.time), waiting=True)
    assert site.activity.marked(mark)
    clock.go(60)
    right = clock.time
    clock.time = right.replace(year=year)
    assert site.activity.last_demand() == {"notes": site.at(-60)}
    clock.go(60)
    site.activity.marked(replace(mark, at=rfc3339(clock.time), waiting=False))
    clock.time = right + datetime.timedelta(seconds=60)
    clock.go(600)
    assert site.activity.last_demand() == {"notes": site.at(-600)}
    assert site.activity.marked(replace(mark, at=rfc3339(clock.time))), "somebody waits anew"


def test_old_marks_are_removed(site: Site) -> None:
    site.gateway().mark("notes", waiting=True)
    site.clock.move(86_401)
    assert not site.marks.read()
    assert list(site.folder.iterdir()) == []


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"\xff", b"x" * 100_000, Mark("m", "today", waiting=True).dump()]
)
def test_what_is_no_mark_is_removed_and_the_others_count(site: Site, data: bytes) -> None:
    (site.folder / file_name("broken")).write_bytes(data)
    site.gateway().mark("notes", waiting=True)
    assert site.marks.read()
    assert [p.name for p in site.folder.iterdir()] == [file_name("notes")]


def test_no_folder_is_no_demand(tmp_path: Path) -> None:
    assert not Site(tmp_path / "nowhere").marks.read()


def test_a_mark_within_the_same_tick_of_the_file_system_is_read_too(site: Site) -> None:
    site.gateway().mark("one", waiting=True)
    before = site.folder.stat()
    assert site.marks.read()
    site.gateway().mark("other", waiting=True)
    os.utime(site.folder, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert site.marks.read()
    assert set(site.activity.last_demand()) == {"one", "other"}


def test_a_folder_that_did_not_change_is_not_read(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.gateway().mark("notes", waiting=True)
    time.sleep(0.15)
    site.marks.read()
    monkeypatch.setattr(Path, "iterdir", lambda _: pytest.fail("it was listed"))
    assert not site.marks.read()


# --- Usage ----------------------------------------------------------------------------------------


def record(model: str | None, at: datetime.datetime, **changes: object) -> dict[str, object]:
    made = UsageRecord("1", rfc3339(at), "r", "/v1/x", model, None, stream=True)
    return replace(made, outcome=Outcome.OK, status=200).to_wire() | changes


def test_a_model_was_wanted_until_its_last_request_ended(site: Site) -> None:
    site.activity.served(record("notes", site.at(-30), duration_ms=20_000.0))
    site.activity.served(record("notes", site.at(-25), duration_ms=5_000.0))
    site.activity.served(record("nobody", site.at(-25), status=404))
    site.activity.served(record(None, site.at(-25)))
    assert site.activity.last_demand() == {"notes": site.at(-10)}


def test_tokens_per_second_are_those_of_the_last_minute(site: Site) -> None:
    site.activity.served(record("notes", site.at(-30), duration_ms=20_000.0, completion_tokens=120))
    site.activity.served(record("quiet", site.at(-30)))
    assert site.activity.tokens_per_second() == {"notes": 2.0, "quiet": 0.0}
    site.clock.move(60)
    assert site.activity.tokens_per_second() == {"notes": 0.0, "quiet": 0.0}


# --- The loop -------------------------------------------------------------------------------------


def test_the_loop_wakes_whoever_starts_engines_within_half_a_second(tmp_path: Path) -> None:
    async def story() -> None:
        clock, wake = SystemClock(), Wake()
        marks = MarkFolder(tmp_path, Activity(clock), clock)
        loop = DemandLoop(marks, wake.set)
        assert await loop.look() == Again(0.1)
        looking = asyncio.create_task(drive(loop.look, Wake(), clock, name="d", resync_s=30))
        await asyncio.sleep(0.25)
        DemandMarks(tmp_path, clock).mark("notes", waiting=True)
        await asyncio.wait_for(wake.wait(clock, 60), 0.5)
        looking.cancel()

    asyncio.run(story())
