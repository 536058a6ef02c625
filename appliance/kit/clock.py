"""Time as an argument, so that an hour's backoff takes a test a millisecond."""

import asyncio
import datetime
import time
from typing import Protocol


class Clock(Protocol):
    """Where a loop gets its time from."""

    def utc(self) -> datetime.datetime:
        """Return the machine's idea of the time, aware, in UTC. It may be wrong by years."""

    def monotonic(self) -> float:
        """Return seconds that never go back."""

    async def sleep(self, seconds: float) -> None:
        """Wait; cancellable."""


class SystemClock:
    """The machine's clock."""

    def utc(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def rfc3339(moment: datetime.datetime) -> str:
    """Return a UTC time as text, to the millisecond."""
    text = moment.astimezone(datetime.UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def parse_rfc3339(text: str) -> datetime.datetime:
    """Return the time in ``text``.

    Raises:
        ValueError: not an RFC 3339 time with a zone, or one that is before year 1 in UTC.
    """
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    try:
        return moment.astimezone(datetime.UTC)
    except OverflowError as error:
        raise ValueError(f"{text!r} is out of range in UTC") from error
