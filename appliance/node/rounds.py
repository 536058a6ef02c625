"""One shape of a pass, whoever wants what and whatever runs it: scale, decide, plan, act, look.

Everything it decides is in ``planner/``. It may run at any time and twice.
"""

import asyncio
import datetime
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from appliance.core.model import Replica
from appliance.core.state import (
    DeploymentStatus,
    DesiredDeployment,
    ObservedReplica,
    Phase,
    Unreadable,
)
from appliance.errors import ApplianceError
from appliance.planner.actions import Action, Start, plan
from appliance.planner.conditions import kept_out, status
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
    ``untouched`` are deployments that nobody can read just now: what runs for them goes on;
    ``unreadable`` are those that need a status from here.
    """

    deployments: Sequence[DesiredDeployment]
    places: Sequence[Place]
    demand: Mapping[str, datetime.datetime] = field(default_factory=dict)
    leave: Mapping[str, str] = field(default_factory=dict)
    untouched: frozenset[str] = frozenset()
    unreadable: Sequence[Unreadable] = ()


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
        self._nodes: dict[str, tuple[str, ...]] = {}
        self._decided: tuple[object, dict[str, Decision]] | None = None
        self._looked: dict[str, tuple[object, DeploymentStatus]] = {}

    async def make(self, facts: Facts, now: datetime.datetime) -> Outcome:
        """Look at the world once, and do what is to be done now. What fails is in the answer."""
        running = self._driver.observe()
        scales = {
            d.document.name: scale(d.document, facts.demand.get(d.document.name), now)
            for d in facts.deployments
        }
        decisions = self._decide(
            facts,
            alive={r.revision: r.node for r in running.values() if r.phase in _ALIVE},
            wanted={name: found.replicas for name, found in scales.items()},
        )
        wanted = [replica for decision in decisions.values() for replica in decision.replicas]
        todo = [a for a in plan(wanted, running, facts.leave) if self._is_sure(a, facts, running)]
        todo += self._told_otherwise(wanted, running)
        failures = await self._act(todo, running)
        after = self._driver.observe() if todo else running
        statuses = self._look(facts.deployments, decisions, scales, after)
        statuses = tuple(_with_failure(s, failures.get(s.name)) for s in statuses)
        statuses += tuple(kept_out(d, after) for d in facts.unreadable)
        changes = [s.changes_in_s for s in scales.values() if s.changes_in_s is not None]
        return Outcome(statuses, bool(todo), failures, min(changes, default=None))

    def _decide(
        self, facts: Facts, alive: Mapping[str, str], wanted: Mapping[str, int]
    ) -> dict[str, Decision]:
        """Decide, or answer as the last time when it was asked the same: most passes do that."""
        documents = [d.document for d in facts.deployments]
        asked = (documents, list(facts.places), alive, wanted)
        if self._decided is None or self._decided[0] != asked:
            found = decide(documents, facts.places, slots=self._slots, alive=alive, wanted=wanted)
            self._decided = (asked, found)
        return self._decided[1]

    def _is_sure(
        self, action: Action, facts: Facts, running: Mapping[str, ObservedReplica]
    ) -> bool:
        """Whether to act: not on what nobody can read, nor where a node has said nothing yet.

        After a cluster's datastore was lost, its nodes say one after the other what they hold.
        """
        if isinstance(action, Start):
            return True
        seen = running[action.id]
        if seen.deployment in facts.untouched:
            return False
        is_known = not seen.node or any(place.node == seen.node for place in facts.places)
        return is_known or all(d.document.name != seen.deployment for d in facts.deployments)

    def _told_otherwise(
        self, wanted: Iterable[Replica], running: Mapping[str, ObservedReplica]
    ) -> list[Action]:
        """Return starts for what does not come up and may go elsewhere than it was told."""
        nodes = {replica.id: replica.nodes for replica in wanted if replica.nodes}
        again: list[Action] = [
            Start(replica, "it may go elsewhere now")
            for replica in wanted
            if replica.nodes != self._nodes.get(replica.id, ())
            and (seen := running.get(replica.id)) is not None
            and seen.phase in (Phase.STARTING, Phase.BACKOFF)
            and seen.revision in ("", replica.revision)
        ]
        self._nodes = nodes
        return again

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
        running: Mapping[str, ObservedReplica],
    ) -> tuple[DeploymentStatus, ...]:
        """Return statuses; of what is as it was, the same objects, so that it is told by a look."""
        mine = by_deployment(running.values())
        found: dict[str, tuple[object, DeploymentStatus]] = {}
        for desired in deployments:
            name = desired.document.name
            decision, engines = decisions[name], mine.get(name, {})
            asked = (desired, decision, engines, scales[name].asleep)
            held = self._looked.get(name)
            if held is not None and held[0] == asked:
                found[name] = held
                continue
            honoured = self._driver.honours
            asleep = scales[name].asleep
            found[name] = (
                asked,
                status(desired, decision, engines, honoured=honoured, asleep=asleep),
            )
        self._looked = found
        return tuple(status for _, status in found.values())


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
