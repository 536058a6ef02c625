"""What carries out the commands of a hub on a node that runs."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from appliance.errors import EngineError
from appliance.kit.clock import SystemClock
from appliance.ledger import budgets
from appliance.node.commands import Hands
from appliance.node.loops import Passes
from appliance.node.verbs import Around, Verbs
from appliance.runtime.driver import Driver
from appliance.wiring.logs import LogLines, engine_logs

if TYPE_CHECKING:
    from appliance.wiring.core import Here, Running


async def stop_engines(driver: Driver, name: str) -> list[str]:
    """Stop the engines of a deployment; return their ids. The next pass starts them again."""
    found = sorted(r.id for r in driver.observe().values() if r.deployment == name)
    for replica in found:
        await driver.stop(replica)
    return found


def hands(
    here: "Here", running: "Running", status: Callable[[], dict[str, Any]], logs: LogLines,
    passes: Passes,
) -> Hands:  # fmt: skip
    """Return what carries commands out, within what this site's settings permit."""

    async def restart(name: str) -> list[str]:
        if running.restart is None:
            raise EngineError("engines cannot be restarted from here")
        return await running.restart(name)

    async def changed() -> None:
        running.changed()
        await passes.now()

    lines = partial(engine_logs, here.board, logs)
    core, clock = here.core, SystemClock()
    around = Around(core.ledger, here.board, clock, status, lines, restart, changed)

    def may_begin() -> None:
        core.reserve.require()
        core.ledger.read(budgets.require_audit)

    return Hands(Verbs(around).do, here.settings.sync.commands, may_begin)
