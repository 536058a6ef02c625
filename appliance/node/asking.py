"""Asking the hub what time it is, when this node cannot know."""

import asyncio
from collections.abc import Callable

from appliance.kit.clock import Clock
from appliance.kit.loop import Again
from appliance.ledger import meta, receipts
from appliance.ledger.db import Ledger
from appliance.trust import floor

_LOOK_S = 60.0
_AGAIN_S = 24 * 3600.0
"""How long an answer is good enough where the clock stays wrong: the floor stands still then."""


class TimeAsker:
    """Asks once while time is unproven, and anew a day after each answer.

    The question is a nonce in a receipt, so it leaves by whichever road is open first, and the hub
    repeats its answer on every connection until another question comes.
    """

    def __init__(self, ledger: Ledger, clock: Clock, ask: Callable[[], object]) -> None:
        """``ask`` makes a receipt that carries the nonce; called on a thread of its own."""
        self._ledger = ledger
        self._clock = clock
        self._ask = ask
        self._asked: float | None = None

    async def look(self) -> Again:
        """Ask if that is due.

        Raises:
            NoSpaceError, StateUnusableError: the question could not be written down.
        """
        if self._is_due():
            await asyncio.to_thread(self._ask)
            self._asked = self._clock.monotonic()
        return Again(_LOOK_S)

    def _is_due(self) -> bool:
        now = floor.now(self._ledger.read(meta.floor), self._clock.utc())
        if now.proven or self._ledger.read(receipts.nonce) is not None:
            return False
        return self._asked is None or self._clock.monotonic() - self._asked >= _AGAIN_S
