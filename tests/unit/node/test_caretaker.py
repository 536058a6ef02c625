"""The loops around the store: they tell the node what changed, and keep their pace."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.core.state import DeploymentStatus
from appliance.kit.loop import Again
from appliance.node.board import World
from appliance.node.caretaker import Caretaker
from appliance.planner.retain import DiskBudget
from tests.helpers.signing import flip
from tests.helpers.stores import CaredStore


class Around:
    """The parts of the node that the loops use, and what they were told."""

    def __init__(self, folder: Path) -> None:
        self.cared = CaredStore(folder)
        self.world = World(desired=None)  # type: ignore[arg-type]
        self.noted: list[tuple[DeploymentStatus, ...]] = []
        self.changes = 0
        self.caretaker = self.of()

    def of(self) -> Caretaker:
        parts: Any = self
        return Caretaker(self.cared.care, parts, parts, self.changed)

    def note(self, statuses: tuple[DeploymentStatus, ...]) -> None:
        self.noted.append(statuses)

    async def changed(self) -> None:
        self.changes += 1

    def scrub(self) -> list[Again]:
        found = []
        while (again := asyncio.run(self.caretaker.scrub())) != Again(60.0):
            found.append(again)
        return found


@pytest.fixture
def around(tmp_path: Path) -> Iterator[Around]:
    made = Around(tmp_path)
    yield made
    made.caretaker.close()
    made.cared.ledger.close()


def test_tending_notes_what_is_served_and_tells_of_a_loss_once(around: Around) -> None:
    found = around.cared.bring("a")
    assert asyncio.run(around.caretaker.tend()) == Again(60.0)
    assert (around.changes, around.noted) == (0, [()])
    around.cared.store.blobs.path(found.manifest).unlink()
    for _ in range(2):
        asyncio.run(around.caretaker.tend())
    assert around.changes == 1


def test_tending_keeps_the_budget(around: Around) -> None:
    around.cared.bring("a")
    around.cared.budget = DiskBudget(0)
    asyncio.run(around.caretaker.tend())
    assert around.cared.models() == []


def test_the_scrub_tells_when_other_variants_may_run(around: Around) -> None:
    found = around.cared.bring("a")
    around.scrub()
    assert around.changes == 0
    flip(around.cared.store.blobs.path(found.weights))
    around.cared.later(days=8)
    around.scrub()
    assert (around.changes, around.cared.models()) == (1, [])


def test_the_scrub_rests_as_long_as_its_pace_asks(around: Around) -> None:
    around.cared.bring("a", data=bytes(4 << 20))
    around.cared.with_settings(scrub_bytes_per_s=1 << 20)
    around.caretaker.close()
    around.caretaker = around.of()
    rests = [again.after_s for again in around.scrub()]
    assert 3.5 < sum(rests) < 4.1
    assert all(rest <= 1.0 for rest in rests)
