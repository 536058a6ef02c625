"""Times that keys signed, and the floor under the clock that they add up to. Pure."""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass

REACH = datetime.timedelta(days=400)
"""How far beyond the newest time that was signed offline an online key can move the floor."""


@dataclass(frozen=True, slots=True, order=True)
class SignedTime:
    """The newest time that one public key put its name to.

    ``online`` keys lie on machines with a link, where they can be stolen: what they say counts only
    near to what offline keys said.
    """

    key: str
    online: bool
    at: datetime.datetime


def newest(rows: Iterable[SignedTime]) -> datetime.datetime | None:
    """Return the newest offline time, or an online one within reach of it; None before the first.

    Each key has a row of its own, because a key that is revoked must take back what it said:
    whoever stole it may have signed a time years ahead.
    """
    known = list(rows)
    offline = max((row.at for row in known if not row.online), default=None)
    if offline is None:
        return None
    online = max((row.at for row in known if row.online), default=offline)
    if online - offline > REACH:  # asked in this way, it cannot overflow
        return offline + REACH
    return max(offline, online)
