"""When something may go on: hours by the clock on the site's wall.

A window is open exactly while that clock shows a time inside it. So in the night that skips an hour
a window inside the skipped hour does not open, and in the night that repeats one it opens twice;
nothing is guessed. Answers are in UTC: only there can any two moments be compared. Loading the time
zone and reading the clock are left to others.
"""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass

_HORIZON = datetime.timedelta(days=16)
"""How far ahead to look: a weekly window that the clock change skips opens within it."""
_DAY = datetime.timedelta(days=1)
_HOUR = datetime.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Window:
    """Hours on some days of the week, Monday being 0.

    One that closes no later than it opens closes on the next day; ``days`` are those it opens on.
    """

    days: frozenset[int]
    opens: datetime.time
    closes: datetime.time

    def holds(self, shown: datetime.datetime) -> bool:
        """Whether the window is open while the wall shows this date and time."""
        time, day = shown.time(), shown.weekday()
        if self.opens < self.closes:
            return day in self.days and self.opens <= time < self.closes
        opened_today = day in self.days and time >= self.opens
        return opened_today or ((day - 1) % 7 in self.days and time < self.closes)


@dataclass(frozen=True, slots=True)
class Windows:
    """All windows of one kind at one site; without any, it is always open."""

    windows: tuple[Window, ...]
    zone: datetime.tzinfo

    def is_open(self, at: datetime.datetime) -> bool:
        """Whether one of them is open at this moment."""
        shown = at.astimezone(self.zone)
        return not self.windows or any(window.holds(shown) for window in self.windows)

    def opens_at(self, at: datetime.datetime) -> datetime.datetime | None:
        """Return when it is open next: now if it is open, None if never in sight."""
        if self.is_open(at):
            return at.astimezone(datetime.UTC)
        return next((moment for moment in self._edges(at) if self.is_open(moment)), None)

    def closes_at(self, at: datetime.datetime) -> datetime.datetime | None:
        """Return when it is closed next; None when no end of it is in sight."""
        if not self.is_open(at):
            return at.astimezone(datetime.UTC)
        return next((moment for moment in self._edges(at) if not self.is_open(moment)), None)

    def _edges(self, at: datetime.datetime) -> Iterator[datetime.datetime]:
        """Yield, in order, all moments after ``at`` at which the answer may change."""
        utc = at.astimezone(datetime.UTC)
        found = {edge for edge in self._wall_edges(utc) if edge > utc}
        found.update(_clock_changes(self.zone, utc, utc + _HORIZON))
        yield from sorted(found)

    def _wall_edges(self, utc: datetime.datetime) -> Iterator[datetime.datetime]:
        today = utc.astimezone(self.zone).date()
        times = {time for window in self.windows for time in (window.opens, window.closes)}
        for day in range(-1, _HORIZON.days):
            for time in times:
                for fold in (0, 1):  # a time that the wall shows twice
                    wall = datetime.datetime.combine(
                        today + day * _DAY, time.replace(fold=fold), tzinfo=self.zone
                    )
                    yield wall.astimezone(datetime.UTC)


def _clock_changes(
    zone: datetime.tzinfo, begin: datetime.datetime, end: datetime.datetime
) -> Iterator[datetime.datetime]:
    """Yield the moments at which clocks in the zone are changed, to the second."""
    before = begin.replace(minute=0, second=0, microsecond=0)
    while before < end:
        after = before + _HOUR
        if _offset(zone, before) != _offset(zone, after):
            yield _narrowed(zone, before, after)
        before = after


def _narrowed(
    zone: datetime.tzinfo, before: datetime.datetime, after: datetime.datetime
) -> datetime.datetime:
    while after - before > datetime.timedelta(seconds=1):
        middle = before + datetime.timedelta(seconds=(after - before).seconds // 2)
        if _offset(zone, middle) == _offset(zone, before):
            before = middle
        else:
            after = middle
    return after


def _offset(zone: datetime.tzinfo, at: datetime.datetime) -> datetime.timedelta | None:
    return at.astimezone(zone).utcoffset()
