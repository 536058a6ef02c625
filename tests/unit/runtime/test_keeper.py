"""A keeper over processes that only sleep, with a fake engine that answers in their place."""

import asyncio
import fcntl
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.core.model import Replica
from appliance.core.state import ObservedReplica, Phase
from appliance.kit.proc import identify
from appliance.runtime import keeper as keeper_module
from appliance.runtime import logfile, record
from appliance.runtime.keeper import Keeper, KeeperContext, ProcessSettings
from appliance.runtime.launch import ALREADY_RUNS
from appliance.runtime.record import EngineRecord
from tests.fakes.engine import Asked, FakeEngine, Play, answer, by_path, in_turn
from tests.helpers.models import variant
from tests.helpers.waiting import until

REPLICA = Replica("small-0", "small", variant(), "llama-cpp", 256, 1, 1 << 30)
OTHER = replace(REPLICA, context=512)
READY, UNWELL = answer({}), answer({}, 503)
QUICK = ProcessSettings(
    drain_s=5, grace_s=5, look_every_s=0.005, unhealthy_after=3, first_backoff_s=60
)


_MOST_S = 10.0


class Box:
    """A state folder with one keeper, and all that it ever saw."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.paths = record.paths(state, REPLICA.id)
        for folder in (self.paths.record.parent, self.paths.folder, self.paths.log.parent):
            folder.mkdir(parents=True)
        self.seen: list[ObservedReplica] = []
        self.children: list[subprocess.Popen[bytes]] = []
        self.keeper: Keeper

    def engine(self, replica: Replica = REPLICA, uid: int | None = None) -> EngineRecord:
        """Start what holds the record as an engine does."""
        lock = os.open(self.paths.record, os.O_RDWR | os.O_CREAT)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        child = subprocess.Popen(["sleep", "60"], pass_fds=[lock])
        self.children.append(child)
        process = identify(child.pid)
        assert process is not None
        found = EngineRecord(replica, process, "sleep", (), (), "none", uid)
        os.ftruncate(lock, 0)
        os.pwrite(lock, found.dump(), 0)
        os.close(lock)
        return found

    def keep(self, found: EngineRecord | None, settings: ProcessSettings = QUICK) -> Keeper:
        context = KeeperContext(self.state, settings, lambda _: self.state, self.look)
        self.keeper = Keeper(REPLICA, found, None, context)
        return self.keeper

    def look(self) -> None:
        self.seen.append(self.keeper.observe())

    def phases(self) -> list[Phase]:
        """Return the phases, each as often as it began."""
        phases = [seen.phase for seen in self.seen]
        return [p for n, p in enumerate(phases) if n == 0 or phases[n - 1] is not p]

    def is_(self, phase: Phase) -> bool:
        return bool(self.seen) and self.seen[-1].phase is phase

    @asynccontextmanager
    async def serving(self, health: Play, metrics: Play | None = None) -> AsyncIterator[FakeEngine]:
        plays = by_path({"/health": health, "/metrics": metrics or busy(0)})
        async with FakeEngine(self.paths.socket, plays) as engine:
            self.keeper.task = asyncio.create_task(self.keeper.run())
            try:
                yield engine
            finally:
                self.keeper.stop()
                await asyncio.wait_for(self.keeper.task, _MOST_S)


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    monkeypatch.setattr(keeper_module, "_LOOK_BUSY_S", 0.005)
    made = Box(tmp_path)
    yield made
    for child in made.children:
        child.kill()
        child.wait()


def busy(requests: int) -> Play:
    return answer(b"llamacpp:requests_processing %d\nllamacpp:requests_deferred 0\n" % requests)


def asked_for(engine: FakeEngine, path: str) -> int:
    return sum(asked.path == path for asked in engine.asked)


def test_an_engine_that_stops_answering_its_probe_is_killed(box: Box) -> None:
    async def story() -> None:
        found = box.engine()
        box.keep(found)
        async with box.serving(in_turn(READY, UNWELL)):
            await until(lambda: box.is_(Phase.BACKOFF), "backoff")
            assert not found.process.is_alive()
            assert box.seen[-1].message == "small-0 did not answer its probe 3 times in a row"
            assert box.seen[-1].endpoint is None

    asyncio.run(story())


def test_an_engine_that_answers_again_in_time_is_left_alone(box: Box) -> None:
    twice = [UNWELL, UNWELL, READY]

    async def story() -> None:
        found = box.engine()
        box.keep(found)
        async with box.serving(in_turn(READY, *twice, *twice, *twice)) as engine:
            await until(lambda: asked_for(engine, "/health") > 12, "twelve probes")
            assert found.process.is_alive()
            assert box.phases() == [Phase.READY]

    asyncio.run(story())


def test_an_engine_that_is_not_ready_in_time_is_killed(box: Box) -> None:
    async def story() -> None:
        found = box.engine()
        profile = box.keep(found)._profile
        box.keeper._profile = replace(profile, ready=replace(profile.ready, start_s=0.1))
        async with box.serving(UNWELL):
            await until(lambda: box.is_(Phase.BACKOFF), "backoff")
            assert not found.process.is_alive()
            assert box.seen[-1].message == "small-0 was not ready within 0 s"
        assert Phase.READY not in box.phases()

    asyncio.run(story())


def test_a_stop_waits_for_the_requests_that_run(box: Box) -> None:
    async def story() -> None:
        found = box.engine()
        done = asyncio.Event()

        async def metrics(asked: Asked, writer: asyncio.StreamWriter) -> None:
            await busy(0 if done.is_set() else 1)(asked, writer)

        keeper = box.keep(found)
        async with box.serving(READY, metrics) as engine:
            await until(lambda: box.is_(Phase.READY), "ready")
            keeper.stop()
            task = keeper.task
            assert task is not None
            await until(lambda: asked_for(engine, "/metrics") > 2 or task.done(), "a look")
            assert found.process.is_alive()
            assert box.is_(Phase.STOPPING)
            done.set()
            await task
            assert not found.process.is_alive()
            assert not box.paths.record.exists()

    asyncio.run(story())


@pytest.mark.parametrize("metrics", [busy(1), answer({}, 404), answer(b"other 1\n")])
def test_a_stop_waits_no_longer_than_it_may(box: Box, metrics: Play) -> None:
    async def story() -> None:
        found = box.engine()
        box.keep(found, replace(QUICK, drain_s=0.05))
        async with box.serving(READY, metrics):
            await until(lambda: box.is_(Phase.READY), "ready")
        assert not found.process.is_alive()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("stable_after_s", "delays"), [(60.0, [0.01, 0.02, 0.04, 0.04]), (0.0, [0.01] * 4)]
)
def test_delays_grow_and_begin_anew_after_a_stable_time(
    box: Box, stable_after_s: float, delays: list[float]
) -> None:
    settings = ProcessSettings(
        launchers={"llama_server": "/not/there"}, first_backoff_s=0.01, most_backoff_s=0.04,
        stable_after_s=stable_after_s,
    )  # fmt: skip

    def waited() -> list[float | None]:
        return [seen.retry_in_s for seen in box.seen if seen.phase is Phase.BACKOFF]

    async def story() -> None:
        box.keep(None, settings)
        async with box.serving(READY):
            await until(lambda: len(waited()) >= 4, "four delays")

    asyncio.run(story())
    assert waited()[:4] == delays
    backoffs = [seen for seen in box.seen if seen.phase is Phase.BACKOFF]
    assert [(seen.restarts, seen.failures) for seen in backoffs[:3]] == [(1, 1), (2, 2), (3, 3)]


def test_a_full_disk_takes_no_engine_out_of_service(box: Box) -> None:
    box.paths.log.write_bytes(b"x" * (logfile.CAP_BYTES + 1))
    box.paths.log.with_name(box.paths.log.name + ".1").symlink_to("/dev/full")

    async def story() -> None:
        found = box.engine()
        box.keep(found)
        async with box.serving(READY) as engine:
            await until(lambda: asked_for(engine, "/health") > 3, "a few looks")
            assert box.phases() == [Phase.READY]
            assert found.process.is_alive()
            assert box.paths.log.stat().st_size == 0

    asyncio.run(story())


def test_an_engine_that_was_being_launched_before_is_adopted_with_its_user(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        found = box.engine(uid=61190)
        keeper = box.keep(None)
        monkeypatch.setattr(keeper, "_launch", lambda: refused(box))
        async with box.serving(READY):
            await until(lambda: box.is_(Phase.READY), "ready")
            assert keeper.observe().pid == found.process.pid
            assert keeper.uid == 61190

    asyncio.run(story())


@pytest.mark.parametrize("waits_for_lock", [True, False])
def test_an_engine_of_another_revision_is_ended_and_never_taken_for_this_one(
    box: Box, monkeypatch: pytest.MonkeyPatch, *, waits_for_lock: bool
) -> None:
    """The other one answers at the socket all the time, as one that was just launched would."""
    ready_with: list[int | None] = []

    async def story() -> None:
        old = box.engine(OTHER)
        keeper = box.keep(None, replace(QUICK, first_backoff_s=0.01))
        launched: list[EngineRecord] = []

        def launch() -> None:
            if old.process.is_alive():
                refused(box, after_s="0.2" if waits_for_lock else "0")
            else:
                launched.append(box.engine())
                keeper.child = box.children[-1]

        monkeypatch.setattr(keeper, "_launch", launch)
        async with box.serving(READY):
            await until(lambda: box.is_(Phase.READY), "ready")
            ready_with.append(keeper.observe().pid)
            assert not old.process.is_alive()
        assert ready_with == [launched[0].process.pid]

    asyncio.run(story())


def refused(box: Box, after_s: str = "0") -> None:
    """Launch what finds the record's lock held."""
    script = f"sleep {after_s}; exit {ALREADY_RUNS}"
    box.keeper.child = subprocess.Popen(["sh", "-c", script])
    box.children.append(box.keeper.child)
