"""Who holds which variant: engines, documents, earlier choices, news, and people."""

import datetime
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.cache import catalog, index, pins
from appliance.cache.pins import SitePin
from appliance.core.model import Replica, Variant
from appliance.core.state import Condition, DeploymentStatus, Origin, Truth
from appliance.kit.clock import rfc3339
from appliance.ledger import meta
from appliance.ledger.db import Ledger
from appliance.node import desired
from appliance.node.retention import Retaining
from appliance.planner.retain import PinKind
from appliance.runtime import record
from appliance.settings import CacheSettings
from tests.helpers.clock import ScriptedClock
from tests.helpers.models import deployment, variant

NOW = datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC)


class Held:
    """A ledger with a catalogue, and the question who holds what."""

    def __init__(self, state: Path) -> None:
        self.ledger = Ledger(state / "node.db")
        self.clock = ScriptedClock(utc=NOW)
        self.retaining = Retaining(state, self.ledger, self.clock, CacheSettings())

    def do(self, effect: Any) -> None:
        self.ledger.record(effect).result()

    def bring(self, version: str = "1.0", name: str = "Q4_0", *, known: bool = True) -> Variant:
        found = variant(version=version, name=name)
        self.do(lambda db: catalog.add(db, found, "now"))
        if known:
            at = self.retaining.circumstances().at
            needs = {found.manifest: {found.manifest: 1, found.weights: 9}}
            self.do(partial(index.learn, found=needs, gone=(), at=at))
        return found

    def apply(self, name: str = "notes", **spec: Any) -> None:
        document = deployment(name, **spec)
        self.do(partial(desired.apply_locally, document=document, by="me", at="now"))

    def serve(self, found: Variant, name: str = "notes", *, ready: bool = True) -> None:
        truth = Truth.TRUE if ready else Truth.FALSE
        ready_is = Condition("Ready", truth, "", "")
        status = DeploymentStatus(
            name, Origin.LOCAL, "", found.model, found, 1, int(ready), (ready_is,)
        )
        self.retaining.note([status])

    def pins(self, found: Variant) -> list[str]:
        return [str(pin) for pin in self.retaining.circumstances().pins.get(found.manifest, ())]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Held]:
    made = Held(tmp_path)
    yield made
    made.ledger.close()


def test_what_documents_in_force_select_is_desired_even_at_zero_replicas(node: Held) -> None:
    found, other = node.bring("1.0", known=False), node.bring("0.9", known=False)
    node.apply(replicas=0)
    assert node.pins(found) == ["desired: notes"]
    assert node.pins(other) == []


def test_until_one_was_chosen_all_that_may_be_are_desired(node: Held) -> None:
    small, large = node.bring(name="Q4_0", known=False), node.bring(name="Q8_0", known=False)
    node.apply()
    assert (node.pins(small), node.pins(large)) == (["desired: notes"], ["desired: notes"])
    node.serve(small)
    assert (node.pins(small), node.pins(large)) == (["desired: notes"], [])


def test_the_version_before_is_kept_so_that_going_back_needs_no_stick(node: Held) -> None:
    first = node.bring("1.0", known=False)
    node.apply()
    node.serve(first)
    second = node.bring("2.0", known=False)
    node.serve(second, ready=False)
    assert node.pins(first) == ["previous: notes"], "although nothing serves just now"
    node.serve(second)
    assert (node.pins(first), node.pins(second)) == (["previous: notes"], ["desired: notes"])
    third = node.bring("3.0", known=False)
    node.serve(third, ready=False)
    assert node.pins(first) == ["previous: notes"], "until the third serves"
    assert node.pins(second) == ["previous: notes"]
    node.serve(third)
    assert (node.pins(first), node.pins(second)) == ([], ["previous: notes"])


def test_what_is_not_in_force_holds_nothing_before_it(node: Held) -> None:
    first = node.bring("1.0", known=False)
    node.apply()
    node.serve(first)
    node.retaining.note([])
    assert node.ledger.read(pins.choices).keys() == {"notes"}, "a pass that saw nothing is no word"
    node.do(partial(desired.delete_locally, name="notes", by="me", at="now"))
    assert node.pins(first) == []
    node.retaining.note([])
    assert node.ledger.read(pins.choices) == {}


def test_what_came_lately_and_was_never_served_is_staged(node: Held) -> None:
    found = node.bring()
    assert node.pins(found) == ["staged: here since 2026-12-01"]
    node.clock.time += datetime.timedelta(days=13)
    assert node.pins(found) == ["staged: here since 2026-12-01"]
    node.clock.time += datetime.timedelta(days=2)
    assert node.pins(found) == []


def test_a_clock_that_starts_in_1970_unstages_nothing(node: Held) -> None:
    moment = NOW - datetime.timedelta(days=1)
    node.do(partial(meta.add_floor_row, key="aa", at=moment, online=False))
    node.clock.time = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    found = node.bring()
    assert node.pins(found) == ["staged: here since 2026-11-30"]


def test_an_engine_that_runs_holds_what_it_runs_from_and_ends_its_staging(
    node: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = node.bring()
    replicas = [Replica(f"notes-{n}", "notes", found, "llama-cpp", 64, 1, 1) for n in range(2)]

    class Record:
        def __init__(self, replica: Replica) -> None:
            self.replica = replica

    monkeypatch.setattr(record, "running", lambda _: (Record(r) for r in replicas))
    node.retaining.note([])
    assert node.pins(found) == ["running: notes"]
    used = node.ledger.read(pins.uses)[found.manifest].used_at
    assert used == rfc3339(NOW)
    node.clock.time += datetime.timedelta(minutes=59)
    node.retaining.note([])
    assert node.ledger.read(pins.uses)[found.manifest].used_at == used, "not a write a minute"
    node.clock.time += datetime.timedelta(minutes=2)
    node.retaining.note([])
    assert node.ledger.read(pins.uses)[found.manifest].used_at != used


def test_what_lost_a_blob_is_still_desired_with_what_stands_in_for_it(node: Held) -> None:
    large = node.bring(name="Q8_0")
    small = node.bring(name="Q4_0")
    node.clock.time += datetime.timedelta(days=99)
    node.apply(quantization="auto")
    node.serve(large)
    node.do(partial(index.lost, digest=large.weights, size=9, state=index.BlobState.DAMAGED))
    assert node.pins(large) == ["desired: notes"]
    assert node.pins(small) == ["desired: notes"]


def test_a_person_s_pin_says_who_and_why(node: Held) -> None:
    found = node.bring(known=False)
    pin = SitePin(found.manifest, "the auditor comes", "uid 0", "now")
    node.do(partial(pins.set_pin, pin=pin))
    assert node.pins(found) == ["site-pinned: the auditor comes (uid 0)"]
    assert {kind.value for kind in PinKind} == {
        "running", "desired", "previous", "staged", "site-pinned",
    }  # fmt: skip
