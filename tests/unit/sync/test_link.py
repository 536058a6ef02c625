"""The node's end of the log: the same bytes until the hub acknowledges, and never too many."""

import asyncio
import datetime
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from appliance.errors import NoSpaceError, ScopeError, UsageError
from appliance.kit.clock import rfc3339
from appliance.ledger import budgets, streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, SealedBatch, Stream
from appliance.settings import SyncSettings
from appliance.sync import mqtt
from appliance.sync.batch import open_batch
from appliance.sync.link import Endpoints, Link
from appliance.trust.envelope import Addressee
from tests.fakes.broker import FakeBroker
from tests.helpers.signing import new_key
from tests.helpers.waiting import HandClock, until

KEY = new_key()
USAGE, AUDIT = "ea1/box-1/up/s/usage", "ea1/box-1/up/s/audit"
STATE, REPORTED = "ea1/box-1/up/state", "ea1/box-1/up/reported"
SETTINGS = SyncSettings(broker="mqtt://broker", resend_s=5.0)


class Node:
    """A ledger, a broker, and a link between them that runs on a clock of the test's."""

    def __init__(self, folder: Path, broker: FakeBroker) -> None:
        self.ledger = Ledger(folder / "node.db")
        self.broker = broker
        self.me = Addressee("acme", "box-1", KEY.public, self.ledger.epoch)
        self.clock = HandClock()
        self.heard: list[bytes] = []
        self.times: list[bytes] = []
        self.version = 0
        self.reports = 0
        self.fails: Exception | None = None
        down = {"desired": self.desired, "ack": self.ack, "time": self.take_time}
        endpoints = Endpoints(down, self.report, lambda: self.version)
        self.link = Link(self.ledger, endpoints, self.clock, SETTINGS, heartbeat_s=30.0)

    async def desired(self, data: bytes) -> None:
        self.heard.append(data)
        if self.fails is not None:
            raise self.fails

    async def ack(self, data: bytes) -> None:
        """Believe a test that says ``upto hash``."""
        upto, batch_hash = data.decode().split()
        effect = lambda db: streams.acknowledge(db, Stream.USAGE, int(upto), batch_hash)  # noqa: E731
        await asyncio.wrap_future(self.ledger.record(effect))

    async def take_time(self, data: bytes) -> None:
        self.times.append(data)

    async def report(self) -> bytes:
        self.reports += 1
        if isinstance(self.fails, NoSpaceError):
            raise self.fails
        return b"report %d" % self.reports

    def note(self, *numbers: int, stream: Stream = Stream.USAGE) -> None:
        self.ledger.note(*(Fact(stream, "test", "", {"number": n}) for n in numbers)).result()
        self.link.wake.set()

    def unacknowledged(self) -> list[SealedBatch]:
        return self.ledger.read(lambda db: streams.unacknowledged(db, Stream.USAGE, 99))

    def waiting(self) -> list[int]:
        found = self.ledger.read(lambda db: list(streams.waiting(db, Stream.USAGE, 99)))
        return [r.record["body"]["number"] for r in found]

    def acknowledge(self, batch: SealedBatch) -> None:
        self.broker.publish("ea1/box-1/dn/ack", f"{batch.upto} {batch.hash}".encode())

    async def freed(self, left: int) -> None:
        await until(lambda: len(self.unacknowledged()) == left)
        self.link.wake.set()  # as the link does itself, but maybe only a moment later

    def numbers(self, topic: str = USAGE) -> list[list[int]]:
        """Return the records of every batch that was published, batch by batch."""
        opened = [
            open_batch(data, {KEY.public}, self.me, topic.rpartition("/")[2])
            for data in self.broker.on(topic)
        ]
        return [[r["body"]["number"] for r in batch.records] for batch in opened]

    @asynccontextmanager
    async def linked(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.link.run(self.me, KEY))
        try:
            yield
            assert not task.done(), "the link ended"
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    broker = FakeBroker()
    monkeypatch.setattr(mqtt, "connect", broker.connect)
    made = Node(tmp_path, broker)
    yield made
    made.ledger.close()


def test_it_says_that_it_is_there_and_leaves_a_will(node: Node) -> None:
    async def story() -> None:
        async with node.linked():
            await until(lambda: STATE in node.broker.retained)
            assert json.loads(node.broker.retained[STATE])["online"] is True
            assert json.loads(node.broker.retained[STATE])["session"] == node.ledger.epoch
            node.broker.break_connections()
            assert json.loads(node.broker.retained[STATE])["online"] is False
        (session,) = node.broker.sessions
        assert session.client_id == "box-1"
        assert session.subscriptions == tuple(
            f"ea1/box-1/dn/{n}" for n in ("desired", "ack", "time", "cert", "cmd/+")
        )

    asyncio.run(story())


def test_who_stops_says_goodbye(node: Node) -> None:
    async def story() -> None:
        async with node.linked():
            await until(lambda: STATE in node.broker.retained)
        assert json.loads(node.broker.retained[STATE])["online"] is False

    asyncio.run(story())


def test_records_go_out_at_once_each_stream_on_its_topic(node: Node) -> None:
    async def story() -> None:
        node.note(1, 2)
        node.note(9, stream=Stream.AUDIT)
        async with node.linked():
            await node.clock.advance(0)
            assert node.numbers() == [[1, 2]]
            assert node.numbers(AUDIT) == [[9]]
            node.note(3)
            await node.clock.advance(1)
            assert node.numbers() == [[1, 2], [3]]

    asyncio.run(story())


def test_what_is_not_acknowledged_is_sent_again_as_the_same_bytes_ever_more_rarely(
    node: Node,
) -> None:
    async def story() -> None:
        node.note(1)
        async with node.linked():
            for wait, sent in ((4, 1), (3, 2), (5, 2), (5, 3), (15, 3), (10, 4)):
                await node.clock.advance(wait)
                assert len(node.broker.on(USAGE)) == sent
            await node.clock.advance(300)
            assert 300 / 70 < len(node.broker.on(USAGE)) - 4 < 300 / 50
        assert len(set(node.broker.on(USAGE))) == 1

    asyncio.run(story())


def test_what_is_acknowledged_is_never_sent_again(node: Node) -> None:
    async def story() -> None:
        node.note(1)
        async with node.linked():
            await node.clock.advance(0)
            (batch,) = node.unacknowledged()
            node.acknowledge(batch)
            await until(lambda: not node.unacknowledged())
            await node.clock.advance(200)
            assert node.numbers() == [[1]]

    asyncio.run(story())


def test_an_acknowledgement_of_another_hash_changes_nothing(node: Node) -> None:
    async def story() -> None:
        node.note(1)
        async with node.linked():
            await node.clock.advance(0)
            (batch,) = node.unacknowledged()
            node.broker.publish("ea1/box-1/dn/ack", f"{batch.upto} other".encode())
            await node.clock.advance(8)
            assert len(node.broker.on(USAGE)) == 2
            assert node.unacknowledged() == [batch]

    asyncio.run(story())


def test_no_more_is_sealed_than_may_be_on_its_way(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.sync.link._WINDOW", 8)

    async def story() -> None:
        async with node.linked():
            for number in range(20):
                node.note(number)
                await node.clock.advance(0.1)
            assert node.numbers() == [[n] for n in range(8)]
            assert node.waiting() == list(range(8, 20)), "what waits can still be coarsened"
            node.acknowledge(node.unacknowledged()[2])
            await node.freed(5)
            await node.clock.advance(0.1)
            assert node.numbers() == [*([n] for n in range(8)), list(range(8, 20))]

    asyncio.run(story())


def test_of_those_that_nobody_acknowledges_only_the_oldest_asks_again(node: Node) -> None:
    async def story() -> None:
        async with node.linked():
            for number in range(3):
                node.note(number)
                await node.clock.advance(0.1)
            await node.clock.advance(60)
            probes = len(node.numbers()) - 3
            assert probes > 1
            assert node.numbers()[3:] == [[0]] * probes
            node.acknowledge(node.unacknowledged()[0])
            await node.freed(2)
            await node.clock.advance(0.1)
            assert node.numbers()[3 + probes :] == [[1], [2]], "they may have been lost as well"

    asyncio.run(story())


def test_what_happens_now_does_not_wait_for_a_backlog_of_metrics(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics, publish = "ea1/box-1/up/s/metrics", node.broker.publish

    def noting(topic: str, payload: bytes, *, retain: bool = False) -> None:
        publish(topic, payload, retain=retain)
        if len(node.broker.on(metrics)) == 1:
            node.note(1, stream=Stream.AUDIT)
            monkeypatch.setattr(node.broker, "publish", publish)

    monkeypatch.setattr(node.broker, "publish", noting)

    async def story() -> None:
        facts = [Fact(Stream.METRICS, "test", "", {"number": n}) for n in range(6000)]
        node.ledger.note(*facts).result()
        async with node.linked():
            await node.clock.advance(0.1)
            topics = [m.topic for m in node.broker.published if "/up/s/" in m.topic]
            assert sorted(topics) == [AUDIT, *[metrics] * 12]
            assert topics.index(AUDIT) <= 4, "it came after the turn that was under way"

    asyncio.run(story())


def test_what_lost_detail_while_nobody_was_there_goes_out_with_a_place_for_every_number(
    node: Node,
) -> None:
    began = node.clock.utc()
    moments = [rfc3339(began + datetime.timedelta(seconds=n)) for n in range(2000)]
    node.ledger.note(
        *(Fact(Stream.METRICS, "host", at, {"load": n % 7}) for n, at in enumerate(moments))
    ).result()
    node.ledger.record(partial(budgets.begin, limits={Stream.METRICS: 100_000})).result()
    while node.ledger.record(partial(budgets.step, stream=Stream.METRICS)).result():
        pass

    async def story() -> None:
        async with node.linked():
            await node.clock.advance(0.1)
        opened = [
            open_batch(data, {KEY.public}, node.me, "metrics")
            for data in node.broker.on("ea1/box-1/up/s/metrics")
        ]
        expected, kinds = 1, set()
        for batch in opened:
            for first, span, record in batch.numbered():
                assert first == expected
                expected += span
                kinds.add(record["kind"])
            assert batch.upto == expected - 1
        assert expected == 2001
        assert kinds == {"coarse", "host"}

    asyncio.run(story())


def test_a_new_connection_sends_again_at_once(node: Node) -> None:
    async def story() -> None:
        node.note(1)
        async with node.linked():
            await node.clock.advance(0)
            node.broker.break_connections()
            await node.clock.advance(60)
            assert len(node.broker.sessions) == 2
            assert len(node.broker.on(USAGE)) >= 2
        assert len(set(node.broker.on(USAGE))) == 1

    asyncio.run(story())


def test_a_restarted_controller_sends_the_same_bytes(node: Node) -> None:
    async def story() -> None:
        node.note(1)
        for _ in range(2):
            async with node.linked():
                await node.clock.advance(1)
        assert len(node.broker.on(USAGE)) == 2
        assert len(set(node.broker.on(USAGE))) == 1

    asyncio.run(story())


def test_it_reports_at_each_heartbeat_and_at_each_change(node: Node) -> None:
    async def story() -> None:
        async with node.linked():
            await node.clock.advance(1)
            assert node.broker.on(REPORTED) == [b"report 1"]
            await node.clock.advance(28)
            assert len(node.broker.on(REPORTED)) == 1
            await node.clock.advance(5)
            assert len(node.broker.on(REPORTED)) == 2
            node.version += 1
            node.link.wake.set()
            await node.clock.advance(0.1)
            assert node.broker.on(REPORTED)[-1] == b"report 3"
            assert node.broker.retained[REPORTED] == b"report 3"
            await node.clock.advance(25)
            assert len(node.broker.on(REPORTED)) == 3

    asyncio.run(story())


@pytest.mark.parametrize("error", [ScopeError("not ours"), UsageError("no"), KeyError("at")])
def test_whatever_one_message_does_the_next_is_taken(node: Node, error: Exception) -> None:
    async def story() -> None:
        node.fails = error
        async with node.linked():
            await node.clock.advance(0)
            for data in (b"first", b"", b"second"):
                node.broker.publish("ea1/box-1/dn/desired", data)
            node.broker.publish("ea1/box-2/dn/desired", b"for another")
            await until(lambda: len(node.heard) == 2)
        assert node.heard == [b"first", b"second"]

    asyncio.run(story())


def test_what_was_retained_before_it_came_is_handed_over(node: Node) -> None:
    async def story() -> None:
        node.broker.publish("ea1/box-1/dn/desired", b"the word", retain=True)
        async with node.linked():
            await until(lambda: node.heard == [b"the word"])

    asyncio.run(story())


def test_without_a_broker_it_tries_for_ever_and_says_since_when(node: Node) -> None:
    async def story() -> None:
        node.broker.is_up = False
        assert node.link.state.why == "not tried yet"
        async with node.linked():
            await node.clock.advance(100)
            state = node.link.state
            assert (state.connected, state.why) == (False, "nobody answers at broker:1883")
            assert state.since == "2026-12-01T00:00:00.000Z"
            node.broker.is_up = True
            await node.clock.advance(100)
            assert (state.connected, state.why) == (True, "")
            assert state.since > "2026-12-01T00:01:40"

    asyncio.run(story())


def test_a_full_disk_ends_no_more_than_the_connection(node: Node) -> None:
    async def story() -> None:
        node.fails = NoSpaceError("no space left for node.db")
        async with node.linked():
            await node.clock.advance(100)
            state = node.link.state
            assert (state.connected, state.why) == (False, "no space left for node.db")
            node.fails = None
            await node.clock.advance(100)
            assert (state.connected, state.why) == (True, "")
            assert node.broker.on(REPORTED)

    asyncio.run(story())


def test_the_brokers_address_is_checked_before_anything_runs(node: Node) -> None:
    settings = SyncSettings(broker="http://broker")
    with pytest.raises(UsageError, match="not a broker's address"):
        Link(node.ledger, node.link._endpoints, node.clock, settings, heartbeat_s=30.0)
