"""The loops around a node's log: what comes in, what is kept, what room and what time it has."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from appliance.kit.clock import Clock
from appliance.kit.loop import Wake, drive
from appliance.node.asking import TimeAsker
from appliance.node.auditing import AuditKeeper
from appliance.node.loops import DiskLoop, UsageLoop
from appliance.node.metrics import BudgetLoop
from appliance.settings import SyncSettings
from appliance.wiring import places
from appliance.wiring.core import NodeCore


def keeping(
    core: NodeCore,
    settings: SyncSettings,
    clock: Clock,
    served: Callable[[Mapping[str, Any]], object],
) -> tuple[Coroutine[Any, Any, None], ...]:
    """Return the loops, each to be run for ever.

    Args:
        core: The node.
        settings: The budgets, and whether there is a link to ask for the time by.
        clock: Time.
        served: Told of each request that was served.
    """
    usage = UsageLoop(core.state / places.SPOOL, core.ledger, core.reserve, served)
    disk = DiskLoop(core.reserve)
    keeper = AuditKeeper(core.ledger, clock)
    budgets = BudgetLoop(core.ledger, settings)
    loops = (
        drive(usage.look, Wake(), clock, name="usage", resync_s=30),
        drive(disk.look, Wake(), clock, name="reserve", resync_s=30),
        drive(keeper.look, Wake(), clock, name="audit", resync_s=3600),
        drive(budgets.look, Wake(), clock, name="log", resync_s=60),
    )
    if not settings.broker:
        return loops
    asker = TimeAsker(core.ledger, clock, core.receipts.ask)
    return (*loops, drive(asker.look, Wake(), clock, name="time", resync_s=600))
