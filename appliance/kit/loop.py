"""The one loop shape of all daemons.

A loop is told which thing to look at, reads the world afresh, and may run twice or late without
harm. It returns nothing, or when to look again; it raises to be retried. Events only wake it, and
the resync interval covers those that were lost.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from appliance.errors import ApplianceError, RefusedError
from appliance.kit.backoff import growing
from appliance.kit.clock import Clock

log = logging.getLogger(__name__)

_MOST_RETRY_S = 30.0
"""Who was away for an hour is heard again this soon."""


@dataclass(frozen=True, slots=True)
class Again:
    """Look again after this many seconds, although nothing may have happened."""

    after_s: float


class Wake:
    """Wakes a loop. Setting it many times before the loop looks counts once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the loop; call it on the loop's own thread."""
        self._event.set()

    async def wait(self, clock: Clock, at_most_s: float) -> None:
        """Return when woken or after ``at_most_s`` seconds, whichever comes first."""
        if self._event.is_set():
            self._event.clear()
            return
        woken = asyncio.ensure_future(self._event.wait())
        slept = asyncio.ensure_future(clock.sleep(at_most_s))
        try:
            done, _ = await asyncio.wait({woken, slept}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            woken.cancel()
            slept.cancel()
        self._event.clear()


async def drive(
    reconcile: Callable[[], Awaitable[Again | None]],
    wake: Wake,
    clock: Clock,
    *,
    name: str,
    resync_s: float,
) -> None:
    """Run ``reconcile`` for ever.

    Success waits for what it asked for, else for a wake or the resync interval. A failure waits
    from half a second up to half a minute, longer each time, and never past the resync interval;
    a refusal, which retrying cannot cure, waits for a wake or the resync interval at once.
    """
    most_s = min(resync_s, _MOST_RETRY_S)
    delays = growing(0.5, most_s)
    while True:
        try:
            again = await reconcile()
        except RefusedError as error:
            log.warning("%s: %s", name, error)
            await wake.wait(clock, resync_s)
            continue
        except ApplianceError as error:
            log.warning("%s: %s; trying again", name, error)
            await clock.sleep(next(delays))
            continue
        except Exception:
            log.exception("%s failed; trying again", name)
            await clock.sleep(next(delays))
            continue
        delays = growing(0.5, most_s)
        await wake.wait(clock, resync_s if again is None else min(again.after_s, resync_s))
