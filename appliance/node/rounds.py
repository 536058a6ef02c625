"""One shape of a pass, whoever wants what and whatever runs it: scale, decide, plan, act, look.

Everything it decides is in ``planner/``. It may run at any time and twice.
"""

import asyncio
import datetime
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from appliance.core.state import DeploymentStatus, DesiredDeployment, ObservedReplica, Phase
from appliance.errors import ApplianceError
from appliance.planner.actions import Action, Start, plan
from appliance.planner.conditions import status
from appliance.planner.decide import decide
from appliance.planner.place import Decision, Place
from appliance.planner.scale import Scale, scale
from appliance.runtime.driver import Driver

log = logging.getLogger(__name__)

_ALIVE = (Phase.STARTING, Phase.READY)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a round is made from: what is wanted, where it may run, and who asked for it when.

    ``leave`` are replicas that must be stopped where they are, although they are wanted, and why.
    """

    deployments: Sequence[DesiredDeployment]
    places: Sequence[Place]
    demand: Mapping[str, datetime.datetime] = field(default_factory=dict)
    leave: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a round did, and how things are after it.

    ``failures`` are by deployment. ``changes_in_s`` is when an answer changes by itself.
    """

    statuses: tuple[DeploymentStatus, ...]
    acted: bool
    failures: Mapping[str, ApplianceError]
    changes_in_s: float | None


class Rounds:
    """Brings what a driver runs to what is wanted."""

    def __init__(self, driver: Driver, *, slots: int, at_once: int = 1) -> None:
        """``slots`` are those of each engine; ``at_once`` is how many actions run side by side."""
        self._driver = driver
        self._slots = slots
        self._at_once = at_once

    async def make(self, facts: Facts, now: datetime.datetime) -> Outcome:
        """Look at the world once, and do what is to be done now. What fails is in the answer."""
        running = self._driver.observe()
        scales = {
            d.document.name: scale(d.document, facts.demand.get(d.document.name), now)
            for d in facts.deployments
        }
        decisions = decide(
            [d.document for d in facts.deployments],
            facts.places,
            slots=self._slots,
            alive={r.revision: r.node for r in running.values() if r.phase in _ALIVE},
            wanted={name: found.replicas for name, found in scales.items()},
        )
        wanted = [replica for decision in decisions.values() for replica in decision.replicas]
        todo = plan(wanted, running)
        failures = await self._act(todo, running)
        statuses = self._look(facts.deployments, decisions, scales, failures)
        changes = [s.changes_in_s for s in scales.values() if s.changes_in_s is not None]
        return Outcome(statuses, bool(todo), failures, min(changes, default=None))

    async def _act(
        self, todo: Iterable[Action], running: Mapping[str, ObservedReplica]
    ) -> dict[str, ApplianceError]:
        """Carry actions out, stops before starts; return what failed, by deployment."""
        failures: dict[str, ApplianceError] = {}
        turns = asyncio.Semaphore(self._at_once)

        async def one(action: Action) -> None:
            async with turns:
                if (error := await self._apply(action)) is not None:
                    failures.setdefault(_deployment(action, running), error)

        actions = list(todo)
        await asyncio.gather(*(one(a) for a in actions if not isinstance(a, Start)))
        await asyncio.gather(*(one(a) for a in actions if isinstance(a, Start)))
        return failures

    async def _apply(self, action: Action) -> ApplianceError | None:
        try:
            if isinstance(action, Start):
                log.info("start %s: %s", action.replica.id, action.reason)
                await self._driver.start(action.replica)
            else:
                log.info("stop %s: %s", action.id, action.reason)
                await self._driver.stop(action.id)
        except ApplianceError as error:
            return error
        return None

    def _look(
        self,
        deployments: Iterable[DesiredDeployment],
        decisions: Mapping[str, Decision],
        scales: Mapping[str, Scale],
        failures: Mapping[str, ApplianceError],
    ) -> tuple[DeploymentStatus, ...]:
        mine = by_deployment(self._driver.observe().values())
        seen = (
            status(
                d,
                decisions[d.document.name],
                mine.get(d.document.name, {}),
                honoured=self._driver.honours,
                asleep=scales[d.document.name].asleep,
            )
            for d in deployments
        )
        return tuple(_with_failure(s, failures.get(s.name)) for s in seen)


def by_deployment(
    engines: Iterable[ObservedReplica],
) -> dict[str, dict[str, ObservedReplica]]:
    """Return engines by deployment and id."""
    found: dict[str, dict[str, ObservedReplica]] = {}
    for engine in engines:
        found.setdefault(engine.deployment, {})[engine.id] = engine
    return found


def _deployment(action: Action, running: Mapping[str, ObservedReplica]) -> str:
    return action.replica.deployment if isinstance(action, Start) else running[action.id].deployment


def _with_failure(found: DeploymentStatus, error: ApplianceError | None) -> DeploymentStatus:
    if error is None or found.is_ready:
        return found
    conditions = tuple(
        replace(c, reason="ActionFailed", message=error.what) if c.type == "Ready" else c
        for c in found.conditions
    )
    return replace(found, conditions=conditions)
