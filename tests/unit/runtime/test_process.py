"""Which user each engine runs as: its own."""

import asyncio
import fcntl
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.core.model import Replica
from appliance.kit.proc import identify
from appliance.runtime import record
from appliance.runtime.keeper import Keeper, ProcessSettings
from appliance.runtime.process import ProcessDriver
from appliance.runtime.record import EngineRecord
from tests.helpers.models import variant
from tests.helpers.waiting import until

REPLICA = Replica("small-0", "small", variant(), "llama-cpp", 256, 1, 1 << 30)
FIRST = 61184
SETTINGS = ProcessSettings(launchers={"llama_server": "/bin/sh"})


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProcessDriver:
    """A driver whose keepers only wait until they are stopped."""

    async def idle(keeper: Keeper) -> None:
        await keeper._stopping.wait()

    monkeypatch.setattr(Keeper, "run", idle)
    return ProcessDriver(tmp_path, lambda _: tmp_path, SETTINGS)


def named(number: int) -> Replica:
    return replace(REPLICA, id=f"small-{number}")


def uids(driver: ProcessDriver) -> dict[str, int | None]:
    return {name: keeper.uid for name, keeper in driver._keepers.items()}


def test_no_two_engines_share_a_user_and_one_that_is_gone_leaves_its_own(
    users: ProcessDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    async def story() -> None:
        await users.open(lambda: None)
        for number in range(3):
            await users.start(named(number))
        assert uids(users) == {"small-0": FIRST, "small-1": FIRST + 1, "small-2": FIRST + 2}
        await users.stop("small-1")
        await until(lambda: "small-1" not in uids(users), "its end")
        await users.start(named(3))
        assert uids(users)["small-3"] == FIRST + 1
        await users.close()

    asyncio.run(story())


def test_an_engine_that_is_adopted_keeps_its_user_for_itself(
    users: ProcessDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    path = record.paths(tmp_path, REPLICA.id).record
    path.parent.mkdir(parents=True)
    myself = identify(os.getpid())
    assert myself is not None
    path.write_bytes(EngineRecord(REPLICA, myself, "test", (), (), "none", FIRST).dump())

    async def story() -> None:
        await users.open(lambda: None)
        await users.start(named(1))
        assert uids(users) == {"small-0": FIRST, "small-1": FIRST + 1}
        await users.close()

    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        asyncio.run(story())


def test_without_root_there_is_no_user_to_give(
    users: ProcessDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    async def story() -> None:
        await users.open(lambda: None)
        await users.start(named(0))
        assert uids(users) == {"small-0": None}
        await users.close()

    asyncio.run(story())


def test_an_engine_that_has_just_begun_is_waited_for(tmp_path: Path) -> None:
    """It holds its record, and will say in some milliseconds who it is."""
    path = tmp_path / "run" / "engines" / "small-0.json"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        myself = identify(os.getpid())
        assert myself is not None
        engine = EngineRecord(REPLICA, myself, "llama_server", (), (), "watchdog", None)
        earlier = replace(engine, process=replace(myself, start=myself.start - 1))
        path.write_bytes(earlier.dump())
        writer = threading.Timer(0.2, path.write_bytes, [engine.dump()])
        writer.start()
        record.settle(tmp_path)
        assert path.read_bytes() == engine.dump()
        writer.join()
        path.write_bytes(b"")
        began = time.monotonic()
        record.settle(tmp_path, at_most_s=0.1)
        assert time.monotonic() - began >= 0.1
    record.settle(tmp_path)
