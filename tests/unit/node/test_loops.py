"""The node's small loops: passes one at a time, usage on a full disk, the newest machine facts."""

import asyncio
from pathlib import Path

import pytest

from appliance.errors import EngineError, NoSpaceError
from appliance.kit.clock import SystemClock
from appliance.kit.loop import Again, Wake
from appliance.kit.reserve import Reserve
from appliance.ledger.db import Ledger
from appliance.node import spool
from appliance.node.loops import DiskLoop, MachineWatch, Passes, UsageLoop
from tests.helpers.models import machine


def test_passes_never_overlap_and_one_that_was_asked_for_is_over_when_it_returns() -> None:
    running: list[int] = []

    async def reconcile() -> Again | None:
        running.append(len(running) + 1)
        assert running == [1]
        await asyncio.sleep(0.01)
        running.clear()
        return None

    async def story() -> None:
        wake = Wake()
        passes = Passes(reconcile, wake)
        await asyncio.gather(passes(), passes.now(), passes(), passes.now())
        assert running == []
        await asyncio.wait_for(wake.wait(SystemClock(), 60), 1)

    asyncio.run(story())


def test_a_pass_that_fails_is_the_loops_business_and_not_of_who_asked() -> None:
    async def reconcile() -> Again | None:
        raise EngineError("nothing installed")

    async def story() -> None:
        passes = Passes(reconcile, Wake())
        await passes.now()
        with pytest.raises(EngineError):
            await passes()

    asyncio.run(story())


def test_on_a_full_disk_usage_is_what_the_reserve_is_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path / "node.db")
    reserve = Reserve(tmp_path / "reserve", size=4096)
    reserve.hold()
    loop = UsageLoop(tmp_path, ledger, reserve)

    def full(*_: object, **__: object) -> int:
        raise NoSpaceError("no space left for node.db")

    with monkeypatch.context() as patched:
        patched.setattr(spool, "take_in", full)
        with pytest.raises(NoSpaceError):
            asyncio.run(loop.look())
        held = [reserve.is_held]
    assert asyncio.run(loop.look()) == Again(0.5)
    assert [*held, reserve.is_held] == [False, True], "given up, and held again"
    ledger.close()


def test_a_full_disk_gives_the_reserve_up_whoever_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = Reserve(tmp_path / "reserve", size=4096)
    reserve.hold()
    loop, held = DiskLoop(reserve), []
    for free in (2 << 20, 1000, 2 << 20):
        monkeypatch.setattr("appliance.kit.reserve.free_bytes", lambda _, free=free: free)
        asyncio.run(loop.look())
        held.append(reserve.is_held)
    assert held == [True, False, True]


def test_asking_for_the_machine_takes_nothing_and_looking_again_reads_it() -> None:
    readings = [machine(1), machine(2)]
    watch = MachineWatch(lambda: readings.pop(0))
    assert [watch().memory_bytes, watch().memory_bytes] == [1, 1]
    asyncio.run(watch.look())
    assert watch().memory_bytes == 2
