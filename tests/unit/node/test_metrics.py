"""What the node tells by itself: measurements, states, and that its log is full."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.core.machine import GpuLoad
from appliance.core.state import DesiredState
from appliance.errors import NoSpaceError
from appliance.hardware.host import HostLoad
from appliance.kit.loop import Again
from appliance.ledger import budgets, streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream
from appliance.node.board import Board
from appliance.node.metrics import BudgetLoop, Measured, Sampler, StateNotes, limits, measure
from appliance.settings import SyncSettings
from tests.helpers.waiting import StillClock

SETTINGS = SyncSettings(sample_s=1.0, metrics_s=15.0)
MACHINE: Measured = (
    HostLoad(1 << 30, 0.5),
    (GpuLoad("GPU-1", 5, 80, 61, 70.5), GpuLoad("GPU-2", watts=None)),
)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "node.db")
    yield made
    made.close()


def records(ledger: Ledger, stream: Stream = Stream.METRICS) -> list[dict[str, Any]]:
    found = ledger.read(lambda db: list(streams.waiting(db, stream, 1000)))
    return [r.record for r in found]


def test_a_second_is_a_record_for_the_host_each_gpu_and_each_model_that_generates(
    ledger: Ledger,
) -> None:
    clock = StillClock()
    sampler = Sampler(ledger, clock, SETTINGS, lambda: {"notes": 12.3456}, lambda: MACHINE)
    clock.move(15)
    assert asyncio.run(sampler.look()) == Again(1.0)
    at = "2026-12-01T00:00:15.000Z"
    assert records(ledger) == [
        {"at": at, "kind": "host", "body": {"memory_available_bytes": 1 << 30, "load": 0.5}},
        {"at": at, "kind": "gpu", "body": {"id": "GPU-1", "memory_used_bytes": 5,
         "busy_percent": 80, "celsius": 61, "watts": 70.5}},
        {"at": at, "kind": "gpu", "body": {"id": "GPU-2"}},
        {"at": at, "kind": "model", "body": {"id": "notes", "tokens_per_s": 12.346}},
    ]  # fmt: skip


def test_measurements_gather_and_are_written_together(ledger: Ledger) -> None:
    clock, counts = StillClock(), list[int]()
    sampler = Sampler(ledger, clock, SETTINGS, measure=lambda: (HostLoad(1, 0.5), ()))

    async def story() -> None:
        for _ in range(35):
            await sampler.look()
            counts.append(len(records(ledger)))
            clock.move(1)
        await sampler.write()

    asyncio.run(story())
    assert counts == [0] * 15 + [16] * 15 + [31] * 5
    assert len(records(ledger)) == 35


def test_a_driver_that_is_slow_is_asked_less_often(ledger: Ledger) -> None:
    clock = StillClock()

    def slow() -> Measured:
        clock.move(2)
        return MACHINE

    assert asyncio.run(Sampler(ledger, clock, SETTINGS, measure=slow).look()) == Again(20.0)


def test_nothing_is_measured_when_that_is_turned_off(ledger: Ledger) -> None:
    def never() -> Measured:
        raise AssertionError

    sampler = Sampler(ledger, StillClock(), replace(SETTINGS, sample_s=0.0), measure=never)
    assert asyncio.run(sampler.look()) is None


def test_a_full_disk_loses_measurements_and_nothing_else(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = Sampler(ledger, StillClock(), SETTINGS, measure=lambda: MACHINE)

    def full(*_: object) -> int:
        raise NoSpaceError("no space left for node.db")

    async def story() -> None:
        await sampler.look()
        with monkeypatch.context() as patched:
            patched.setattr(streams, "append_texts", full)
            await sampler.write()
        await sampler.write()

    asyncio.run(story())
    assert records(ledger) == []


def test_this_machine_can_be_measured() -> None:
    host, gpus = measure()
    assert host.load is not None
    assert host.load >= 0
    assert (host.memory_available_bytes or 0) > 0
    assert all(gpu.uuid for gpu in gpus)


def test_each_new_state_is_noted_once(ledger: Ledger, tmp_path: Path) -> None:
    clock = StillClock()
    board = Board(ledger, clock, tmp_path / "routes.json")
    board.show(DesiredState(), ())
    notes = StateNotes(ledger, clock, board, lambda: {"version": board.version})

    async def story() -> None:
        await notes.look()
        for _ in range(2):
            board.version += 1
            await notes.look()
            await notes.look()

    asyncio.run(story())
    found = records(ledger, Stream.REPORTED)
    assert [r["body"]["version"] for r in found] == [1, 2]
    assert {(r["at"], r["kind"]) for r in found} == {("2026-12-01T00:00:00.000Z", "state")}


def test_every_stream_has_a_budget_in_the_settings_and_they_are_those_of_the_ledger() -> None:
    assert limits(SyncSettings()) == dict(budgets.DEFAULTS)


def test_the_budget_loop_sets_the_budgets_and_says_which_cannot_be_kept(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    settings = SyncSettings(audit_bytes=10_000, events_bytes=10_000)
    loop = BudgetLoop(ledger, settings)
    assert ledger.read(partial(budgets.limit, stream=Stream.AUDIT)) == 10_000
    for stream in (Stream.AUDIT, Stream.EVENTS):
        ledger.note(*[Fact(stream, "t", "", {"text": "x" * 100})] * 100).result()
    assert asyncio.run(loop.look()) == Again(10.0)
    assert loop.full == ("audit",)
    assert "no import and no command may start" in caplog.text
    kinds = [r["kind"] for r in records(ledger, Stream.EVENTS)]
    assert kinds[0] == "gap"
    assert ledger.read(partial(budgets.held, stream=Stream.EVENTS)) <= 10_000
    caplog.clear()
    asyncio.run(loop.look())
    assert not caplog.text, "said once, not every ten seconds"
