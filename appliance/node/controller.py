"""The level-triggered loop: observe, plan, apply, report.

Everything it decides is in ``planner/``; everything it touches is behind a driver, the ledger or a
file. It may run at any time and twice.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from appliance.cache import catalog
from appliance.core.machine import MachineFacts
from appliance.core.routes import Endpoint, Route, RouteSnapshot
from appliance.core.state import DeploymentStatus, DesiredState, ObservedReplica, Phase
from appliance.errors import ApplianceError
from appliance.kit.clock import Clock, rfc3339
from appliance.kit.files import replace_quickly
from appliance.kit.loop import Again
from appliance.ledger import meta
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream
from appliance.node import desired, keys
from appliance.planner.actions import Action, Start, plan
from appliance.planner.conditions import cannot_start, status
from appliance.planner.decide import Decision, decide
from appliance.runtime.driver import Driver
from appliance.trust.listed import Listed

log = logging.getLogger(__name__)

_ALIVE = (Phase.STARTING, Phase.READY)


@dataclass(frozen=True, slots=True)
class World:
    """What the last pass saw and decided."""

    desired: DesiredState
    statuses: tuple[DeploymentStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What each pass asks afresh: what the machine has, and what may run on it."""

    machine: Callable[[], MachineFacts]
    listed: Callable[[], Listed]
    leave: Callable[[], Mapping[str, str]] = dict
    """Which replicas must leave the GPU that they run on, and why."""


class Controller:
    """Brings one node to what is wanted of it."""

    def __init__(
        self, ledger: Ledger, driver: Driver, around: Surroundings, clock: Clock,
        *, routes: Path, slots: int,
    ) -> None:  # fmt: skip
        """``routes`` is the snapshot that the gateway reads; ``slots`` are those of each engine."""
        self.world = World(DesiredState())
        self.version = 0
        self.on_activation: Callable[[str, str, str], object] = lambda *_: None
        """Called with deployment, model and manifest when another manifest is seen to serve."""
        self._ledger = ledger
        self._driver = driver
        self._around = around
        self._clock = clock
        self._routes = routes
        self._slots = slots
        self._published: RouteSnapshot | None = None
        self._told: dict[str, tuple[object, ...]] = {}
        self._active: dict[str, str] = {}

    async def reconcile(self) -> Again | None:
        """Look at the world once, and do what is to be done now.

        Raises:
            ApplianceError: an action failed; it was reported, and the pass may be repeated.
        """
        state = self._ledger.read(desired.in_force)
        running = self._driver.observe()
        decisions = self._decide(state, running)
        wanted = [replica for decision in decisions.values() for replica in decision.replicas]
        todo = plan(wanted, running, self._around.leave())
        failures: dict[str, ApplianceError] = {}
        for action in todo:
            if (error := await self._apply(action)) is not None:
                failures[_deployment(action, running)] = error
        self._look(state, decisions, self._driver.observe(), failures)
        if failures:
            raise next(iter(failures.values()))
        return Again(1.0) if todo else None

    def _decide(
        self, state: DesiredState, running: Mapping[str, ObservedReplica]
    ) -> dict[str, Decision]:
        """Step 15 of an import: what is started is listed and not revoked at this moment."""
        variants = self._ledger.read(catalog.variants)
        return decide(
            [d.document for d in state.deployments],
            variants,
            self._around.machine(),
            slots=self._slots,
            denied=self._around.listed().denied(variants),
            alive={r.revision for r in running.values() if r.phase in _ALIVE},
        )

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
        state: DesiredState,
        decisions: Mapping[str, Decision],
        running: Mapping[str, ObservedReplica],
        failures: Mapping[str, ApplianceError],
    ) -> None:
        seen = (status(d, decisions[d.document.name], running) for d in state.deployments)
        statuses = tuple(_with_failure(s, failures.get(s.name)) for s in seen)
        self.world = World(state, statuses)
        self._note_changes(statuses)
        self._note_activations(statuses)
        self._publish_routes(statuses)

    def _publish_routes(self, statuses: tuple[DeploymentStatus, ...]) -> None:
        snapshot = RouteSnapshot(
            tuple(_route(s) for s in statuses),
            self._ledger.read(keys.all_keys),
            self._ledger.read(meta.was_key_made),
        )
        if snapshot != self._published or not self._routes.exists():
            replace_quickly(self._routes, snapshot.dump(), mode=0o640)
            self._published = snapshot

    def _note_changes(self, statuses: tuple[DeploymentStatus, ...]) -> None:
        """Tell the hub once whenever a deployment's conditions change."""
        now = {s.name: _telling(s) for s in statuses}
        if now == self._told:
            return
        self.version += 1
        at = rfc3339(self._clock.utc())
        for name in sorted(now.keys() | self._told.keys()):
            if now.get(name) != self._told.get(name):
                found = next((s for s in statuses if s.name == name), None)
                body = {"name": name, "gone": True} if found is None else _event(found)
                self._ledger.note(Fact(Stream.EVENTS, "deployment", at, body))
        self._told = now

    def _note_activations(self, statuses: tuple[DeploymentStatus, ...]) -> None:
        for found in statuses:
            variant = found.variant
            if variant is None or not found.ready or not found.is_ready:
                continue
            if self._active.get(found.name) == variant.manifest:
                continue
            try:
                self.on_activation(found.name, variant.reference, variant.manifest)
            except ApplianceError as error:  # a full disk: it serves, and the next pass tries again
                log.warning("no receipt yet that %s serves: %s", found.name, error)
            else:
                self._active[found.name] = variant.manifest


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


def _telling(found: DeploymentStatus) -> tuple[object, ...]:
    return (
        found.origin,
        found.replicas,
        found.ready,
        found.variant,
        tuple((c.type, c.status, c.reason) for c in found.conditions),
    )


def _event(found: DeploymentStatus) -> dict[str, object]:
    whole = found.to_wire()
    return {k: whole[k] for k in ("name", "origin", "variant", "replicas", "ready", "conditions")}


def _route(found: DeploymentStatus) -> Route:
    ready = [e for e in found.engines if e.phase is Phase.READY and e.endpoint is not None]
    waits = [e.retry_in_s for e in found.engines if e.retry_in_s is not None]
    return Route(
        model=found.name,
        capabilities=() if found.variant is None else found.variant.capabilities,
        endpoints=tuple(Endpoint(e.id, str(e.endpoint)) for e in ready),
        cannot="" if ready else cannot_start(found),
        retry_after_s=max(1, round(min(waits))) if waits else 5,
    )
