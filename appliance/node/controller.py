"""The level-triggered loop of a machine that is alone: observe, plan, apply, report.

Everything it decides is in ``planner/``; everything it touches is behind a driver, the ledger or a
file. It may run at any time and twice.
"""

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from appliance.cache import catalog
from appliance.core.machine import MachineFacts
from appliance.kit.clock import Clock
from appliance.kit.loop import Again
from appliance.ledger.db import Ledger
from appliance.node import desired
from appliance.node.board import Board
from appliance.node.rounds import Facts, Outcome, Rounds
from appliance.planner.place import Place
from appliance.trust.listed import Listed


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What each pass asks afresh: what the machine has, what may run on it, who asked for it."""

    machine: Callable[[], MachineFacts]
    listed: Callable[[], Listed]
    demand: Callable[[], Mapping[str, datetime.datetime]] = dict
    """When a deployment was last asked for, by name; what is not in it is not remembered."""
    leave: Callable[[], Mapping[str, str]] = dict
    """Which replicas must leave the GPU that they run on, and why."""


class Controller:
    """Brings one node to what is wanted of it."""

    def __init__(
        self, ledger: Ledger, rounds: Rounds, around: Surroundings, board: Board, clock: Clock
    ) -> None:
        self.board = board
        self._ledger = ledger
        self._rounds = rounds
        self._around = around
        self._clock = clock

    async def reconcile(self) -> Again | None:
        """Look at the world once, and do what is to be done now.

        Raises:
            ApplianceError: an action failed; it was reported, and the pass may be repeated.
        """
        state = self._ledger.read(desired.in_force)
        around = self._around
        facts = Facts(
            state.deployments, [self._here()], around.demand(), around.leave(),
            untouched=frozenset(d.name for d in state.unreadable), unreadable=state.unreadable,
        )  # fmt: skip
        found = await self._rounds.make(facts, self._clock.utc())
        self.board.show(state, found.statuses)
        if found.failures:
            raise next(iter(found.failures.values()))
        return when_again(found)

    def _here(self) -> Place:
        """Step 15 of an import: what is started is listed and not revoked at this moment."""
        variants = tuple(self._ledger.read(catalog.variants))
        machine = self._around.machine()
        denied = self._around.listed().denied(variants)
        return Place("", variants, machine.memory_bytes, machine.gpus.gpus, denied)


def when_again(found: Outcome) -> Again | None:
    """Return when to look again although nothing may have happened."""
    if found.acted:
        return Again(1.0)
    return None if found.changes_in_s is None else Again(found.changes_in_s)
