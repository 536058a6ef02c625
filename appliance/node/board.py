"""What is known of the deployments here, and who hears when it changes: hub, receipts, gateway.

Whoever brings it about shows the board what it sees; whether that runs on this machine or in a
cluster makes no difference to those who hear of it.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.core.routes import Endpoint, Route, RouteSnapshot
from appliance.core.state import DeploymentStatus, DesiredState, Phase
from appliance.errors import ApplianceError
from appliance.kit.clock import Clock, rfc3339
from appliance.kit.files import replace_quickly
from appliance.ledger import meta
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream
from appliance.node import keys
from appliance.planner.conditions import cannot_start

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class World:
    """What the last look saw."""

    desired: DesiredState
    statuses: tuple[DeploymentStatus, ...] = ()


class Board:
    """The newest statuses. Show it all of them each time; it tells only what is new."""

    def __init__(self, ledger: Ledger, clock: Clock, routes: Path, *, node: str = "") -> None:
        """``routes`` is the snapshot that the gateway reads; ``node``, our name in a cluster."""
        self.world = World(DesiredState())
        self.version = 0
        """Grows when the hub should hear of the statuses again."""
        self.on_activation: Callable[[str, str, str], object] = lambda *_: None
        """Called with deployment, model and manifest when another manifest is seen to serve."""
        self._ledger = ledger
        self._clock = clock
        self._routes = routes
        self._node = node
        self._shown: tuple[Route, ...] = ()
        self._published: RouteSnapshot | None = None
        self._told: dict[str, tuple[object, ...]] = {}
        self._active: dict[str, str] = {}

    def show(self, state: DesiredState, statuses: tuple[DeploymentStatus, ...]) -> None:
        """Take what is wanted and how it is, and tell whoever has to hear of it."""
        is_news = statuses != self.world.statuses
        before = {s.name: s for s in self.world.statuses}
        self.world = World(state, statuses)
        if is_news:
            self._note_changes(statuses, before)
            self._shown = tuple(_route(s) for s in statuses)
        self._note_activations(statuses)
        self._publish_routes()

    def _publish_routes(self) -> None:
        snapshot = RouteSnapshot(
            self._shown,
            self._ledger.read(keys.all_keys),
            self._ledger.read(meta.was_key_made),
        )
        if snapshot != self._published or not self._routes.exists():
            replace_quickly(self._routes, snapshot.dump(), mode=0o640)
            self._published = snapshot

    def _note_changes(
        self, statuses: tuple[DeploymentStatus, ...], before: "Mapping[str, DeploymentStatus]"
    ) -> None:
        """Tell the hub once whenever a deployment's conditions change."""
        now = {
            s.name: self._told[s.name]
            if s is before.get(s.name) and s.name in self._told
            else _telling(s)
            for s in statuses
        }
        if now == self._told:
            return
        self.version += 1
        at = rfc3339(self._clock.utc())
        for found in statuses:
            if now[found.name] != self._told.get(found.name):
                self._ledger.note(Fact(Stream.EVENTS, "deployment", at, _event(found)))
        for name in sorted(self._told.keys() - now.keys()):
            gone = {"name": name, "gone": True}
            self._ledger.note(Fact(Stream.EVENTS, "deployment", at, gone))
        self._told = now

    def _note_activations(self, statuses: tuple[DeploymentStatus, ...]) -> None:
        for found in statuses:
            variant = found.variant
            if variant is None or not found.ready or not found.is_ready:
                continue
            if self._active.get(found.name) == variant.manifest:
                continue
            if self._node and all(e.node != self._node for e in found.engines):
                continue  # another machine's to receipt
            try:
                self.on_activation(found.name, variant.reference, variant.manifest)
            except ApplianceError as error:  # a full disk: it serves, and the next pass tries again
                log.warning("no receipt yet that %s serves: %s", found.name, error)
            else:
                self._active[found.name] = variant.manifest


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
        endpoints=tuple(Endpoint(e.id, str(e.endpoint), e.node) for e in ready),
        cannot="" if ready else cannot_start(found),
        retry_after_s=max(1, round(min(waits))) if waits else 5,
        wakes=found.wakes,
    )
