"""The controller of one node."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from appliance import __version__
from appliance.cache import roots
from appliance.cache.store import ModelStore
from appliance.hardware.probe import machine
from appliance.kit import asgi
from appliance.kit.clock import SystemClock
from appliance.kit.files import make_folder
from appliance.kit.loop import Wake, drive
from appliance.ledger import budgets, mirror
from appliance.node.api.app import local_api
from appliance.node.board import Board
from appliance.node.caretaker import Caretaker
from appliance.node.controller import Controller, Surroundings
from appliance.node.demand import Activity, DemandLoop, MarkFolder
from appliance.node.enrolment import Renewal
from appliance.node.freshness import freshness
from appliance.node.loops import MachineWatch, Passes
from appliance.node.metrics import Sampler, StateNotes
from appliance.node.overrides import OverrideLoop
from appliance.node.preflight import DiskPreflight
from appliance.node.report import Reporter
from appliance.node.rounds import Rounds
from appliance.node.software import OutcomeLoop
from appliance.node.startable import Startable
from appliance.node.uplink import Uplink
from appliance.runtime import record
from appliance.runtime.keeper import ProcessSettings
from appliance.runtime.process import ProcessDriver, end_all
from appliance.settings import EngineSettings, Settings
from appliance.sync.mqtt import BrokerAddress
from appliance.wiring import places
from appliance.wiring.commands import hands, stop_engines
from appliance.wiring.core import Here, NodeCore, Running, open_node, services_of
from appliance.wiring.daemon import Ending, run_until
from appliance.wiring.keeping import keeping
from appliance.wiring.logs import engine_logs, of_processes

log = logging.getLogger(__name__)


async def run_node(state: Path, settings: Settings) -> None:
    """Run a node until it is told to end; its engines go on unless that was asked for too.

    Raises:
        UsageError: the broker's address is not one.
        NotFoundError, LockedError, NoSpaceError, StateUnusableError: as ``open_node``.
    """
    if settings.sync.broker:
        BrokerAddress.parse(settings.sync.broker, proxy=settings.sync.proxy)
    with open_node(state, settings.cache) as core:
        core.store.publish_index(*core.ledger.read(roots.shown))
        ending = Ending()
        await _run_loops(core, settings, ending)
        if ending.engines_too:
            end_all(state)


@asynccontextmanager
async def _running(here: Here) -> AsyncIterator[Running]:
    core, settings = here.core, here.settings
    if settings.kubernetes.kubeconfig:
        from appliance.wiring.cluster import Cluster  # noqa: PLC0415 - 38 MiB, if wanted

        cluster = Cluster(here)

        core.ledger.record(mirror.enter).result()
        disk = drive(here.preflight.look, Wake(), SystemClock(), name="disk", resync_s=600)

        def said() -> dict[str, Any]:
            return {"cluster": cluster.status(), "disk_pressure": here.preflight.to_wire()}

        left = partial(_end_processes, core, settings.engine)
        ends = drive(left, Wake(), SystemClock(), name="engines left", resync_s=3600)
        loops = (cluster.run(), disk, ends)
        yield Running(
            cluster.reconcile, loops, said, cluster.changed, cluster.log_lines, cluster.restart
        )
        return
    if core.ledger.read(mirror.datastore) is not None:
        core.ledger.record(mirror.leave).result()
    async with _driver(core, settings.engine, here.wake) as driver:
        around = Surroundings(here.watch, core.listed, here.activity.last_demand, core.gpus.stops)
        rounds = Rounds(driver, slots=settings.engine.slots)
        controller = Controller(core.ledger, rounds, around, here.board, SystemClock())
        yield Running(controller.reconcile, restart=partial(stop_engines, driver))


async def _end_processes(core: NodeCore, settings: EngineSettings) -> None:
    """End engines from before this node was in a cluster: no gateway asks them any more.

    What they hold of the machine's memory and GPUs, the cluster does not know of.
    """
    if any(record.running(core.state)):
        async with _driver(core, settings, Wake()) as driver:
            names = await driver.empty()
            log.info("engines are pods now; ended the processes %s", ", ".join(names))


@asynccontextmanager
async def _driver(
    core: NodeCore, settings: EngineSettings, wake: Wake
) -> AsyncIterator[ProcessDriver]:
    startable = Startable(core.listed, core.store)
    launchers = {"llama_server": settings.llama_server}
    process = ProcessSettings(
        threads=settings.threads,
        launchers=launchers,
        drain_s=settings.drain_s,
        visible_gpus=core.gpus.visible,
    )
    driver = ProcessDriver(core.state, startable.weights, process)
    await driver.open(wake.set)
    try:
        yield driver
    finally:
        await driver.close()


async def _run_loops(core: NodeCore, settings: Settings, ending: Ending) -> None:
    clock = SystemClock()
    for folder in (places.ROUTES.parent, places.DEMAND):
        make_folder(core.state / folder)
    node = settings.kubernetes.node_name if settings.kubernetes.kubeconfig else ""
    board = Board(core.ledger, clock, core.state / places.ROUTES, node=node)
    board.on_activation = core.receipts.activate
    preflight = DiskPreflight(core.state, core.ledger, clock, partial(_stored, core.store))
    here = Here(core, settings, board, MachineWatch(machine), Activity(clock), preflight, Wake())
    async with _running(here) as running:
        await _serve(here, running, ending)


def _stored(store: ModelStore) -> int:
    return sum(store.sizes().values())


def _status(
    here: Here, running: Running, passes: Passes, uplink: Uplink, reporter: Reporter
) -> dict[str, Any]:
    """Return all that ``appliance status`` shows."""
    core, clock = here.core, SystemClock()
    return {
        "node": core.identity.node,
        "version": __version__,
        "epoch": core.ledger.epoch,
        "passes": passes.count,
        "fenced_gpus": {u: f.to_wire() for u, f in core.gpus.fenced().items()},
        "time": core.ledger.read(lambda db: freshness(db, clock)),
        "link": uplink.status(),
        "engines": [asdict(e) for s in here.board.world.statuses for e in s.engines],
        "full_streams": [str(s) for s in core.ledger.read(budgets.overfull)],
        **running.status(),
        **reporter.body(),
    }


async def _serve(here: Here, running: Running, ending: Ending) -> None:
    core, settings, board, watch, wake = here.core, here.settings, here.board, here.watch, here.wake
    clock, state = SystemClock(), core.state
    loop = asyncio.get_running_loop()
    core.gpus.on_change = lambda *_: loop.call_soon_threadsafe(wake.set)
    passes = Passes(running.reconcile, wake)
    is_held = partial(getattr, core.reserve, "is_held")
    reporter = Reporter(core.ledger, board, watch, clock, core.care.health.wanted, is_held)

    def new_word() -> None:
        wake.set()
        running.changed()

    uplink = Uplink(core.identity, core.ledger, core.trust, reporter, board, new_word)
    uplink.on_time, uplink.certificates = core.answers.hear_time, core.certificates
    renewal = Renewal(core.certificates, state, uplink.ask_certificate)
    marks = MarkFolder(state / places.DEMAND, here.activity, clock)
    marks.read()  # before the first pass: that a controller starts anew puts no model to sleep
    demand = DemandLoop(marks, wake.set)
    outcomes = OutcomeLoop(core.software.shelf, core.ledger, clock)
    heartbeat_s = settings.node.heartbeat_s

    async def changed() -> None:
        await uplink.catalogue_changed()
        running.changed()
        await passes.now()

    notes = StateNotes(core.ledger, clock, board, reporter.state)
    overrides = OverrideLoop(core.ledger, clock, passes.now)
    sampler = Sampler(core.ledger, clock, settings.sync, here.activity.tokens_per_second)
    caretaker = Caretaker(core.care, core.retaining, board, changed)
    read_logs = running.log_lines or partial(of_processes, state, board)

    status = partial(_status, here, running, passes, uplink, reporter)
    uplink.hands = hands(here, running, status, read_logs, passes)
    services = services_of(
        core,
        settings.network,
        uplink,
        status=status,
        log_lines=partial(engine_logs, board, read_logs),
        changed=changed,
        stop=ending.ask,
    )
    socket = asgi.listen_unix(state / places.CONTROL_SOCKET, 0o660)
    try:
        await run_until(
            ending.asked,
            asgi.serve(local_api(services), socket),
            drive(passes, wake, clock, name="node", resync_s=settings.node.resync_s),
            drive(demand.look, Wake(), clock, name="demand", resync_s=30),
            drive(watch.look, Wake(), clock, name="machine", resync_s=300),
            drive(core.gpus.look, Wake(), clock, name="gpus", resync_s=60),
            drive(caretaker.tend, Wake(), clock, name="store", resync_s=60),
            drive(caretaker.scrub, Wake(), clock, name="scrub", resync_s=600),
            drive(outcomes.look, Wake(), clock, name="software", resync_s=30),
            drive(renewal.look, Wake(), clock, name="certificate", resync_s=900),
            uplink.run(settings.sync, clock, heartbeat_s=heartbeat_s),
            *running.loops,
            drive(overrides.look, Wake(), clock, name="overrides", resync_s=30),
            *keeping(core, settings.sync, clock, here.activity.served),
            drive(sampler.look, Wake(), clock, name="metrics", resync_s=60),
            drive(notes.look, Wake(), clock, name="states", resync_s=30),
        )
    finally:
        asgi.remove_socket(state / places.CONTROL_SOCKET)
        caretaker.close()
        await sampler.write()
