"""Is there room for an import? Honest arithmetic over what is free and what the site allows."""

from dataclasses import dataclass

RESERVE_BYTES = 64 << 20
"""Left free whatever happens, so that what must be recorded can be: DESIGN section 4."""


@dataclass(frozen=True, slots=True)
class Room:
    """What there is to write into.

    ``budget`` is the most that models may take and ``floor`` what must stay free, as the site's
    document says; None where it says nothing.
    """

    free: int
    stored: int
    budget: int | None = None
    floor: int | None = None


def lacking(needed: int, room: Room) -> tuple[int, str]:
    """Return how many bytes are lacking for ``needed`` more, and why; 0 when it fits.

    An import that writes nothing always fits.
    """
    if not needed:
        return 0, ""
    most_left = max(RESERVE_BYTES, room.floor or 0)
    of_disk = needed + most_left - room.free
    of_budget = 0 if room.budget is None else room.stored + needed - room.budget
    if of_disk <= 0 and of_budget <= 0:
        return 0, ""
    if of_disk >= of_budget:
        kept = "the site's floor" if most_left == room.floor else "the reserve"
        return of_disk, (
            f"{_mib(needed)} MiB are needed and {_mib(most_left)} MiB must stay free ({kept}),"
            f" {room.free >> 20} MiB are free"
        )
    return of_budget, (
        f"{_mib(needed)} MiB are needed, models take {_mib(room.stored)} MiB,"
        f" and the site allows them {(room.budget or 0) >> 20} MiB"
    )


def _mib(count: int) -> int:
    """Return MiB, rounded up: who follows a hint must not fall short of it."""
    return -(-count >> 20)
