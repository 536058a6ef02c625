"""All parts of a node that have to do with its cluster, once it is known how to reach it."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from appliance import __version__
from appliance.cache import catalog
from appliance.core.documents import ModelDeployment
from appliance.core.machine import Fence
from appliance.core.mirror import Key
from appliance.core.model import Variant
from appliance.errors import ApplianceError
from appliance.kit.clock import SystemClock
from appliance.kit.loop import Wake, drive
from appliance.kube.client import Json, KubeApi
from appliance.kube.events import NORMAL, WARNING, Recorder, reference
from appliance.kube.informer import Informer, Pace, Selection
from appliance.kube.lease import Candidate, Heartbeat, LeaseHolder
from appliance.kube.objects import verified
from appliance.kube.objects.crd import RESOURCES, definition, for_old_servers
from appliance.kube.objects.demand import DemandTeller
from appliance.kube.objects.deployments import Reader, SeenDeployment
from appliance.kube.objects.places import places, takes_work
from appliance.kube.objects.publish import ModelView, Own, SiteView, holdings, read_model, read_site
from appliance.kube.objects.status import Happening, undone
from appliance.kube.objects.watched import Watched, Watching, read_of, unread
from appliance.kube.pods.driver import KubernetesContext, KubernetesDriver
from appliance.kube.pods.rendering import Owner, PodSettings, Rendering
from appliance.kube.resources import MODEL_DEPLOYMENTS, MODELS, NODES, SITES
from appliance.kube.server import Server
from appliance.kube.words import owned
from appliance.kube.words.plan import TakeOver
from appliance.node import desired, site
from appliance.node.cluster import ClusterController, ClusterView, Words
from appliance.node.leaving import Leaving
from appliance.node.projection import Here as Projecting
from appliance.node.projection import Projection
from appliance.node.publish import Publisher
from appliance.node.rounds import Rounds
from appliance.node.shown import StatusWriter, Telling
from appliance.node.verified import VerifiedList
from appliance.planner.place import Place
from appliance.planner.pressure import Outlook
from appliance.wiring.core import Here

log = logging.getLogger(__name__)

_AT_ONCE = 8
_LEASE = "edge-appliance-controller"
_WORDS_S = 30.0
_REMEMBER_S = 2.0
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Connected:
    """All parts, once it is known how to reach the server."""

    def __init__(self, node: Here, api: KubeApi) -> None:
        self.api = api
        self._node = node
        self._settings = node.settings.kubernetes
        self._clock = SystemClock()
        self._publish, self._write, self._words_wake = Wake(), Wake(), Wake()
        self._project, self._verify = Wake(), Wake()
        self._places: tuple[Place, ...] | None = None
        self._rendering: Rendering | None = None
        self._soon: asyncio.TimerHandle | None = None
        self._words_seen: dict[str, bytes | None] = {}
        self.server = Server(api)
        pace = Pace(resync_s=self._settings.resync_s)
        read = Watching(Reader(self._settings.namespace))
        self.deployments: Informer[Watched[SeenDeployment]] = Informer(
            api, Selection(MODEL_DEPLOYMENTS.path()), read, self._changed, pace
        )
        self.models: Informer[ModelView] = Informer(
            api, Selection(MODELS.path()), read_model, self._moved, pace
        )
        self.sites: Informer[SiteView] = Informer(
            api, Selection(SITES.path()), read_site, self._moved, pace
        )
        self.site_words: Informer[Watched[None]] = Informer(
            api, Selection(SITES.path()), Watching(unread), self._site_said, pace
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
        name, system = self._settings.node_name, self._settings.system_namespace
        self.verified = VerifiedList(api, name, system, self._verified)
        self.leaving = Leaving(api, node.core.gpus, namespace=self._settings.namespace, node=name)
        self.projection = self._new_projection()

    # --- parts -----------------------------------------------------------------------------------

    def _new_lease(self) -> LeaseHolder:
        boot = _BOOT.read_text().strip() if _BOOT.exists() else "unknown"
        candidate = Candidate.of(self._node.core.identity.node, boot, secrets.token_hex(4))
        where = (self._settings.system_namespace, _LEASE)
        return LeaseHolder(self.api, where, candidate, changed=self._lease_moved)

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

    def _new_projection(self) -> Projection:
        core, settings = self._node.core, self._settings
        here = Projecting(core.identity.node, settings.namespace, TakeOver(settings.take_over))
        made = Projection(
            self.api, core.ledger, here, self._clock,
            definitions=self._definitions, look=self._projected,
        )  # fmt: skip
        made.changed = self._words_wake.set
        return made

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Begin to watch, and take over what runs."""
        self._hear_hardware()
        watched: list[Informer[Any]] = [
            self.deployments, self.models, self.sites, self.site_words, self.nodes
        ]  # fmt: skip
        for informer in watched:
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
            drive(
                self.projection.reconcile,
                self._project,
                clock,
                name="projection",
                resync_s=resync_s,
            ),
            drive(self._survey, Wake(), clock, name="survey", resync_s=resync_s),
            drive(self.verified.look, self._verify, clock, name="verified", resync_s=resync_s),
            drive(self.leaving.look, Wake(), clock, name="leaving", resync_s=60),
        ]

    def _hear_hardware(self) -> None:
        """Have the machine's troubles told as Events of its Node; they come from any thread."""
        loop = asyncio.get_running_loop()
        about = reference(NODES, self._settings.node_name)
        gpus, before = self._node.core.gpus, self._node.core.gpus.on_change

        def gpu(uuid: str, fence: Fence | None) -> None:
            before(uuid, fence)
            kind, reason = (NORMAL, "GpuReleased") if fence is None else (WARNING, "GpuFenced")
            text = f"GPU {uuid}: {'may be used again' if fence is None else fence.message}"
            loop.call_soon_threadsafe(self.recorder.note, about, kind, reason, text)
            loop.call_soon_threadsafe(self._publish.set)

        def disk(found: Outlook) -> None:
            kind, reason = (WARNING, "DiskPressureAhead") if found.likely else (NORMAL, "DiskEased")
            loop.call_soon_threadsafe(self.recorder.note, about, kind, reason, found.message)
            loop.call_soon_threadsafe(self._publish.set)

        gpus.on_change, self._node.preflight.on_change = gpu, disk

    # --- what the parts ask of each other --------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        """Whether the server is there now."""
        return self.deployments.is_connected

    def _changed(self, key: str) -> None:
        self._node.wake.set()
        self._heard(key, self.deployments.get(key))

    def _site_said(self, key: str) -> None:
        self._heard(key, self.site_words.get(key))

    def _moved(self, _: str) -> None:
        self._places = None
        self._publish.set()
        self._node.wake.set()

    def _lease_moved(self) -> None:
        self.driver.look_again()
        self._write.set()
        self._node.wake.set()

    def _heard(self, key: str, found: Watched[Any] | None) -> None:
        """Have what was seen remembered soon; reading a thousand rows for each is too much."""
        word = None if found is None else found.word
        if self._words_seen.get(key) == word:
            return
        self._words_seen[key] = word
        if self._soon is None or self._soon.cancelled() or self._soon.when() < self._loop_time():
            self._soon = asyncio.get_running_loop().call_later(_REMEMBER_S, self._project.set)

    @staticmethod
    def _loop_time() -> float:
        return asyncio.get_running_loop().time()

    async def _survey(self) -> None:
        """Have the projection ask the server itself, now and then."""
        self.projection.survey_soon()
        self._project.set()

    def _projected(self) -> Mapping[Key, owned.Seen] | None:
        watched: list[Informer[Any]] = [self.deployments, self.site_words]
        if not all(informer.synced.is_set() for informer in watched):
            return None
        found = [w for informer in watched for w in informer.items().values()]
        return {seen.key: seen for w in found if (seen := w.seen(self._settings.namespace))}

    def _definitions(self) -> list[Json]:
        found = [definition(resource) for resource in RESOURCES]
        abilities = self.server.abilities
        knows_rules = abilities is None or abilities.crd_rules
        return found if knows_rules else [for_old_servers(one) for one in found]

    def _verified(self) -> Json:
        """Return the engine images and models that may run here, as the admission policies read."""
        core = self._node.core
        image = verified.digest_of(self._settings.engine_image)
        variants = tuple(core.ledger.read(catalog.variants))
        denied = core.listed().denied(variants)
        return verified.body(
            () if image is None else (image,),
            (v for v in variants if v.manifest not in denied),
            models=core.state.absolute() / "models",
            namespace=self._settings.system_namespace,
        )

    def _leads(self) -> bool:
        return self.lease.holds

    def _seen(self) -> Mapping[str, SeenDeployment] | None:
        ready = self._is_open and self.deployments.synced.is_set() and self.driver.is_synced
        return read_of(self.deployments.items()) if ready else None

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
        fenced = frozenset(
            uuid
            for entry in self.sites.items().values()
            for node in entry.nodes
            for uuid in node.fenced
        )
        made = self._rendering
        if made is None or (made.abilities, made.settings.fenced) != (abilities, fenced):
            engine = self._node.settings.engine
            pods = PodSettings(
                namespace=self._settings.namespace,
                models=self._node.core.state.absolute() / "models",
                image=self._settings.engine_image,
                runtime_class=self._settings.runtime_class,
                threads=engine.threads,
                drain_s=engine.drain_s,
                fenced=fenced,
            )
            self._rendering = Rendering(pods, abilities)
        return self._rendering

    def _owner(self, name: str) -> Owner | None:
        found = self.deployments.get(f"{self._settings.namespace}/{name}")
        return None if found is None or found.read is None else Owner(name, found.read.uid)

    def _has_current_events(self) -> bool:
        return self.server.abilities is None or self.server.abilities.events_v1

    def _sleepers(self) -> dict[str, str | None]:
        return {
            s.name: s.demand
            for s in read_of(self.deployments.items()).values()
            if s.document is not None
            and s.document.spec.scaling is not None
            and not s.document.spec.scaling.min
        }

    def _cannot(self, document: ModelDeployment) -> Sequence[str]:
        abilities = self.server.abilities
        return [] if abilities is None else undone(document, abilities)

    def _note(self, seen: SeenDeployment, happening: Happening) -> None:
        if seen.namespace != self._settings.namespace:
            return  # its status says so; we may not write Events there
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
            fenced=core.gpus.reasons(),
            disk_pressure=self._node.preflight.outlook.likely or None,
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
        for wake in (self._publish, self._words_wake, self._project, self._verify):
            wake.set()

    def _site(self) -> str:
        found = self._node.core.ledger.read(site.in_force)
        return "site" if found is None else found.name
