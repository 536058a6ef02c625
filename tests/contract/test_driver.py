"""What every driver promises, held against the fake and real processes with a real model."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from appliance.core.ids import Digest
from appliance.core.model import Replica, Variant
from appliance.core.state import ObservedReplica, Phase
from appliance.kit.files import is_locked
from appliance.runtime import record
from appliance.runtime.driver import Driver
from appliance.runtime.keeper import ProcessSettings
from appliance.runtime.process import ProcessDriver, end_all
from tests.fakes.driver import FakeDriver

if TYPE_CHECKING:
    from tests.helpers.enginepods import EngineWorld

_WAIT_S = 60.0


class World(Protocol):
    """A kind of driver under test: opens one on the same world each time, and can crash engines."""

    def new(self) -> Driver: ...

    async def crash(self, driver: Driver, replica: str) -> None: ...

    def is_launching(self, replica: str) -> bool:
        """Whether an engine is at its beginning, or further."""

    def revision(self, replica: str) -> str:
        """Return the revision of the engine that runs, whatever a driver says of it."""

    def identity(self, driver: Driver, replica: str) -> str:
        """Return what is another for every engine that was ever started."""

    async def clean_up(self) -> None:
        """End what is left."""


class FakeWorld:
    def __init__(self) -> None:
        self.world: dict[str, Replica] = {}

    def new(self) -> Driver:
        return FakeDriver(self.world)

    async def crash(self, driver: Driver, replica: str) -> None:
        assert isinstance(driver, FakeDriver)
        driver.crash(replica)

    def is_launching(self, replica: str) -> bool:
        return replica in self.world

    def revision(self, replica: str) -> str:
        return self.world[replica].revision

    def identity(self, driver: Driver, replica: str) -> str:
        return str(driver.observe()[replica].pid)

    async def clean_up(self) -> None:
        self.world.clear()


class ProcessWorld:
    def __init__(self, state: Path, weights: Path) -> None:
        self.state = state
        self.weights = weights

    def new(self) -> Driver:
        settings = ProcessSettings(threads=1, drain_s=2, look_every_s=0.2, first_backoff_s=0.1)
        return ProcessDriver(self.state, lambda _: self.weights, settings)

    async def crash(self, driver: Driver, replica: str) -> None:
        pid = driver.observe()[replica].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def is_launching(self, replica: str) -> bool:
        return is_locked(record.paths(self.state, replica).record)

    def revision(self, replica: str) -> str:
        (found,) = (r for r in record.running(self.state) if r.replica.id == replica)
        return found.replica.revision

    def identity(self, driver: Driver, replica: str) -> str:
        return str(driver.observe()[replica].pid)

    async def clean_up(self) -> None:
        end_all(self.state)


@pytest.fixture(
    params=[
        "fake",
        pytest.param("process", marks=pytest.mark.integration),
        pytest.param("kubernetes", marks=pytest.mark.k8s),
    ]
)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    if request.param == "fake":
        return FakeWorld()
    if request.param == "kubernetes":
        engines: EngineWorld = request.getfixturevalue("engines")
        return engines
    tmp_path.chmod(0o711)
    return ProcessWorld(tmp_path, request.getfixturevalue("demo_weights"))


def replica(number: int = 0, context: int = 256) -> Replica:
    variant = Variant(
        "small", "1", "Q4_1", "acme", "MIT", Digest("sha256:" + "a" * 64),
        Digest("sha256:" + "b" * 64), 98_362_432, "model.gguf", "gguf", ("chat",), 8192, 23040,
    )  # fmt: skip
    return Replica(f"notes-{number}", "notes", variant, "llama-cpp", context, 1, 1 << 30)


def test_a_started_replica_becomes_ready_and_says_where_it_answers(world: World) -> None:
    async def story(driver: Driver) -> None:
        await driver.start(replica())
        seen = await until(driver, "notes-0", lambda s: s.phase is Phase.READY)
        assert seen.endpoint
        assert seen.revision == replica().revision

    run(world, story)


def test_starting_twice_is_not_an_error_and_runs_one(world: World) -> None:
    async def story(driver: Driver) -> None:
        await driver.start(replica())
        await driver.start(replica())
        await until(driver, "notes-0", lambda s: s.phase is Phase.READY)
        first = world.identity(driver, "notes-0")
        await driver.start(replica())
        assert list(driver.observe()) == ["notes-0"]
        assert world.identity(driver, "notes-0") == first

    run(world, story)


def test_another_revision_changes_nothing_until_the_first_is_stopped(world: World) -> None:
    async def story(driver: Driver) -> None:
        await driver.start(replica())
        await until(driver, "notes-0", lambda s: s.phase is Phase.READY)
        other = replace(replica(), context=512)
        await driver.start(other)
        assert driver.observe()["notes-0"].revision == replica().revision
        await driver.stop("notes-0")
        await gone(driver, "notes-0")
        await driver.start(other)
        seen = await until(driver, "notes-0", lambda s: s.phase is Phase.READY)
        assert seen.revision == other.revision

    run(world, story)


def test_a_stopped_replica_is_seen_as_stopping_until_it_is_gone(world: World) -> None:
    async def story(driver: Driver) -> None:
        await driver.start(replica())
        await until(driver, "notes-0", lambda s: s.phase is Phase.READY)
        await driver.stop("notes-0")
        assert driver.observe()["notes-0"].phase is Phase.STOPPING
        await driver.stop("notes-0")
        await gone(driver, "notes-0")

    run(world, story)


def test_stopping_what_does_not_run_is_not_an_error(world: World) -> None:
    async def story(driver: Driver) -> None:
        await driver.stop("nobody")
        assert driver.observe() == {}

    run(world, story)


def test_a_crashed_replica_comes_back_by_itself(world: World) -> None:
    async def story(driver: Driver) -> None:
        await driver.start(replica())
        await until(driver, "notes-0", lambda s: s.phase is Phase.READY)
        await world.crash(driver, "notes-0")
        seen = await until(driver, "notes-0", lambda s: s.phase is Phase.READY and s.restarts > 0)
        assert seen.failures == 0

    run(world, story)


def test_closing_leaves_it_running_and_the_next_driver_adopts_it(world: World) -> None:
    async def first(driver: Driver) -> None:
        await driver.start(replica())
        await until(driver, "notes-0", lambda s: s.phase is Phase.READY)
        found.append(world.identity(driver, "notes-0"))

    async def second(driver: Driver) -> None:
        seen = await until(driver, "notes-0", lambda s: s.phase is Phase.READY)
        found.append(world.identity(driver, "notes-0"))
        assert seen.revision == replica().revision
        await driver.stop("notes-0")
        await gone(driver, "notes-0")

    found: list[str] = []
    run(world, first, clean=False)
    run(world, second)
    assert found[0] == found[1]


def test_a_driver_that_is_killed_in_a_launch_leaves_no_other_revision_as_the_new_one(
    world: World,
) -> None:
    async def first(driver: Driver) -> None:
        await driver.start(replica(context=256))
        async with asyncio.timeout(_WAIT_S):
            while not world.is_launching("notes-0"):
                await asyncio.sleep(0.002)

    async def second(driver: Driver) -> None:
        await driver.start(replica(context=512))
        seen = await until(driver, "notes-0", lambda s: s.phase is Phase.READY)
        assert seen.revision == world.revision("notes-0")

    run(world, first, clean=False)
    run(world, second)


def test_whoever_opened_it_hears_of_changes(world: World) -> None:
    async def story(driver: Driver) -> None:
        before = len(heard)
        await driver.start(replica())
        await until(driver, "notes-0", lambda s: s.phase is Phase.READY)
        assert len(heard) > before

    heard: list[None] = []
    run(world, story, heard=heard)


def run(
    world: World,
    story: Callable[[Driver], Awaitable[None]],
    *,
    clean: bool = True,
    heard: list[None] | None = None,
) -> None:
    async def whole() -> None:
        async with opened(world, heard) as driver:
            await story(driver)

    try:
        asyncio.run(whole())
    finally:
        if clean:
            asyncio.run(world.clean_up())


@asynccontextmanager
async def opened(world: World, heard: list[None] | None) -> AsyncIterator[Driver]:
    driver = world.new()
    await driver.open(lambda: None if heard is None else heard.append(None))
    try:
        yield driver
    finally:
        await driver.close()


async def until(
    driver: Driver, name: str, done: Callable[[ObservedReplica], bool]
) -> ObservedReplica:
    try:
        async with asyncio.timeout(_WAIT_S):
            while name not in driver.observe() or not done(driver.observe()[name]):
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"after {_WAIT_S:.0f} s {name} is {driver.observe().get(name)}")
    return driver.observe()[name]


async def gone(driver: Driver, name: str) -> None:
    async with asyncio.timeout(_WAIT_S):
        while name in driver.observe():
            await asyncio.sleep(0.02)
