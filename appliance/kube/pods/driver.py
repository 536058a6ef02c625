"""The Kubernetes driver: engines as pods, which the cluster keeps up.

What is wanted was recorded before, in the ModelDeployment; what there is, is read back from the
cluster. So nothing is kept on disk here: a driver that opens adopts every Deployment of ours by the
replica in its annotation, and a controller that died between two calls left nothing that the next
pass does not put right. Without changes a pass makes no call.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from appliance.core.model import Replica
from appliance.core.state import ObservedReplica
from appliance.errors import ApplianceError, PeerUnreachableError
from appliance.kit.backoff import growing
from appliance.kit.clock import Clock, SystemClock
from appliance.kit.loop import Again, Wake, drive
from appliance.kube.informer import Informer, Pace, Selection
from appliance.kube.marks import OURS
from appliance.kube.pods import effects
from appliance.kube.pods.drawings import Drawings
from appliance.kube.pods.observed import History, Known, current, observed
from appliance.kube.pods.rendering import Owner, Rendering, replica_in
from appliance.kube.pods.seen import PodSeen, Seen, pod_seen, seen
from appliance.kube.pods.steps import Key, Planner, Step, Wanted, key_of, owner_of
from appliance.kube.pods.view import View
from appliance.kube.resources import CLAIM_TEMPLATES, DEPLOYMENTS, PODS, SERVICES, Resource
from appliance.runtime.profile import profiles

if TYPE_CHECKING:
    from appliance.kube.client import KubeApi

log = logging.getLogger(__name__)

_OPEN_S = 5.0
_ROUNDS = 4
_AT_ONCE = 4
_ABILITIES_S = 0.5
_SOON_S = 5.0
_FIRST_RETRY_S, _MOST_RETRY_S = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class KubernetesContext:
    """What the driver is given.

    Attributes:
        api: The server.
        rendering: How to render; None while nobody could ask the server what it has.
        owner: The ModelDeployment of a name; None when there is none: nothing is made then.
        may_write: Whether this controller is the one that acts; another one only looks on.
        resync_s: How often everything is looked at although nothing is known to have changed.
        pace: Times of the watches.
    """

    api: "KubeApi"
    rendering: Callable[[], Rendering | None]
    owner: Callable[[str], Owner | None]
    may_write: Callable[[], bool] = lambda: True
    resync_s: float = 600.0
    pace: Pace = field(default_factory=Pace)


@dataclass(slots=True)
class _Failure:
    """A step that did not work, whose it is, and when to try again."""

    text: str
    deployment: str
    replica: str
    delays: Iterator[float]
    at: float = 0.0


class KubernetesDriver:
    """Runs replicas in a cluster. See ``runtime.driver.Driver`` for its promises."""

    honours: frozenset[str] = frozenset({"resources", "priority"})

    def __init__(self, context: KubernetesContext, clock: Clock | None = None) -> None:
        self._context = context
        self._clock = clock or SystemClock()
        self._changed: Callable[[], None] = lambda: None
        self._wake = Wake()
        self._wanted: dict[str, Wanted] = {}
        self._stopping: dict[str, str] = {}
        self._failures: dict[Key, _Failure] = {}
        self._history: dict[str, History] = {}
        self._away = ""
        self._shown: dict[str, tuple[object, ObservedReplica]] = {}
        self._drawings = Drawings(context.owner)
        self._planner = Planner(self._drawings.replica, self._drawings.shared)
        self._view: View | None = None
        self._informers: list[Informer[Seen] | Informer[PodSeen]] = []
        self._synced = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_synced(self) -> bool:
        """Whether it has seen what runs; before that, it sees nothing."""
        return self._synced.is_set()

    # --- what every driver has -------------------------------------------------------------------

    async def open(self, changed: Callable[[], None]) -> None:
        """Take over what runs. Waits a moment for the server, and goes on without it."""
        self._changed = changed
        loop = drive(
            self._reconcile, self._wake, self._clock,
            name="engines in the cluster", resync_s=self._context.resync_s,
        )  # fmt: skip
        self._task = asyncio.create_task(loop, name="Kubernetes driver")
        try:
            async with asyncio.timeout(_OPEN_S):
                await self._synced.wait()
        except TimeoutError:
            log.warning("the API server did not answer within %.0f s; trying on", _OPEN_S)

    async def start(self, replica: Replica) -> None:
        profiles()[replica.engine].in_network()
        held = self._wanted.get(replica.id)
        if replica.id in self._stopping or (held is None and self._is_ending(replica.id)):
            return
        if held is None or (held.revision == replica.revision and held.replica != replica):
            self._wanted[replica.id] = Wanted(replica, replica.revision)
            self._tell()

    async def stop(self, replica_id: str) -> None:
        held = self._wanted.pop(replica_id, None)
        if held is not None:
            self._stopping[replica_id] = held.replica.deployment
            self._tell()

    def observe(self) -> Mapping[str, ObservedReplica]:
        names = {*self._wanted, *self._stopping}
        if self._view is not None:
            names |= self._view.pods_by_replica().keys()
        self._shown = {name: kept for name, kept in self._shown.items() if name in names}
        return {name: self._observed(name) for name in sorted(names)}

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*(informer.close() for informer in self._informers))
        self._informers.clear()

    def look_again(self) -> None:
        """Have the next pass soon: ``may_write`` answers otherwise than before."""
        self._wake.set()

    # --- what is seen ----------------------------------------------------------------------------

    def _is_ending(self, name: str) -> bool:
        """Whether pods of an earlier start are still there, which nobody wants any more."""
        return self._view is not None and bool(self._view.pods(name))

    def _observed(self, name: str) -> ObservedReplica:
        view, held = self._view, self._wanted.get(name)
        pods = [] if view is None else view.pods(name)
        deployment = None if view is None else view.get(DEPLOYMENTS, name)
        history = self._history.get(name) or History()
        pod = current(pods)
        replica = None if held is None else held.replica
        asked = (
            replica,
            self._stopping.get(name),
            deployment,
            pod,
            self._error(name),
            history.said,
        )
        shown = self._shown.get(name)
        if shown is not None and shown[0] == asked:
            return shown[1]
        known = Known(
            id=name,
            deployment=self._stopping.get(name) or (pod.deployment if pod else ""),
            revision=pod.revision if pod else "",
            error=self._error(name),
            restarts=history.before,
            served=history.served,
            log_tail=history.tail,
            unpulled=history.unpulled,
        )
        found = observed(known, replica, deployment, pod)
        self._shown[name] = (asked, found)
        return found

    def _error(self, name: str) -> str:
        held = self._wanted.get(name)
        if held is None:
            return ""
        if found := self._planner.errors.get(name):
            return found
        for failure in self._failures.values():
            if failure.replica == name or (
                not failure.replica and failure.deployment == held.replica.deployment
            ):
                return failure.text
        return self._away

    def _tell(self) -> None:
        self._wake.set()
        self._changed()

    def _heard(self, what: Resource, key: str) -> None:
        if self._view is not None:
            self._view.heard(what, key)
        self._tell()

    # --- one pass --------------------------------------------------------------------------------

    async def _reconcile(self) -> Again | None:
        try:
            again = await self._pass()
        except PeerUnreachableError as error:
            self._away = error.what
            self._changed()
            raise
        if self._away:
            self._away = ""
            self._changed()
        return again

    async def _pass(self) -> Again | None:
        rendering = self._context.rendering()
        if rendering is None:
            return Again(_ABILITIES_S)
        self._drawings.use(rendering)
        view = self._view or self._watch(rendering)
        if not self._synced.is_set():
            for informer in self._informers:
                await informer.synced.wait()
            self._adopt(view)
            self._synced.set()
            self._changed()
        for _ in range(_ROUNDS):
            self._adopt(view)
            self._let_go(view)
            due = self._due(view)
            if not due:
                break
            await self._take(view, due)
        await self._remember(view)
        return self._again(view)

    def _watch(self, rendering: Rendering) -> View:
        namespace = rendering.settings.namespace
        kinds = [DEPLOYMENTS, SERVICES, rendering.abilities.budgets]
        kinds += [CLAIM_TEMPLATES] if rendering.abilities.claims else []
        api, pace = self._context.api, self._context.pace

        def selection(what: Resource) -> Selection:
            return Selection(what.path(namespace), OURS)

        def heard(what: Resource) -> Callable[[str], None]:
            return lambda key: self._heard(what, key)

        sources = {k: Informer(api, selection(k), seen, heard(k), pace) for k in kinds}
        pods = Informer(api, selection(PODS), pod_seen, heard(PODS), pace)
        self._view = View(namespace, sources, pods, self._clock)
        self._informers = [*sources.values(), pods]
        for informer in self._informers:
            informer.start()
        return self._view

    def _adopt(self, view: View) -> None:
        """Want what runs: what another controller, or we in another life, started."""
        for found in view.all(DEPLOYMENTS):
            if not found.is_ours or found.is_deleting or found.name in self._stopping:
                continue
            held = self._wanted.get(found.name)
            if held is not None and held.revision == found.revision:
                continue
            replica = replica_in(found.annotations)
            if replica is None or replica.id != found.name:
                continue  # somebody changed what it says: what is wanted is written over it
            if held is None or held.revision != replica.revision:
                log.info("adopting %s in revision %s", replica.id, replica.revision)
                self._wanted[replica.id] = Wanted(replica, replica.revision)
                self._changed()

    def _let_go(self, view: View) -> None:
        """Forget what was stopped and is gone, pods and all."""
        for name in list(self._stopping):
            if view.get(DEPLOYMENTS, name) is None and not view.pods(name):
                del self._stopping[name]
                self._history.pop(name, None)
                self._drawings.forget(name)
                self._changed()

    def _due(self, view: View) -> list[Step]:
        before = self._planner.errors
        steps = self._planner.plan(view, self._wanted, self._stopping)
        if self._planner.errors != before:
            self._changed()
        keys = {key_of(step) for step in steps}
        self._failures = {k: f for k, f in self._failures.items() if k in keys}
        now = self._clock.monotonic()
        failing = {key for key, failure in self._failures.items() if failure.at > now}
        return [s for s in steps if key_of(s) not in failing] if self._context.may_write() else []

    async def _take(self, view: View, steps: list[Step]) -> None:
        """Take steps, those of one ModelDeployment one after the other."""
        groups: dict[str, list[Step]] = {}
        for step in steps:
            groups.setdefault(owner_of(step)[0], []).append(step)
        limit = asyncio.Semaphore(_AT_ONCE)

        async def run(group: list[Step]) -> None:
            for step in group:
                async with limit:
                    if self._context.may_write():
                        await self._step(view, step)

        results = await asyncio.gather(*map(run, groups.values()), return_exceptions=True)
        for result in results:
            if result is not None:
                raise result

    async def _step(self, view: View, step: Step) -> None:
        key = key_of(step)
        namespace = self._drawings.rendering.settings.namespace
        try:
            outcome = await asyncio.to_thread(effects.take, self._context.api, step, namespace)
        except PeerUnreachableError:
            raise
        except ApplianceError as error:
            self._failed(step, error)
            return
        self._failures.pop(key, None)
        view.wrote(*key, outcome.seen)
        if outcome.left and outcome.mark:
            log.warning("%s: others keep %s as it is", key[1], ", ".join(outcome.left))
            self._planner.accepted[key] = (outcome.mark, outcome.left)

    def _failed(self, step: Step, error: ApplianceError) -> None:
        key = key_of(step)
        failure = self._failures.get(key)
        if failure is None:
            failure = _Failure("", *owner_of(step), growing(_FIRST_RETRY_S, _MOST_RETRY_S))
            self._failures[key] = failure
        failure.at = self._clock.monotonic() + next(failure.delays)
        if failure.text != error.what:
            failure.text = error.what
            log.warning("%s: %s", key[1], error)
            self._changed()

    async def _remember(self, view: View) -> None:
        """Count restarts over pods, and fetch the last words of engines that failed."""
        namespace = self._drawings.rendering.settings.namespace
        for name in list(self._wanted):
            pod = current(view.pods(name))
            if pod is None:
                continue
            history = self._history.setdefault(name, History())
            unpulled = history.unpulled
            has_ended = history.note(pod)
            if history.unpulled != unpulled:
                self._changed()
            if has_ended:
                api = self._context.api
                history.tail = await asyncio.to_thread(effects.last_words, api, namespace, pod)
                self._changed()

    def _again(self, view: View) -> Again | None:
        """Return when to look again although nothing may be heard."""
        now = self._clock.monotonic()
        waits = [max(0.05, failure.at - now) for failure in self._failures.values()]
        waits += [_SOON_S] if view.waits_for_news else []
        return Again(min(waits)) if waits else None
