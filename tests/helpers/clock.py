"""Time that a test holds in its hand."""

import datetime


class StoppedError(Exception):
    """The clock was asked to sleep more often than the test allows."""


class ScriptedClock:
    """Sleeps take no time and are written down; the one after ``limit`` raises StoppedError."""

    def __init__(self, *, limit: int = 1_000, utc: datetime.datetime | None = None) -> None:
        self.slept: list[float] = []
        self.time = utc or datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC)
        self._limit = limit

    def utc(self) -> datetime.datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()

    async def sleep(self, seconds: float) -> None:
        if len(self.slept) == self._limit:
            raise StoppedError
        self.slept.append(seconds)
        self.time += datetime.timedelta(seconds=seconds)
