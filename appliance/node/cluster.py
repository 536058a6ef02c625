"""The level-triggered loop of a cluster: custom resources in, engines and statuses out.

Every node looks; the one that holds the Lease acts. All that this role knows is in the custom
resources and in what runs, so that it goes from node to node without a word. Nodes that do not lead
take what the resources say, so that each can tell its staff, its gateway and the hub.
"""

import asyncio
import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.core.state import DeploymentStatus, DesiredDeployment, DesiredState
from appliance.kit.clock import Clock
from appliance.kit.loop import Again
from appliance.kube.objects.deployments import SeenDeployment, told
from appliance.node.board import Board
from appliance.node.rounds import Facts, Rounds, by_deployment
from appliance.node.shown import StatusWriter
from appliance.planner.place import Place
from appliance.runtime.driver import Driver

if TYPE_CHECKING:
    from appliance.core.model import Variant

_RETRY_S = 5.0
_MOST_PAUSE_S = 0.2
"""A pass waits for as long as the last one took, but not longer than this: what changes on its own
is looked at at once, and a flood together."""

Deployments = Mapping[str, SeenDeployment]


@dataclass(frozen=True, slots=True)
class ClusterView:
    """What each pass asks afresh. ``deployments`` and ``places`` are None while nobody knows."""

    deployments: Callable[[], Deployments | None]
    places: Callable[[], Sequence[Place] | None]
    leads: Callable[[], bool]
    demand: Callable[[], Mapping[str, datetime.datetime]] = dict
    words: Callable[[], DesiredState] = DesiredState
    """What the ledger knows of who wants what: drift, what was removed, the fleet's generation."""


class ClusterController:
    """Brings a cluster to what its custom resources say, if this node is the one to do it."""

    def __init__(
        self, driver: Driver, rounds: Rounds, view: ClusterView, board: Board,
        writer: StatusWriter, clock: Clock,
    ) -> None:  # fmt: skip
        self.board = board
        self._driver = driver
        self._rounds = rounds
        self._view = view
        self._writer = writer
        self._clock = clock
        self._next = 0.0

    async def reconcile(self) -> Again | None:
        """Look at the world once, and if it is for us do what is to be done now.

        What fails is said in a status and tried again; it does not hold up the others.
        """
        await self._clock.sleep(max(0.0, self._next - self._clock.monotonic()))
        began = self._clock.monotonic()
        try:
            return await self._reconcile()
        finally:
            ended = self._clock.monotonic()
            self._next = ended + min(ended - began, _MOST_PAUSE_S)

    async def _reconcile(self) -> Again | None:
        seen, places = self._view.deployments(), self._view.places()
        if seen is None or places is None:
            return None
        state = self._desired(seen)
        if not self._view.leads():
            self.board.show(state, self._told(seen, state, places))
            return None
        broken = frozenset(s.name for s in self._ours(seen) if s.document is None)
        facts = Facts(state.deployments, places, self._view.demand(), untouched=broken)
        found = await self._rounds.make(facts, self._clock.utc())
        self.board.show(state, found.statuses)
        self._writer.want(seen, found.statuses)
        if found.failures:
            return Again(_RETRY_S)
        return None if found.changes_in_s is None else Again(found.changes_in_s)

    def _ours(self, seen: Deployments) -> list[SeenDeployment]:
        """Return what is in our namespace, by name."""
        found = (s for s in seen.values() if s.finding is None or s.finding.reason == "Invalid")
        return sorted(found, key=lambda s: s.name)

    def _desired(self, seen: Deployments) -> DesiredState:
        words = self._view.words()
        drift = {d.document.name: d.drift for d in words.deployments}
        wanted = tuple(
            DesiredDeployment(s.document, s.origin, drift.get(s.name, ""))
            for s in self._ours(seen)
            if s.document is not None
        )
        return DesiredState(wanted, words.removed, words.fleet_generation)

    def _told(
        self, seen: Deployments, state: DesiredState, places: Sequence[Place]
    ) -> tuple[DeploymentStatus, ...]:
        engines = by_deployment(self._driver.observe().values())
        variants: dict[str, Variant] = {v.manifest: v for p in places for v in p.variants}
        ours = {s.name: s for s in self._ours(seen)}
        return tuple(
            told(ours[d.document.name], d, engines.get(d.document.name, {}), variants)
            for d in state.deployments
        )


class Words:
    """The newest of what the ledger knows of who wants what; reading it takes a thread."""

    def __init__(self, read: Callable[[], DesiredState], changed: Callable[[], object]) -> None:
        self._read = read
        self._changed = changed
        self._found = DesiredState()

    def __call__(self) -> DesiredState:
        """Return what was read last."""
        return self._found

    async def look(self) -> None:
        """Read it again."""
        found = await asyncio.to_thread(self._read)
        if found != self._found:
            self._found = found
            self._changed()
