"""What a node has more of where it is in a cluster. Nothing else loads what speaks to Kubernetes.

The cluster may be away when the node starts, and so may be the file that says how to reach it: k3s
writes its own on its first start. Until then the node serves, imports and answers as ever.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from appliance import __version__
from appliance.cache import catalog
from appliance.core.documents import ModelDeployment
from appliance.core.model import Variant
from appliance.errors import ApplianceError
from appliance.kit.clock import SystemClock, rfc3339
from appliance.kit.loop import Again, Wake, drive
from appliance.kube.client import KubeApi
from appliance.kube.demand import DemandTeller
from appliance.kube.deployments import Reader, SeenDeployment
from appliance.kube.driver import KubernetesContext, KubernetesDriver
from appliance.kube.engine import Owner, PodSettings, Rendering
from appliance.kube.events import NORMAL, WARNING, Recorder, reference
from appliance.kube.informer import Informer, Pace, Selection
from appliance.kube.lease import Candidate, Heartbeat, LeaseHolder
from appliance.kube.places import places, takes_work
from appliance.kube.publish import ModelView, Own, SiteView, holdings, read_model, read_site
from appliance.kube.resources import MODEL_DEPLOYMENTS, MODELS, NODES, SITES
from appliance.kube.server import Server
from appliance.kube.status import Happening, undone
from appliance.node import desired, site
from appliance.node.cluster import ClusterController, ClusterView, Words
from appliance.node.publish import Publisher
from appliance.node.rounds import Rounds
from appliance.node.shown import StatusWriter, Telling
from appliance.planner.place import Place
from appliance.wiring.node import Here

log = logging.getLogger(__name__)

_AT_ONCE = 8
_LEASE = "edge-appliance-controller"
_WORDS_S = 30.0
_MANAGER = "edge-appliance"
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Cluster:
    """A node's part in its cluster; connected once it can be, and for ever after."""

    def __init__(self, node: Here) -> None:
        self._node = node
        self._connected: _Connected | None = None
        self._why_not = "not reached yet"
        self._away_since: str | None = rfc3339(SystemClock().utc())

    async def reconcile(self) -> Again | None:
        """Make a pass; without a cluster there is nothing to do."""
        return None if self._connected is None else await self._connected.controller.reconcile()

    async def run(self) -> None:
        """Connect, and keep everything running that has to do with the cluster."""
        await drive_until(self._connect)
        assert self._connected is not None
        async with contextlib.AsyncExitStack() as stack:
            await self._connected.start(stack)
            await asyncio.gather(*self._connected.loops(), self._watch_link())

    async def _connect(self) -> bool:
        configured = self._node.settings.kubernetes.kubeconfig
        path = None if configured == "in-cluster" else Path(configured)
        try:
            api = await asyncio.to_thread(KubeApi.connect, path, manager=_MANAGER)
        except ApplianceError as error:
            self._why_not = error.what
            raise
        self._connected = _Connected(self._node, api)
        return True

    async def _watch_link(self) -> None:
        assert self._connected is not None
        while True:
            if self._connected.is_connected:
                self._away_since = None
            elif self._away_since is None:
                self._away_since = rfc3339(SystemClock().utc())
            await asyncio.sleep(1)

    def changed(self) -> None:
        """Tell the cluster soon of what has changed on this node."""
        if self._connected is not None:
            self._connected.news()

    def status(self) -> dict[str, Any]:
        """Return what people are told of the cluster."""
        found = self._connected
        base = {"reachable": self._away_since is None, "away_since": self._away_since}
        if found is None:
            return {**base, "node": self._node.settings.kubernetes.node_name, "why": self._why_not}
        abilities = found.server.abilities
        return {
            **base,
            "node": self._node.settings.kubernetes.node_name,
            "server": None if abilities is None else abilities.version,
            "leads": found.lease.holds,
            "leader": found.lease.holder,
            "deployments": len(found.deployments),
            "calls": found.api.calls,
            "cannot": [] if abilities is None else abilities.cannot(),
        }


async def drive_until(step: Callable[[], Any]) -> None:
    """Repeat a step that raises until it works."""
    done = asyncio.Event()

    async def one() -> Again | None:
        await step()
        done.set()
        return None

    loop = asyncio.ensure_future(drive(one, Wake(), SystemClock(), name="the cluster", resync_s=15))
    await done.wait()
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


class _Connected:
    """All parts, once it is known how to reach the server."""

    def __init__(self, node: Here, api: KubeApi) -> None:
        self.api = api
        self._node = node
        self._settings = node.settings.kubernetes
        self._clock = SystemClock()
        self._publish, self._write, self._words_wake = Wake(), Wake(), Wake()
        self._places: tuple[Place, ...] | None = None
        self._rendering: Rendering | None = None
        self.server = Server(api)
        pace = Pace(resync_s=self._settings.resync_s)
        read = Reader(self._settings.namespace)
        self.deployments: Informer[SeenDeployment] = Informer(
            api, Selection(MODEL_DEPLOYMENTS.path()), read, self._changed, pace
        )
        self.models: Informer[ModelView] = Informer(
            api, Selection(MODELS.path()), read_model, self._moved, pace
        )
        self.sites: Informer[SiteView] = Informer(
            api, Selection(SITES.path()), read_site, self._moved, pace
        )
        self.nodes: Informer[bool] = Informer(
            api, Selection(NODES.path()), takes_work, self._moved, pace
        )
        self.lease = self._new_lease()
        self.driver = KubernetesDriver(self._context(pace))
        self.recorder = Recorder(
            api, node.settings.kubernetes.node_name, has_current=self._has_current_events
        )
        self.demand = DemandTeller(
            api, self._settings.namespace, node.activity.demand, self._sleepers, self._clock
        )
        self.writer = self._new_writer()
        self.words = Words(lambda: node.core.ledger.read(desired.in_force), node.wake.set)
        self.controller = self._new_controller()
        self.publisher = Publisher(api, self.models, self.sites, self._own, site=self._site())

    # --- parts -----------------------------------------------------------------------------------

    def _new_lease(self) -> LeaseHolder:
        boot = _BOOT.read_text().strip() if _BOOT.exists() else "unknown"
        candidate = Candidate.of(self._node.core.identity.node, boot, secrets.token_hex(4))
        where = (self._settings.system_namespace, _LEASE)
        return LeaseHolder(self.api, where, candidate, changed=self._node.wake.set)

    def _context(self, pace: Pace) -> KubernetesContext:
        return KubernetesContext(
            self.api,
            self._rendered,
            self._owner,
            may_write=lambda: self.lease.holds,
            resync_s=self._settings.resync_s,
            pace=pace,
        )

    def _new_writer(self) -> StatusWriter:
        tokens = self._node.activity.tokens_per_second
        telling = Telling(tokens, self._cannot, self._note)
        leads = self._leads
        return StatusWriter(self.api, leads, self._clock, telling, self._write.set)

    def _new_controller(self) -> ClusterController:
        view = ClusterView(
            self._seen, self._where, self._leads, self.demand.last_demand, self.words
        )
        rounds = Rounds(self.driver, slots=self._node.settings.engine.slots, at_once=_AT_ONCE)
        return ClusterController(
            self.driver, rounds, view, self._node.board, self.writer, self._clock
        )

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Begin to watch, and take over what runs."""
        for informer in (self.deployments, self.models, self.sites, self.nodes):
            informer.start()
            stack.push_async_callback(informer.close)
        stack.push_async_callback(self.driver.close)
        look = drive(self.server.look, Wake(), self._clock, name="server", resync_s=600)
        self._looking = asyncio.ensure_future(look)
        stack.callback(self._looking.cancel)
        await self.driver.open(self._node.wake.set)
        self._is_open = True
        self._node.wake.set()

    _is_open = False

    def loops(self) -> list[Any]:
        """Return what runs for ever."""
        beat = Heartbeat(
            self.api,
            (
                self._settings.system_namespace,
                f"edge-appliance-{self._node.settings.kubernetes.node_name}",
            ),
            self._node.core.identity.node,
        )
        clock, resync_s = self._clock, self._settings.resync_s
        return [
            self._looking,
            self.lease.run(),
            beat.run(),
            self.recorder.run(),
            drive(self.writer.look, self._write, clock, name="statuses", resync_s=60),
            drive(
                self.publisher.look,
                self._publish,
                clock,
                name="publish",
                resync_s=min(60, resync_s),
            ),
            drive(self.demand.look, Wake(), clock, name="demand", resync_s=60),
            drive(self.words.look, self._words_wake, clock, name="words", resync_s=_WORDS_S),
        ]

    # --- what the parts ask of each other --------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        """Whether the server is there now."""
        return self.deployments.is_connected

    def _changed(self, _: str) -> None:
        self._node.wake.set()

    def _moved(self, _: str) -> None:
        self._places = None
        self._publish.set()
        self._node.wake.set()

    def _leads(self) -> bool:
        return self.lease.holds

    def _seen(self) -> Mapping[str, SeenDeployment] | None:
        ready = self._is_open and self.deployments.synced.is_set() and self.driver.is_synced
        return self.deployments.items() if ready else None

    def _where(self) -> Sequence[Place] | None:
        watched = (self.models, self.sites, self.nodes)
        if not all(informer.synced.is_set() for informer in watched):
            return None
        if self._places is None:
            held = holdings(self.models.items().values(), self.sites.items().values())
            self._places = places(held, self.nodes.items())
        return self._places

    def _rendered(self) -> Rendering | None:
        abilities = self.server.abilities
        if abilities is None:
            return None
        if self._rendering is None or self._rendering.abilities != abilities:
            engine = self._node.settings.engine
            pods = PodSettings(
                namespace=self._settings.namespace,
                models=self._node.core.state.absolute() / "models",
                image=self._settings.engine_image,
                runtime_class=self._settings.runtime_class,
                threads=engine.threads,
                drain_s=engine.drain_s,
            )
            self._rendering = Rendering(pods, abilities)
        return self._rendering

    def _owner(self, name: str) -> Owner | None:
        found = self.deployments.get(f"{self._settings.namespace}/{name}")
        return None if found is None else Owner(name, found.uid)

    def _has_current_events(self) -> bool:
        return self.server.abilities is None or self.server.abilities.events_v1

    def _sleepers(self) -> dict[str, str | None]:
        return {
            s.name: s.demand
            for s in self.deployments.items().values()
            if s.document is not None
            and s.document.spec.scaling is not None
            and not s.document.spec.scaling.min
        }

    def _cannot(self, document: ModelDeployment) -> Sequence[str]:
        abilities = self.server.abilities
        return [] if abilities is None else undone(document, abilities)

    def _note(self, seen: SeenDeployment, happening: Happening) -> None:
        about = reference(MODEL_DEPLOYMENTS, seen.name, namespace=seen.namespace, uid=seen.uid)
        kind = WARNING if happening.is_warning else NORMAL
        self.recorder.note(about, kind, happening.reason, happening.message)

    def _own(self) -> Own:
        """Return what this node holds: what is in force here, laid out for pods to mount."""
        core = self._node.core
        variants = tuple(core.ledger.read(catalog.variants))
        denied = core.listed().denied(variants)
        held = tuple(v for v in variants if v.manifest in denied or self._lay_out(v))
        return Own(
            self._settings.node_name,
            core.identity.node,
            __version__,
            held,
            denied,
            self._node.watch(),
        )

    def _lay_out(self, variant: Variant) -> bool:
        """Make the folder that pods open; one that cannot be made is not held."""
        try:
            self._node.core.store.weights(variant)
        except ApplianceError as error:
            log.warning("%s cannot be served from here: %s", variant.reference, error)
            return False
        return True

    def news(self) -> None:
        """Look again at what this node holds, and at who wants what."""
        self._publish.set()
        self._words_wake.set()

    def _site(self) -> str:
        found = self._node.core.ledger.read(site.in_force)
        return "site" if found is None else found.name
