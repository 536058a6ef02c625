"""What a node has, whether it runs or only imports: its state folder, opened by one process."""

import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from appliance.bundle.take.accept import Importer, ImportParts
from appliance.bundle.take.answers import AnswerTaker
from appliance.bundle.take.intake import Housekeeping
from appliance.bundle.take.receipts import ReceiptBook
from appliance.cache.care import CacheCare
from appliance.cache.store import ModelStore
from appliance.errors import RefusedError
from appliance.hardware import nvidia
from appliance.hardware.probe import machine
from appliance.kit.clock import SystemClock
from appliance.kit.files import locked
from appliance.kit.loop import Again, Wake
from appliance.kit.reserve import Reserve
from appliance.ledger.db import Ledger
from appliance.node import identity as node_identity
from appliance.node import site
from appliance.node.api.services import LocalServices
from appliance.node.board import Board
from appliance.node.carry import Carrier, Voice
from appliance.node.demand import Activity
from appliance.node.enrolment import Certificates
from appliance.node.fetching import Fetching
from appliance.node.gpus import Gpus
from appliance.node.identity import NodeIdentity
from appliance.node.loops import MachineWatch
from appliance.node.preflight import DiskPreflight
from appliance.node.retention import Retaining
from appliance.node.software import Software
from appliance.planner.decide import cannot_serve
from appliance.runtime import owners
from appliance.settings import CacheSettings, NetworkSettings, Settings
from appliance.software.shelf import Shelf
from appliance.trust import local
from appliance.trust.listed import Listed
from appliance.trust.remembered import rederive
from appliance.trust.store import TrustStore
from appliance.wiring.logs import LogLines
from appliance.wiring.software import StoredControllers

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NodeCore:
    """The parts of one node."""

    state: Path
    identity: NodeIdentity
    ledger: Ledger
    trust: TrustStore
    store: ModelStore
    receipts: ReceiptBook
    answers: AnswerTaker
    certificates: Certificates
    importer: Importer
    software: Software
    reserve: Reserve
    care: CacheCare
    retaining: Retaining
    gpus: Gpus

    def listed(self) -> Listed:
        """Return what may run: what the organisation signed, and what the site did, apart from it.

        A site's list that is damaged stops the site's own models, and nothing else.
        """
        found = self.trust.listed()
        try:
            own = local.listed(self.state, local.organisation_models(found.targets))
        except RefusedError as error:
            log.warning("what this site brought itself may not start: %s", error)
            own = {}
        return found.with_local(own)


@contextmanager
def open_node(state: Path, cache: CacheSettings | None = None) -> Iterator[NodeCore]:
    """Open a state folder as its only writer.

    Raises:
        NotFoundError: no node was made there.
        LockedError: a controller runs on it already.
        NoSpaceError, StateUnusableError: as their names say.
    """
    identity = node_identity.load(state)
    reserve = Reserve(state / "reserve")
    reserve.use_if_full()  # before anything is written: what must be recorded needs the room
    with locked(state / "lock", what=f"the node in {state}"):
        reserve.restore()
        clock = SystemClock()
        store = ModelStore(state)
        store.init()
        trust = TrustStore(state / "tuf")
        ledger = Ledger(state / "node.db")
        gpus = Gpus(ledger, clock, nvidia, partial(owners.owners, state))
        try:
            rederive(trust, ledger)
            retaining = Retaining(state, ledger, clock, cache or CacheSettings())
            care = CacheCare(state, store, ledger, retaining.circumstances, retaining.settings)
            care.health.meet()
            key, held = identity.key, store.blobs.all
            receipts = ReceiptBook(identity.node, key, ledger, trust, clock, held)
            answers = AnswerTaker(identity.node, key.public, ledger, trust, clock)
            house = _housekeeping(ledger, care)
            importer = Importer(
                ImportParts(state, trust, store, ledger, clock, receipts, answers, house)
            )
            software = Software(Shelf(state), StoredControllers(trust, store.blobs), clock)
            yield NodeCore(
                state,
                identity,
                ledger,
                trust,
                store,
                receipts,
                answers,
                Certificates(state, identity, ledger, trust, clock),
                importer,
                software,
                reserve,
                care,
                retaining,
                gpus,
            )
        finally:
            gpus.on_change = lambda *_: None
            gpus.close()
            ledger.close()


def _housekeeping(ledger: Ledger, care: CacheCare) -> Housekeeping:
    return Housekeeping(
        disk=lambda: ledger.read(site.disk),
        make_room=care.collector.make_room,
        fit=lambda variant: cannot_serve(variant, machine().memory_bytes),
        quarantine=lambda digest: care.health.condemn(digest, "a delta from it came out wrong"),
        recheck=care.health.recheck,
    )


@dataclass(frozen=True, slots=True)
class Running:
    """What makes a node's passes: where engines are processes, or where they are pods."""

    reconcile: Callable[[], Awaitable[Again | None]]
    loops: tuple[Coroutine[Any, Any, None], ...] = ()
    status: Callable[[], dict[str, Any]] = dict
    changed: Callable[[], None] = lambda: None
    log_lines: LogLines | None = None
    restart: Callable[[str], Awaitable[list[str]]] | None = None
    """Stops a deployment's engines, for the next pass to start them again; None: cannot."""


@dataclass(frozen=True, slots=True)
class Here:
    """A node that runs, before it is said where its engines do."""

    core: NodeCore
    settings: Settings
    board: Board
    watch: MachineWatch
    activity: Activity
    preflight: DiskPreflight
    wake: Wake


def services_of(
    core: NodeCore, network: NetworkSettings, voice: Voice, **answers: Any
) -> LocalServices:
    """Return what the local API acts on, whether a controller runs or a command serves it alone.

    Args:
        core: The node.
        network: How bundles come over the network.
        voice: What the node says to its hub, and who takes what the hub says.
        answers: The rest of ``LocalServices``: what only who serves can say or do.
    """
    clock = SystemClock()
    return LocalServices(
        ledger=core.ledger,
        importer=core.importer,
        receipts=core.receipts,
        answers=core.answers,
        certificates=core.certificates,
        care=core.care,
        software=core.software,
        gpus=core.gpus,
        reserve=core.reserve,
        clock=clock,
        fetching=Fetching(core.ledger, core.importer, clock, network),
        carrier=Carrier(core.identity, core.ledger, core.trust, core.receipts, clock, voice),
        **answers,
    )
