"""What this node takes for now, whether that is proven, and what a person can do about it."""

import sqlite3
from typing import Any

from appliance.kit.clock import Clock, rfc3339
from appliance.ledger import meta, receipts
from appliance.trust import floor

_SIGNED = (
    "for a signed time: appliance receipts export STICK; at the hub: appliance hub receipts import "
    "STICK; back here: appliance time take STICK"
)


def freshness(db: sqlite3.Connection, clock: Clock) -> dict[str, Any]:
    """Return the node's time as plain JSON data, with why it is believed or not."""
    machine = clock.utc()
    low = floor.raised(meta.floor(db), floor.BUILT)
    found = floor.now(low, machine)
    days = floor.SPAN.days
    if found.proven:
        why, todo = f"the clock lies within {days} days after the newest signed time", ""
    elif machine < low:
        why = f"the clock says {rfc3339(machine)}, before the newest signed time {rfc3339(low)}"
        todo = f"set the clock; {_SIGNED}"
    else:
        why = (
            f"the clock says {rfc3339(machine)}, more than {days} days after the newest signed "
            f"time {rfc3339(low)}"
        )
        todo = f"if the clock is wrong, set it; if it is right, {_SIGNED}"
    return {
        "now": rfc3339(found.at),
        "proven": found.proven,
        "clock": rfc3339(machine),
        "floor": rfc3339(low),
        "asked": receipts.nonce(db) is not None,
        "why": why,
        "todo": todo,
    }
