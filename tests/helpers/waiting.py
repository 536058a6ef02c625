"""Waiting in tests: for something to hold, with a deadline; for time, by hand."""

import asyncio
import contextlib
import datetime
import heapq
import itertools
import time
from collections.abc import Callable

from appliance.errors import ApplianceError

_MOST_S = 10.0
_TURNS = 10
"""How many turns of the event loop it may take until a task that was woken is up."""


async def until(holds: Callable[[], object], what: str = "it") -> None:
    """Return once ``holds()`` is true; fail when that takes too long."""
    try:
        async with asyncio.timeout(_MOST_S):
            while not holds():
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"{what} did not come about within {_MOST_S} s") from None


def wait_until(holds: Callable[[], object], what: str = "it", at_most_s: float = _MOST_S) -> None:
    """Return once ``holds()`` is true; what cannot answer yet counts as no."""
    deadline = time.monotonic() + at_most_s
    while time.monotonic() < deadline:
        with contextlib.suppress(ApplianceError):
            if holds():
                return
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come about within {at_most_s} s")


class StillClock:
    """Time stands where a test sets it, and nobody who sleeps has to wait."""

    def __init__(self) -> None:
        self.time = datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC)

    def utc(self) -> datetime.datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()

    async def sleep(self, seconds: float) -> None:  # noqa: ARG002 - that is the point of it
        await asyncio.sleep(0.001)

    def move(self, seconds: float) -> None:
        """Set the time forward, or back."""
        self.time += datetime.timedelta(seconds=seconds)


class SetClock(StillClock):
    """A clock that can be set, while the time that passes is another matter."""

    passed = 0.0

    def monotonic(self) -> float:
        return self.passed

    def go(self, seconds: float) -> None:
        """Let time pass."""
        self.passed += seconds
        self.move(seconds)


class HandClock:
    """Time stands still until a test moves it.

    It is for a system in which one task sleeps on it: before each step it waits until one does, so
    that what the step before set off is over.
    """

    def __init__(self, utc: datetime.datetime | None = None) -> None:
        self._began = utc or datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC)
        self._now = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def utc(self) -> datetime.datetime:
        return self._began + datetime.timedelta(seconds=self._now)

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), woken))
        await woken

    async def advance(self, seconds: float) -> None:
        """Let time pass, waking sleepers one after the other."""
        end = self._now + seconds
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        while True:
            await until(self._somebody_sleeps, "somebody asleep")
            if self._sleepers[0][0] > end:
                break
            at, _, woken = heapq.heappop(self._sleepers)
            self._now = max(self._now, at)
            woken.set_result(None)
            await asyncio.sleep(0)
        self._now = end

    def _somebody_sleeps(self) -> bool:
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return bool(self._sleepers)
