"""Site first: holds, pins and overrides; the fleet's word comes back when their time is over."""

import asyncio
import datetime
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.cache import catalog, pins
from appliance.cache.pins import Choice
from appliance.core.documents import Document, ModelDeployment
from appliance.core.state import Origin
from appliance.errors import NotFoundError, UsageError
from appliance.ledger import meta, mirror, streams
from appliance.ledger import overrides as rows
from appliance.ledger.db import Ledger
from appliance.ledger.overrides import Mode
from appliance.ledger.streams import Stream
from appliance.node import desired, overrides
from appliance.node.desired import FleetWord
from appliance.node.overrides import OverrideLoop, Why
from appliance.trust.floor import Now
from tests.helpers.models import deployment, digest_of, variant, wire_site
from tests.helpers.waiting import StillClock

NOON = datetime.datetime(2026, 12, 1, 12, tzinfo=datetime.UTC)
HOUR = datetime.timedelta(hours=1)
SOON = "2026-12-01T12:10:00.000Z"
WHY = Why("uid 7", "2026-12-01T12:00:00.000Z", "audit week")
ENDS = Why(WHY.by, WHY.at, WHY.reason, SOON)


class Site:
    """A node's ledger, and what fleet and staff say to it."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.generation = 0

    def do(self, effect: Callable[..., Any], *args: Any) -> Any:
        return self.ledger.record(lambda db: effect(db, *args)).result()

    def fleet(self, *documents: Document) -> None:
        self.generation += 1
        self.do(desired.set_fleet, FleetWord(1, self.generation, "hash", documents))

    def one(self, name: str = "a") -> ModelDeployment:
        found = self.ledger.read(desired.in_force).deployments
        return next(d.document for d in found if d.document.name == name)

    def drift(self, name: str = "a") -> str:
        found = self.ledger.read(desired.in_force).deployments
        return next(d.drift for d in found if d.document.name == name)

    def names(self) -> list[str]:
        return [d.document.name for d in self.ledger.read(desired.in_force).deployments]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    ledger = Ledger(tmp_path / "node.db")
    ledger.record(lambda db: catalog.add(db, variant("small"), "now")).result()
    yield Site(ledger)
    ledger.close()


def test_what_is_held_stays_whatever_the_fleet_says(site: Site) -> None:
    site.fleet(deployment("a", replicas=2))
    assert site.do(overrides.hold, "a", ENDS) == f"held as it is until {SOON}"
    assert site.drift() == f"held by uid 7 until {SOON}: audit week", "drift though nothing differs"
    site.fleet(deployment("a", replicas=5))
    assert site.one().spec.replicas == 2
    told = f"replicas is 2 here, 5 in the fleet; held by uid 7 until {SOON}: audit week"
    assert site.drift() == told
    site.fleet()
    assert site.names() == ["a"], "also when the fleet asks for it no more"


def test_a_pin_keeps_the_model_and_lets_the_rest_follow(site: Site) -> None:
    site.fleet(deployment("a", "small", replicas=2))
    site.do(overrides.pin, "a", "small@1.0.0", WHY)
    site.fleet(deployment("a", "large", replicas=5))
    assert (site.one().spec.model, site.one().spec.replicas) == ("small@1.0.0", 5)
    assert "'small@1.0.0' here, 'large' in the fleet; model pinned by uid 7" in site.drift()
    site.fleet()
    assert site.names() == [], "what is not asked for has no model to pin"
    site.fleet(deployment("a", "large"))
    assert site.one().spec.model == "small@1.0.0"
    site.do(desired.release, "a")
    assert site.one().spec.model == "large"


def test_a_pin_takes_the_manifest_that_serves(site: Site) -> None:
    site.fleet(deployment("a", "small@2.0.0"))
    with pytest.raises(NotFoundError, match="nothing serves"):
        site.do(overrides.pin, "a", None, WHY)
    serving = digest_of("one")
    site.do(pins.set_choice, "a", Choice(digest_of("two"), serving))
    site.do(overrides.pin, "a", None, WHY)
    assert site.one().spec.model == f"small@{serving}"


@pytest.mark.parametrize("model", ["smal", "small@1.0.1", "small@1.0.0"])
def test_a_pin_to_what_is_not_here_is_refused_and_changes_nothing(site: Site, model: str) -> None:
    site.fleet(deployment("a", "small", quantization="auto" if "1.0.0" not in model else "Q8_0"))
    with pytest.raises(NotFoundError, match="a would stop serving") as caught:
        site.do(overrides.pin, "a", model, WHY)
    assert caught.value.hint is not None
    assert "--anyway" in caught.value.hint
    assert site.one().spec.model == "small"
    assert site.ledger.read(rows.rows) == {}
    found = site.do(partial(overrides.pin, anyway=True), "a", model, WHY)
    assert found.model == site.one().spec.model == model
    assert "it waits: " in found.told


def test_a_pin_to_what_serves_now_does_not_ask_whether_it_is_whole(site: Site) -> None:
    site.fleet(deployment("a", "small"))
    site.do(pins.set_choice, "a", Choice(digest_of("lost a blob"), digest_of("lost a blob")))
    assert "waits" not in site.do(overrides.pin, "a", None, WHY).told


def test_only_what_the_fleet_asks_for_is_held_or_pinned(site: Site) -> None:
    site.do(desired.apply_locally, deployment("mine"), "me", "now")
    for effect in (overrides.hold, partial(overrides.pin, model="small")):
        with pytest.raises(UsageError, match="the fleet does not ask"):
            site.ledger.record(partial(effect, name="mine", why=WHY)).result()
    with pytest.raises(NotFoundError):
        site.do(overrides.hold, "nobody", WHY)
    site.fleet(deployment("a"))
    with pytest.raises(UsageError):
        site.do(overrides.pin, "a", "../etc", WHY)
    assert site.ledger.read(rows.rows) == {}


def test_a_new_word_replaces_the_reason_and_a_plain_one_has_none(site: Site) -> None:
    site.fleet(deployment("a", replicas=2))
    site.do(overrides.hold, "a", ENDS)
    site.do(overrides.override, deployment("a", replicas=3), WHY)
    (row,) = site.ledger.read(rows.rows).values()
    assert (row.mode, row.until) == (Mode.OVERRIDE, None)
    assert site.drift().endswith("; overridden by uid 7: audit week")
    assert site.do(desired.apply_locally, deployment("a", replicas=3), "me", "now") == "changed"
    assert site.ledger.read(rows.rows) == {}
    assert site.drift() == "replicas is 3 here, 2 in the fleet"
    site.do(overrides.hold, "a", ENDS)
    site.do(desired.delete_locally, "a", "me", "now")
    assert (site.ledger.read(rows.rows), site.names()) == ({}, [])


def test_a_site_document_has_a_reason_but_no_end(site: Site) -> None:
    from appliance.core import reading  # noqa: PLC0415

    document = reading.from_wire(wire_site(), "a test")
    with pytest.raises(UsageError, match="no end"):
        site.do(overrides.override, document, ENDS)
    assert site.do(overrides.override, document, WHY) == "created"


def test_when_its_time_is_over_the_fleets_word_holds_again(site: Site) -> None:
    site.fleet(deployment("a", replicas=2))
    site.do(overrides.hold, "a", ENDS)
    site.fleet(deployment("a", replicas=5))
    assert site.do(overrides.expire, Now(NOON, proven=True), "now") == []
    assert site.one().spec.replicas == 2
    late = NOON + datetime.timedelta(minutes=10)
    assert site.do(overrides.expire, Now(late, proven=True), "now") == ["a"]
    assert (site.one().spec.replicas, site.drift()) == (5, "")
    (record,) = site.ledger.read(lambda db: list(streams.waiting(db, Stream.AUDIT, 10)))
    assert record.record["kind"] == "override-expired"
    assert record.record["body"] == {
        "mode": "hold", "name": "a", "reason": "audit week", "until": SOON,
    }  # fmt: skip
    assert site.do(overrides.expire, Now(late, proven=True), "now") == []


def test_a_trial_that_only_stands_here_ends(site: Site) -> None:
    site.do(overrides.override, deployment("trial"), ENDS)
    site.do(overrides.expire, Now(NOON + datetime.timedelta(days=1), proven=True), "now")
    assert site.names() == []


def test_the_loop_ends_it_in_time_and_has_a_pass_made(site: Site) -> None:
    clock, passes = StillClock(), []
    clock.time = NOON

    async def changed() -> None:
        passes.append(site.one().spec.replicas)

    loop = OverrideLoop(site.ledger, clock, changed)
    site.fleet(deployment("a", replicas=2))
    site.do(overrides.hold, "a", ENDS)
    site.fleet(deployment("a", replicas=5))
    assert asyncio.run(loop.look()).after_s == 30
    clock.move(595)
    assert asyncio.run(loop.look()).after_s == 5
    clock.time = datetime.datetime(2038, 1, 20, tzinfo=datetime.UTC)
    asyncio.run(loop.look())
    assert passes == [], "a clock that jumped proves nothing"
    clock.time = NOON
    clock.move(600)
    asyncio.run(loop.look())
    assert passes == [5]


def test_a_signed_time_ends_it_whatever_the_clock_says(site: Site) -> None:
    clock, passes = StillClock(), []

    async def changed() -> None:
        passes.append(site.one().spec.replicas)

    loop = OverrideLoop(site.ledger, clock, changed)
    site.fleet(deployment("a", replicas=2))
    site.do(overrides.hold, "a", ENDS)
    site.fleet(deployment("a", replicas=5))
    clock.time = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    site.do(partial(meta.add_floor_row, key="aa", at=NOON, online=False))
    asyncio.run(loop.look())
    assert passes == []
    site.do(partial(meta.add_floor_row, key="aa", at=NOON + HOUR, online=False))
    asyncio.run(loop.look())
    assert passes == [5]


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        (None, None),
        ("", None),
        ("10m", SOON),
        ("2026-12-01T13:10:00+01:00", SOON),
    ],
)
def test_an_end_is_a_time_or_a_duration(text: str | None, ends: str | None) -> None:
    assert overrides.until(text, Now(NOON, proven=True)) == ends


@pytest.mark.parametrize("text", ["soon", "2026-12-01T13:10:00", "2026-12-01T12:00:00Z", "0s"])
def test_what_is_no_end_or_has_passed_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        overrides.until(text, Now(NOON, proven=True))


def test_origin_of_what_is_held_is_local(site: Site) -> None:
    site.fleet(deployment("a"))
    site.do(overrides.hold, "a", WHY)
    (only,) = site.ledger.read(desired.in_force).deployments
    assert only.origin is Origin.LOCAL


def test_in_a_cluster_a_pin_is_what_this_node_projects(site: Site) -> None:
    site.do(mirror.enter)
    site.fleet(deployment("a", "small", replicas=2))
    site.do(overrides.pin, "a", "small@1.0.0", WHY)
    site.fleet(deployment("a", "large", replicas=5))
    kind = ModelDeployment.kind_name
    (projected,) = site.ledger.read(lambda db: desired.local(db, kind)).values()
    assert isinstance(projected, ModelDeployment)
    assert (projected.spec.model, projected.spec.replicas) == ("small@1.0.0", 5)
    assert "model pinned by uid 7" in site.drift()
    assert (kind, "a") in site.ledger.read(mirror.asked), "the cluster is to hear of it"
    site.fleet()
    assert site.ledger.read(lambda db: desired.local(db, kind)) == {}
