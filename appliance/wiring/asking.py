"""The loop that asks the hub for the time, on a node that cannot know it."""

from collections.abc import Coroutine
from typing import Any

from appliance.bundle.take.receipts import ReceiptBook
from appliance.kit.clock import Clock
from appliance.kit.loop import Wake, drive
from appliance.ledger.db import Ledger
from appliance.node.asking import TimeAsker
from appliance.settings import SyncSettings


def asking(
    ledger: Ledger, receipts: ReceiptBook, settings: SyncSettings, clock: Clock
) -> tuple[Coroutine[Any, Any, None], ...]:
    """Return the loop, to be run for ever; none where there is no link to ask by."""
    if not settings.broker:
        return ()
    asker = TimeAsker(ledger, clock, receipts.ask)
    return (drive(asker.look, Wake(), clock, name="time", resync_s=600),)
