"""Time without trusting the clock. Pure.

The floor is the newest signed time that was accepted, never before this release was built. The
machine's clock is believed only when it lies above the floor and not far above it, and it is never
kept: a clock at 1970 or 2038 harms nothing.
"""

import datetime
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from appliance.core import signedtime
from appliance.core.signedtime import SignedTime

BUILT = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
"""When this release was built: no signed time that matters is older."""

SPAN = signedtime.REACH
"""How far above the floor the clock is still believed."""

KeyUse = tuple[str, bool]
"""A public key, and whether it is used online."""


@dataclass(frozen=True, slots=True)
class Now:
    """What counts as now. Unproven time lets old metadata be judged, and no command through."""

    at: datetime.datetime
    proven: bool


def of(rows: Iterable[SignedTime]) -> datetime.datetime:
    """Return the floor that signed times add up to."""
    return raised(signedtime.newest(rows), BUILT)


def kept(rows: Iterable[SignedTime], keys: Collection[KeyUse]) -> tuple[SignedTime, ...]:
    """Return the rows that still count: those of keys that are trusted for that use."""
    return tuple(row for row in rows if (row.key, row.online) in keys)


def raised(floor: datetime.datetime | None, signed: datetime.datetime) -> datetime.datetime:
    """Return the floor after a signed time was accepted; it never goes down."""
    return max(floor or BUILT, signed, BUILT)


def now(floor: datetime.datetime | None, clock: datetime.datetime) -> Now:
    """Return what counts as now, by the clock if it can be right, else by the floor."""
    low = max(floor or BUILT, BUILT)
    if datetime.timedelta(0) <= clock - low <= SPAN:
        return Now(clock, proven=True)
    return Now(low, proven=False)
