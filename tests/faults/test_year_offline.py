"""A year alone: no hub, clocks that jump, nights of an hour more or less. Then somebody answers.

The node's own parts run through it on a clock that the test holds: passes, the link that finds
nobody, the site's windows, demand, budgets. Nothing that serves stops, and the first contact heals.
"""

import asyncio
import datetime
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle.media.pace import windows_of
from appliance.core import reading
from appliance.core.demand import Mark
from appliance.core.documents import API_VERSION, Site
from appliance.core.state import Phase
from appliance.hub.authority import Authority
from appliance.hub.enrolment import Enrolment, Policy
from appliance.kit.clock import rfc3339
from appliance.ledger import budgets, chain, meta, overrides, receipts
from appliance.ledger.streams import Fact, Stream
from appliance.node import auditing, desired, site
from appliance.node.auditing import AuditKeeper
from appliance.node.demand import Activity
from appliance.node.freshness import freshness
from appliance.node.overrides import OverrideLoop, Why, hold
from appliance.sync import mqtt
from appliance.sync.mqtt import BrokerAddress
from appliance.trust import floor
from appliance.trust.documents import HUB_PATH
from tests.fakes.broker import FakeBroker
from tests.helpers.linked import Fleet, LinkedNode
from tests.helpers.models import deployment
from tests.helpers.waiting import SetClock, until

HOUR, DAY = 3600.0, 24 * 3600.0
UTC = datetime.UTC
START = datetime.datetime(2026, 12, 1, tzinfo=UTC)
SKIPS_AN_HOUR = datetime.date(2027, 3, 28)
REPEATS_AN_HOUR = datetime.date(2027, 10, 31)
TO_1970, TO_2038 = range(60, 63), range(200, 204)
"""Days on which the clock is somewhere else."""

LIFE = datetime.timedelta(days=100)
METRICS_BYTES = 1 << 20
PLACE = {
    "apiVersion": API_VERSION,
    "kind": "Site",
    "metadata": {"name": "here"},
    "spec": {
        "timeZone": "Europe/Zurich",
        "windows": {"transfer": [{"from": "02:30", "to": "03:30"}]},
    },
}


class Year:
    """One node that goes through a year, its hub, and the broker that is away."""

    def __init__(self, folder: Path) -> None:
        self.clock = SetClock()
        self.clock.time = START
        self.true = START
        self.broker = FakeBroker()
        self.fleet = Fleet(folder)
        self.node = self.fleet.add("box-1", self.clock)
        self.activity = Activity(self.clock)
        self.passes = self.metrics = self.usage = 0
        self.unproven: set[int] = set()
        self.open_minutes: dict[datetime.date, int] = {}
        self.node.ledger.record(
            partial(budgets.begin, limits={Stream.METRICS: METRICS_BYTES})
        ).result()
        document = reading.from_wire(PLACE, "a test")
        assert isinstance(document, Site)
        apply = partial(desired.apply_locally, document=document, by="me", at="now")
        self.node.ledger.record(apply).result()
        self.enrol(folder / "hub")
        self.keeper = AuditKeeper(self.node.ledger, self.clock)
        self.holds = OverrideLoop(self.node.ledger, self.clock, self._look_again)
        self.held_until: int | None = None

    async def _look_again(self) -> None:
        await self.node.node.controller.reconcile()

    def enrol(self, folder: Path) -> None:
        """Have the hub issue certificates for 100 days, and the node take its first."""
        (folder / "identity").mkdir()
        hub = self.fleet.hub
        hub.clock.time = self.true
        authority = Authority.of(folder, "acme", self.true)
        policy = Policy(LIFE, datetime.timedelta(days=500))
        desk = Enrolment("acme", folder, lambda: authority, hub.db, hub.clock, policy)
        hub.service.add("request", desk)
        self.node.sign(HUB_PATH, {"org": "acme", "epoch": 1, "ca": [authority.pem]})
        answer = asyncio.run(desk.answer(self.node.certificates.request()))
        self.node.certificates.take(str(answer["chain"]).encode())

    async def is_renewed(self) -> None:
        """Wait for another certificate, looking as the loop does: every ten minutes of a day."""
        certificates = self.node.certificates
        for _ in range(144):
            chain = certificates.chain()
            assert chain is not None
            if chain.expires >= self.true + LIFE / 2:
                return
            await self.node.renewal.look()
            await asyncio.sleep(0.05)
            self.clock.passed += 600
        raise AssertionError("the certificate was not renewed")

    def go(self, seconds: float) -> None:
        """Let time pass, everywhere."""
        self.true += datetime.timedelta(seconds=seconds)
        self.fleet.hub.clock.time = self.true
        self.clock.go(seconds)

    def set_clock(self, year: int | None) -> None:
        """Set the node's clock to a year, or right."""
        self.clock.time = self.true if year is None else self.true.replace(year=year)

    def note(self) -> None:
        """Note what six hours bring."""
        at = rfc3339(self.clock.utc())
        facts = []
        for _ in range(36):
            self.metrics += 1
            body = {"series": {"gpu-0": {"watts": 200 + self.metrics % 7, "celsius": 61}}}
            facts.append(Fact(Stream.METRICS, "sample", at, body))
        for _ in range(5):
            self.usage += 1
            facts.append(Fact(Stream.USAGE, "request", at, {"n": self.usage}))
        self.node.ledger.note(*facts).result()
        while self.node.ledger.record(partial(budgets.step, stream=Stream.METRICS)).result():
            pass

    async def make_pass(self) -> None:
        """Make a pass, with somebody asking for the sleeper; look that nothing stopped."""
        node = self.node.node
        mark = Mark("sleeper", rfc3339(self.clock.utc()), waiting=False)
        self.activity.marked(mark)
        node.demand = self.activity.last_demand()
        await node.controller.reconcile()
        await self.node.asker.look()
        self.passes += 1
        seen = node.driver.observe().values()
        assert {r.deployment: r.phase for r in seen} == dict.fromkeys(
            ("ours", "theirs", "sleeper"), Phase.READY
        )

    def window_is_open(self) -> bool:
        """Whether a bundle could come over the network now, as fetching asks."""
        found = self.node.ledger.read(site.in_force)
        now = self.node.ledger.read(meta.floor)
        known = floor.now(now, self.clock.utc())
        assert found is not None
        return known.proven and windows_of(found.spec).is_open(known.at)

    async def begin(self) -> None:
        """Have three deployments run: the site's, the fleet's, and one that may sleep."""
        node = self.node.node
        bounds = {"min": 0, "max": 1, "idleAfter": "15m"}
        node.apply("ours")
        node.apply("sleeper", scaling=bounds)
        await self.fleet.ask(self.node, deployment("theirs"))
        await until(lambda: self.node.generation() == 1, "the fleet's word")
        self.activity.marked(Mark("sleeper", rfc3339(self.clock.utc()), waiting=True))
        node.demand = self.activity.last_demand()
        await node.controller.reconcile()
        end = rfc3339(START + datetime.timedelta(days=TO_1970[0] + 1))
        why = Why("me", rfc3339(START), "the line is being rebuilt", end)
        self.node.ledger.record(partial(hold, name="theirs", why=why)).result()
        for name in ("ours", "theirs", "sleeper"):
            node.driver.become_ready(f"{name}-0")
        await until(self.node.all_acknowledged, "what was before")

    async def day(self, number: int) -> None:
        """Let a day go by in four passes; a night when the clocks are changed, in many."""
        year = 1970 if number in TO_1970 else 2038 if number in TO_2038 else None
        self.set_clock(year)
        today = self.true.date()
        changes = today in (SKIPS_AN_HOUR, REPEATS_AN_HOUR)
        for quarter in range(4):
            if changes and quarter == 0:
                for _ in range(36):
                    self.go(600)
                    self.open_minutes[today] = self.open_minutes.get(today, 0) + (
                        10 * self.window_is_open()
                    )
                    await self.make_pass()
            else:
                self.go(6 * HOUR)
                await self.make_pass()
            self.note()
            await asyncio.sleep(0)
        time = self.node.ledger.read(partial(freshness, clock=self.clock))
        if not time["proven"]:
            self.unproven.add(number)
        await asyncio.to_thread(self.keeper.tend)
        await self.holds.look()
        if self.held_until is None and not self.node.ledger.read(overrides.rows):
            self.held_until = number

    @asynccontextmanager
    async def linked(self) -> AsyncIterator[None]:
        async with self.fleet.running(BrokerAddress("broker", 1)):
            yield

    def hub_knows(self, generation: int) -> bool:
        """Whether the hub heard of a generation; if not, time goes by until the next report."""
        row = self.fleet.hub.row(self.node.name)
        assert row.reported is not None
        self.clock.passed += 5
        return bool(row.reported["applied"]["generation"] == generation)

    def ends_as_it_must(self, days: int) -> None:
        """Look at what the hub has of the year."""
        hub, node = self.fleet.hub, self.node
        assert self.fleet.records(node) == list(range(1, self.usage + 1))
        where = (node.ledger.epoch, str(Stream.METRICS))
        told: list[Any] = hub.db.read(lambda db: db.execute(
            "SELECT seq, record FROM records WHERE node = ? AND epoch = ? AND stream = ?"
            " ORDER BY seq", (node.name, *where),
        ).fetchall())  # fmt: skip
        assert told[0][0] == 1
        assert len(told) < self.metrics
        kept = auditing.verify(node.ledger, [])
        assert kept.last == node.ledger.read(chain.head).seq
        assert kept.first == 1 or days > auditing.KEEP.days


@pytest.fixture
def year(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Year]:
    made = Year(tmp_path)
    monkeypatch.setattr(mqtt, "connect", made.broker.connect)
    yield made
    made.fleet.close()


def node_is_told(node: LinkedNode) -> bool:
    """Whether all is acknowledged; if not, what was lost on the way is sent again."""
    if node.all_acknowledged():
        return True
    assert isinstance(node.clock, SetClock)
    node.clock.passed += 0.5  # each look takes some milliseconds
    return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("at_last", "days"),
    [(None, 365), (1970, 365), (2038, 365), (None, 500), (1970, 500)],
    ids=["right", "in 1970", "in 2038", "right after 500 days", "in 1970 after 500 days"],
)
def test_a_year_alone_stops_nothing_and_the_first_contact_heals(
    year: Year, at_last: int | None, days: int
) -> None:
    async def story() -> None:
        async with year.linked():
            await year.fleet.introduced()
            await year.begin()
            year.broker.is_up = False
            year.broker.break_connections()
            for number in range(days):
                await year.day(number)
            assert year.node.node.driver.started == ["ours-0", "sleeper-0", "theirs-0"]
            assert year.open_minutes == {SKIPS_AN_HOUR: 30, REPEATS_AN_HOUR: 90}
            assert {*TO_1970, *TO_2038} <= year.unproven
            assert year.unproven <= {*TO_1970, *TO_2038, *range(400 - 10, days)}
            assert year.held_until == TO_1970[-1] + 1, "the hold ends when the time is known again"
            held = year.node.ledger.read(lambda db: budgets.held(db, Stream.METRICS))
            assert held <= METRICS_BYTES
            assert year.node.left()["usage"] == year.usage
            knows = days <= floor.SPAN.days  # beyond that it asks, because it cannot know
            assert year.node.certificates.has_ended() == knows

            year.set_clock(at_last)
            await year.node.asker.look()
            year.broker.retained.clear()
            year.broker.is_up = True
            await until(lambda: year.node.uplink.status()["connected"], "the link")
            await until(lambda: node_is_told(year.node), "the whole year at the hub")
            if year.unproven:
                answered = lambda: year.node.ledger.read(receipts.nonce) is None  # noqa: E731
                await until(answered, "the time")
                reached = year.node.ledger.read(meta.floor)
                assert reached is not None
                assert reached > START + datetime.timedelta(days=364)
            asked = await year.fleet.ask(year.node, deployment("theirs"), deployment("newer"))
            await until(lambda: year.node.generation() == asked, "a new word")
            await year.node.node.controller.reconcile()
            assert "newer-0" in year.node.node.driver.started
            await until(lambda: year.hub_knows(asked), "a report of it")
            await year.is_renewed()
            # What was signed by a floor of more than 400 days ago is only heard after the answer.
            refused = set(year.fleet.hub.refusals("box-1"))
            assert refused <= ({"expired"} if days > floor.SPAN.days else set())
            year.ends_as_it_must(days)

    asyncio.run(story())


def test_a_clock_that_is_believed_and_wrong_still_frees_the_log(year: Year) -> None:
    async def story() -> None:
        async with year.linked():
            await year.fleet.introduced()
            year.clock.move(300 * DAY)
            year.node.note(Stream.USAGE, *range(1, 50))
            await until(lambda: node_is_told(year.node), "the acknowledgements")
            await year.fleet.ask(year.node, deployment("theirs"))
            await until(lambda: "expired" in year.node.uplink.status()["refused"], "the refusal")
            year.clock.move(-300 * DAY)
            await year.fleet.hub.service.say("box-1")
            await until(lambda: year.node.generation() == 1, "the word")

    asyncio.run(story())
