"""Which Site is in force here, and what it lets models take."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.core import reading
from appliance.core.documents import Document
from appliance.ledger.db import Ledger
from appliance.node import desired, site
from appliance.node.desired import FleetWord
from appliance.planner.retain import DiskBudget
from tests.helpers.models import wire_site

GIB = 1 << 30


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "node.db")
    yield made
    made.close()


def document(name: str, **disk: str) -> Document:
    return reading.from_wire({**wire_site(name), "spec": {"disk": disk}}, "a test")


def test_without_a_site_there_is_no_limit(ledger: Ledger) -> None:
    assert ledger.read(site.in_force) is None
    assert ledger.read(site.disk_budget) == DiskBudget(None, 0)


def test_the_fleet_s_site_holds_until_local_staff_apply_theirs(ledger: Ledger) -> None:
    word = FleetWord(1, 1, "hash", (document("plant", store="200Gi", floor="10Gi"),))
    ledger.record(partial(desired.set_fleet, word=word)).result()
    assert ledger.read(site.disk_budget) == DiskBudget(200 * GIB, 10 * GIB)
    for name, at, disk in (("z", "1", {"store": "1Gi"}), ("a", "0", {"store": "2Gi"})):
        effect: Any = partial(desired.apply_locally, document=document(name, **disk), by="", at=at)
        ledger.record(effect).result()
    assert ledger.read(site.disk_budget) == DiskBudget(GIB, 0), "the one applied last"
    ledger.record(partial(desired.delete_locally, name="z", by="me", at="2")).result()
    assert ledger.read(site.disk_budget) == DiskBudget(2 * GIB, 0)


def test_a_site_that_says_nothing_of_disks_sets_no_limit(ledger: Ledger) -> None:
    plain = reading.from_wire(wire_site(), "a test")
    ledger.record(partial(desired.apply_locally, document=plain, by="me", at="1")).result()
    assert ledger.read(site.disk_budget) == DiskBudget()
