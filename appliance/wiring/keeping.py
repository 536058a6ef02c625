"""The loops that keep what a node must not lose: its audit log, and room to write it down."""

from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from appliance.kit.clock import Clock
from appliance.kit.loop import Wake, drive
from appliance.kit.reserve import Reserve
from appliance.ledger.db import Ledger
from appliance.node.auditing import AuditKeeper
from appliance.node.loops import DiskLoop


def keeping(
    state: Path, ledger: Ledger, reserve: Reserve, clock: Clock
) -> tuple[Coroutine[Any, Any, None], ...]:
    """Return the loops, each to be run for ever."""
    keeper, disk = AuditKeeper(ledger, clock), DiskLoop(state, reserve)
    return (
        drive(disk.look, Wake(), clock, name="reserve", resync_s=30),
        drive(keeper.look, Wake(), clock, name="audit", resync_s=3600),
    )
