"""At what pace a node takes bundles over the network, and what to do while it may not.

Waiting is not the import's business: while its window is closed an import ends as interrupted and
keeps what it has, so that the queue is free for a stick. Whoever asked for it waits, and asks
again.
"""

import datetime
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from appliance.bundle.media.queue import Step
from appliance.core.documents import Day, Hours, SiteSpec
from appliance.errors import BadDocumentError, InterruptedImportError
from appliance.kit.clock import Clock
from appliance.kit.throttle import Pace, Throttle
from appliance.planner.windows import Window, Windows

T = TypeVar("T")
_DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_LOOK_AGAIN_S = 60.0
"""A clock may be set while one waits by it."""


class WindowClosedError(InterruptedImportError):
    """No more may come now. What was copied stays; ``until`` is when to go on, if that is known."""

    def __init__(self, what: str, until: datetime.datetime | None, *, hint: str) -> None:
        super().__init__(what, hint=hint)
        self.until = until


@dataclass(frozen=True, slots=True)
class Gate:
    """A site's transfer windows, judged by a time that somebody vouches for.

    ``now`` returns None while the time is not proven: nobody knows then whether it is open.
    """

    windows: Windows
    now: Callable[[], datetime.datetime | None]

    def __call__(self) -> None:
        """Let a transfer go on.

        Raises:
            WindowClosedError: not now.
        """
        if not self.windows.windows:
            return
        now = self.now()
        if now is None:
            raise WindowClosedError(
                "the time here is not proven, so nobody knows whether the transfer window is open",
                None,
                hint="set the clock, or transfer at once: --now",
            )
        if self.windows.is_open(now):
            return
        until = self.windows.opens_at(now)
        raise WindowClosedError(
            f"the transfer window is closed; it {self._opens(until)}",
            until,
            hint="what was copied stays and is gone on with; to transfer at once: --now",
        )

    def _opens(self, until: datetime.datetime | None) -> str:
        if until is None:
            return "does not open in the next two weeks"
        return f"opens at {shown(until, self.windows.zone)}"


def shown(moment: datetime.datetime, zone: datetime.tzinfo) -> str:
    """Return a moment as the clock at the site will show it."""
    return moment.astimezone(zone).strftime("%a %H:%M")


def windows_of(site: SiteSpec | None) -> Windows:
    """Return a site's transfer windows; none means always.

    Raises:
        BadDocumentError: this machine does not know its time zone.
    """
    if site is None or site.windows is None:
        return Windows((), datetime.UTC)
    try:
        zone = ZoneInfo(site.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadDocumentError(
            f"the site's time zone {site.time_zone!r} is not known here",
            hint="an IANA name such as Europe/Zurich; the package tzdata brings them",
        ) from error
    return Windows(tuple(_window(hours) for hours in site.windows.transfer), zone)


def _window(hours: Hours) -> Window:
    days = frozenset(_DAYS.index(day) for day in hours.days)
    return Window(days, hours.from_.time, hours.to.time)


def pace_of(
    site: SiteSpec | None,
    now: Callable[[], datetime.datetime | None],
    *,
    bytes_per_second: int | None = None,
    at_once: bool = False,
) -> Pace:
    """Return what a transfer keeps to here.

    Args:
        site: The site's document, if there is one.
        now: The proven time, or None; see ``Gate``.
        bytes_per_second: The machine's own limit; the smaller one holds.
        at_once: A person said not to wait for the window. The rate still holds.

    Raises:
        BadDocumentError: as ``windows_of``.
    """
    limits = [bytes_per_second] if bytes_per_second else []
    if site is not None and site.network is not None and site.network.bytes_per_second is not None:
        limits.append(site.network.bytes_per_second.size)
    throttle = Throttle(max(1, min(limits)) if limits else None)
    return Pace(throttle) if at_once else Pace(throttle, Gate(windows_of(site), now))


async def patiently(
    work: Callable[[], Awaitable[T]],
    windows: Windows,
    clock: Clock,
    tell: Callable[[Step], None],
) -> T:
    """Do it, and again whenever its window opens, until it ends otherwise.

    Args:
        work: The import; it goes on from where it was interrupted.
        windows: What it waits for; only to say so in site time.
        clock: Slept by.
        tell: Told what it waits for.

    Raises:
        WindowClosedError: nobody knows when the window opens.
        ApplianceError: what else ``work`` raises.
    """
    while True:
        try:
            return await work()
        except WindowClosedError as closed:
            if closed.until is None:
                raise
            until = closed.until
        tell(Step(f"waits for the transfer window until {shown(until, windows.zone)}"))
        while True:
            left_s = (until - clock.utc()).total_seconds()
            await clock.sleep(min(max(left_s, 1), _LOOK_AGAIN_S))
            if left_s <= _LOOK_AGAIN_S or windows.is_open(clock.utc()):
                break
