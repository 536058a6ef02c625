"""The hub commits what nodes sign, acknowledges it, and says what it asks in always one text."""

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from appliance.core import wire
from appliance.core.documents import Document
from appliance.errors import NoSpaceError
from appliance.hub import heads, intake, receipts, roster, store
from appliance.hub.commands import CommandDesk
from appliance.kit.clock import parse_rfc3339
from appliance.ledger.streams import Stream
from appliance.sync import mqtt
from appliance.sync.mqtt import BrokerAddress, Connection, Session
from appliance.trust import dsse
from appliance.trust.envelope import Accepted, Slot, accept, check_expiry
from appliance.trust.floor import Now
from tests.fakes.broker import FakeBroker
from tests.helpers.hubs import Hub, TalkingNode
from tests.helpers.models import deployment
from tests.helpers.signing import new_key
from tests.helpers.waiting import until


class Fleet:
    """A hub that runs, and one node that it knows."""

    def __init__(self, folder: Path) -> None:
        self.broker = FakeBroker()
        self.hub = Hub(folder)
        self.node = TalkingNode()
        self.hub.admit(self.node)
        self.marks = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.hub.service.run())
        try:
            await until(lambda: self.hub.service.connected or not self.broker.is_up)
            yield
            assert not task.done(), "the hub's service ended"
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def send(self, topic: str, payload: bytes) -> None:
        """Publish, and wait until everything that was published is taken in."""
        self.broker.publish(topic, payload)
        await self.settle()

    async def settle(self) -> None:
        """Wait until all that was published is taken in and answered.

        The hub takes messages many at a time, and answers a group while it commits the next; so a
        third mark, sent when the second is taken in, is taken in after the answers.
        """
        for _ in range(3):
            self.marks += 1
            mark = wire.dumps({"online": True, "mark": self.marks})
            self.broker.publish(self.node.topics.state, mark)
            await until(lambda: (self.hub.row().link or {}).get("mark") == self.marks)

    async def report(self, number: int, **changes: Any) -> None:
        data = self.node.report(number, self.hub.clock.utc(), **changes)
        await self.send(self.node.topics.reported, data)

    def ask(self, *documents: Document) -> int:
        effect = lambda db: store.put_documents(db, "box-1", list(documents))  # noqa: E731
        return self.hub.db.submit(effect).result()

    def words(self) -> list[bytes]:
        return self.broker.on(self.node.topics.desired)

    def acks(self) -> list[dict[str, Any]]:
        return [
            self.opened(data, Slot.ACK).payload["streams"]
            for data in self.broker.on(self.node.topics.ack)
        ]

    def opened(self, data: bytes, slot: Slot) -> Accepted:
        """Return what the node would make of an envelope."""
        identity = self.hub.identity
        keys = {identity.sync.public if slot is Slot.ACK else identity.director.public}
        found = accept(data, slot, keys, self.node.me.fields())
        check_expiry(found, Now(self.hub.clock.utc(), proven=True))
        return found


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    monkeypatch.setattr(mqtt, "connect", made.broker.connect)
    yield made
    made.hub.db.close()


def test_a_batch_is_committed_and_then_acknowledged_by_its_hash(fleet: Fleet) -> None:
    async def story() -> None:
        async with fleet.running():
            await fleet.report(1)
            first, second = fleet.node.batch(["a", "b"]), fleet.node.batch(["c"])
            topic = fleet.node.topics.stream("usage")
            for found in (first, second, first):
                await fleet.send(topic, found.envelope)
            assert fleet.hub.records() == ["a", "b", "c"]
            expected = [(2, first.hash), (3, second.hash), (3, second.hash)]
            told = [ack["usage"] for ack in fleet.acks()]
            assert [(t["upto"], t["hash"]) for t in told] == expected
            assert {t["epoch"] for t in told} == {"e1"}
            assert fleet.node.topics.ack in fleet.broker.retained

    asyncio.run(story())


def test_a_gap_is_not_committed_and_only_what_is_committed_is_acknowledged(fleet: Fleet) -> None:
    async def story() -> None:
        async with fleet.running():
            await fleet.report(1)
            first, second, third = (fleet.node.batch([n]) for n in range(3))
            topic = fleet.node.topics.stream("usage")
            await fleet.send(topic, first.envelope)
            await fleet.send(topic, third.envelope)
            assert [ack["usage"]["upto"] for ack in fleet.acks()] == [1, 1]
            for found in (second, third):
                fleet.broker.publish(topic, found.envelope)
            await fleet.settle()
            assert fleet.hub.records() == [0, 1, 2]
            assert fleet.acks()[-1]["usage"]["upto"] == 3

    asyncio.run(story())


def test_only_the_ledger_that_a_node_is_in_is_acknowledged(fleet: Fleet) -> None:
    async def story() -> None:
        async with fleet.running():
            await fleet.report(1)
            stream = fleet.node.topics.stream("usage")
            await fleet.send(stream, fleet.node.batch(["a"]).envelope)
            fleet.node.begin_anew("a-ledger-that-sorts-first")
            await fleet.report(1)
            await fleet.send(stream, fleet.node.batch(["b", "c"]).envelope)
            data = fleet.broker.on(fleet.node.topics.ack)[-1]
            newest = fleet.opened(data, Slot.ACK).payload["streams"]["usage"]
            assert (newest["epoch"], newest["upto"]) == ("a-ledger-that-sorts-first", 2)

    asyncio.run(story())


def test_an_epoch_is_acknowledged_once_the_node_has_said_which_it_is_in(fleet: Fleet) -> None:
    async def story() -> None:
        async with fleet.running():
            found = fleet.node.batch(["a"])
            await fleet.send(fleet.node.topics.stream("usage"), found.envelope)
            assert fleet.hub.records() == ["a"]
            assert fleet.acks() == []
            await fleet.report(1)
            await fleet.send(fleet.node.topics.stream("usage"), found.envelope)
            assert fleet.acks()[-1]["usage"]["upto"] == 1

    asyncio.run(story())


@pytest.mark.parametrize("kind", ["unsigned", "of another key", "of another slot", "not JSON"])
def test_a_report_that_the_node_did_not_sign_is_refused(fleet: Fleet, kind: str) -> None:
    async def story() -> None:
        async with fleet.running():
            good = json.loads(fleet.node.report(1, fleet.hub.clock.utc()))
            payload = base64.b64decode(good["payload"])
            data = {
                "unsigned": wire.dumps({**good, "signatures": []}),
                "of another key": dsse.sign(Slot.REPORTED, payload, new_key()),
                "of another slot": dsse.sign(Slot.ACK, payload, fleet.node.key),
                "not JSON": b"\xff",
            }[kind]
            await fleet.send(fleet.node.topics.reported, data)
            assert fleet.hub.row().reported is None
            codes = {"of another key": "signature"}
            assert fleet.hub.refusals() == [codes.get(kind, "malformed")]

    asyncio.run(story())


def test_what_is_meant_for_others_or_out_of_date_is_refused(fleet: Fleet) -> None:
    async def story() -> None:
        async with fleet.running():
            other = TalkingNode("box-2")
            now = fleet.hub.clock.utc()
            topic = fleet.node.topics.reported
            other.key = fleet.node.key
            await fleet.send(topic, other.report(1, now))
            await fleet.send(topic, fleet.node.report(1, parse_rfc3339("2026-11-29T00:00:00Z")))
            for nonsense in ({"report": "1"}, {"applied": 1}, {"report": -1}):
                await fleet.send(topic, fleet.node.report(1, now, **nonsense))
            assert fleet.hub.refusals() == ["scope", "expired", *["malformed"] * 3]
            assert fleet.hub.row().reported is None

    asyncio.run(story())


def test_a_node_that_nobody_admitted_leaves_no_trace(fleet: Fleet) -> None:
    async def story() -> None:
        async with fleet.running():
            stranger = TalkingNode("box-2")
            await fleet.send(stranger.topics.reported, stranger.report(1, fleet.hub.clock.utc()))
            await fleet.send(stranger.topics.stream("usage"), stranger.batch(["a"]).envelope)
            assert [n.node for n in fleet.hub.db.read(store.nodes)] == ["box-1"]
            assert fleet.hub.records("box-2") == []
            assert fleet.hub.refusals("box-2") == []
            assert fleet.broker.on(stranger.topics.ack) == []

    asyncio.run(story())


def test_a_replayed_report_does_not_count_and_does_not_make_the_node_look_alive(
    fleet: Fleet,
) -> None:
    async def story() -> None:
        async with fleet.running():
            now = fleet.hub.clock.utc()
            old, new = fleet.node.report(1, now, note="old"), fleet.node.report(2, now, note="new")
            for data in (old, new):
                await fleet.send(fleet.node.topics.reported, data)
            heard = fleet.hub.row().heard_at
            fleet.hub.clock.move(60)
            for data in (old, new):
                await fleet.send(fleet.node.topics.reported, data)
            row = fleet.hub.row()
            assert row.reported is not None
            assert (row.reported["note"], row.report, row.heard_at) == ("new", 2, heard)
            assert fleet.hub.refusals() == []

    asyncio.run(story())


@pytest.mark.parametrize(
    "payload",
    [
        b'{"online": NaN}',
        b'{"online": "\\ud800"}',
        b"[" * 100_000,
        b'{"a":' * 700 + b"1" + b"}" * 700,
        b'{"n": 1' + b"0" * 4000 + b"}",
        b'{"online": true, "more": "' + b"x" * 5000 + b'"}',
        b"[]",
        b"\xff\xfe",
        b"",
    ],
)
def test_no_message_ends_the_service(fleet: Fleet, payload: bytes) -> None:
    """Anybody who may publish could otherwise end the hub, and a retained message at each start."""

    async def story() -> None:
        for topic in ("state", "reported", "s/usage", "s/", "other"):
            fleet.broker.publish(f"ea1/box-1/up/{topic}", payload, retain=True)
        async with fleet.running():
            await fleet.settle()
            await fleet.report(1)
            assert fleet.hub.row().report == 1

    asyncio.run(story())


def test_two_batches_of_one_number_are_refused_and_the_first_stays(fleet: Fleet) -> None:
    async def story() -> None:
        async with fleet.running():
            await fleet.report(1)
            twin = TalkingNode()
            twin.key, twin.me = fleet.node.key, fleet.node.me
            topic = fleet.node.topics.stream("usage")
            await fleet.send(topic, fleet.node.batch(["a"]).envelope)
            await fleet.send(topic, twin.batch(["b"]).envelope)
            assert fleet.hub.records() == ["a"]
            assert fleet.hub.refusals() == ["equivocation"]

    asyncio.run(story())


def test_what_the_fleet_asks_is_said_in_the_same_bytes_until_it_changes(fleet: Fleet) -> None:
    async def story() -> None:
        async with fleet.running():
            fleet.ask(deployment())
            await fleet.hub.service.say("box-1")
            assert fleet.words() == [], "it cannot be addressed before its first report"
            await fleet.report(1)
            await fleet.report(2)
            await fleet.hub.service.say("box-1")
            assert len(fleet.words()) == 3
            assert len(set(fleet.words())) == 1
            fleet.ask(deployment(replicas=2))
            await fleet.hub.service.say("box-1")
        words = [
            fleet.opened(w, Slot.DESIRED).payload for w in (fleet.words()[0], fleet.words()[-1])
        ]
        assert [w["gen"] for w in words] == [1, 2]
        assert [w["directorEpoch"] for w in words] == [1, 1]
        assert words[1]["documents"] == [deployment(replicas=2).to_wire()]
        assert fleet.broker.retained[fleet.node.topics.desired] == fleet.words()[-1]

    asyncio.run(story())


def test_a_node_that_follows_is_left_in_peace(fleet: Fleet) -> None:
    async def story() -> None:
        async with fleet.running():
            await fleet.report(1)
            fleet.ask(deployment())
            await fleet.report(2, applied={"generation": 1})
            assert fleet.words() == []

    asyncio.run(story())


def test_after_a_break_everything_is_said_again(fleet: Fleet) -> None:
    async def story() -> None:
        async with fleet.running():
            await fleet.report(1)
            await fleet.send(fleet.node.topics.stream("usage"), fleet.node.batch(["a"]).envelope)
            fleet.ask(deployment())
            await fleet.hub.service.say("box-1")
            fleet.broker.retained.clear()  # a broker that was killed remembers nothing
            fleet.broker.break_connections()
            await until(lambda: len(fleet.words()) == 2)
            assert len(set(fleet.words())) == 1
            assert fleet.acks()[-1]["usage"]["upto"] == 1
            assert len(fleet.acks()) == 2

    asyncio.run(story())


def test_without_a_broker_the_hub_says_so_and_tries_again(fleet: Fleet) -> None:
    async def story() -> None:
        fleet.broker.is_up = False
        async with fleet.running():
            await fleet.hub.service.say("box-1")
            assert not fleet.hub.service.connected
            fleet.broker.is_up = True
            await until(lambda: fleet.hub.service.connected)

    asyncio.run(story())


def test_an_outage_of_the_broker_is_logged_once_each_time(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="appliance.hub.service")
    tries: list[Session] = []

    def connect(
        address: BrokerAddress, session: Session
    ) -> AbstractAsyncContextManager[Connection]:
        tries.append(session)
        return fleet.broker.connect(address, session)

    monkeypatch.setattr(mqtt, "connect", connect)

    def said() -> int:
        return sum("tried again" in record.message for record in caplog.records)

    async def outage() -> None:
        fleet.broker.is_up = False
        async with fleet.running():
            before = len(tries)
            await until(lambda: len(tries) >= before + 5)
            fleet.broker.is_up = True
            await until(lambda: fleet.hub.service.connected)

    for number in (1, 2):
        asyncio.run(outage())
        assert said() == number


def test_with_each_report_a_node_hears_again_what_it_has_not_answered(fleet: Fleet) -> None:
    desk = CommandDesk(fleet.hub.identity, fleet.hub.db, fleet.hub.clock)
    fleet.hub.service.add("outcome", desk)

    async def story() -> None:
        async with fleet.running():
            await fleet.report(1)
            await desk.issue("box-1", "restart-engine", {"deployment": "a"}, lifetime_s=600)
            topic = fleet.node.topics.command("1")
            for number in (2, 3):
                await fleet.report(number)
                assert len(fleet.broker.on(topic)) == number - 1
            assert topic not in fleet.broker.retained
            fleet.hub.clock.move(600)
            await fleet.report(4)
            assert len(fleet.broker.on(topic)) == 2

    asyncio.run(story())


def test_a_report_says_how_much_of_the_audit_log_is_missing(fleet: Fleet) -> None:
    async def story() -> None:
        async with fleet.running():
            batch = fleet.node.batch(["a", "b"], stream=Stream.AUDIT)
            await fleet.report(1, audit={"seq": 3, "hash": "a" * 64})
            await fleet.send(fleet.node.topics.stream("audit"), batch.envelope)
            (missing,) = fleet.hub.db.read(heads.missing).values()
            assert missing.startswith("audit: 2 of 3 records came")
            await fleet.report(2, audit={"seq": 2, "hash": "a" * 64})
            (why,) = fleet.hub.db.read(receipts.suspects).values()
            assert why == "its audit log had 3 records and has 2 now in its ledger e1"

    asyncio.run(story())


def test_two_audit_logs_of_one_length_make_a_suspect(fleet: Fleet) -> None:
    async def story() -> None:
        async with fleet.running():
            batch = fleet.node.batch(["a", "b"], stream=Stream.AUDIT)
            await fleet.send(fleet.node.topics.stream("audit"), batch.envelope)
            await fleet.report(1, audit={"seq": 2, "hash": "a" * 64})
            (why,) = fleet.hub.db.read(receipts.suspects).values()
            assert why == "two audit logs of 2 records in its ledger e1"
            for nonsense in ("none", {"seq": 2, "hash": "nonsense"}):
                await fleet.report(2, audit=nonsense)
            assert (fleet.hub.row().report, fleet.hub.refusals()) == (1, ["malformed"] * 2)

    asyncio.run(story())


def test_a_node_that_was_revoked_is_not_heard(fleet: Fleet) -> None:
    async def story() -> None:
        async with fleet.running():
            fleet.hub.db.submit(lambda c: roster.revoke(c, "box-1", "stolen", "now")).result()
            fleet.broker.publish(fleet.node.topics.stream("usage"), fleet.node.batch([1]).envelope)
            fleet.broker.publish(
                fleet.node.topics.reported, fleet.node.report(1, fleet.hub.clock.utc())
            )
            await until(lambda: len(fleet.hub.refusals()) == 2)
            assert set(fleet.hub.refusals()) == {"revoked"}
            assert (fleet.hub.row().report, fleet.hub.records()) == (None, [])

    asyncio.run(story())


def test_a_full_disk_ends_nothing_and_what_comes_again_is_taken_in(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with fleet.running():
            await fleet.report(1)
            topic, batch = fleet.node.topics.stream("usage"), fleet.node.batch(["a"])
            with monkeypatch.context() as patch:
                full = _Full()
                patch.setattr(intake, "ingest_all", full)
                fleet.broker.publish(topic, batch.envelope)
                await until(lambda: full.asked)
            await fleet.send(topic, batch.envelope)
            assert fleet.hub.records() == ["a"]
            assert [ack["usage"]["upto"] for ack in fleet.acks()] == [1]

    asyncio.run(story())


class _Full:
    asked = 0

    def __call__(self, *_: object) -> None:
        self.asked += 1
        raise NoSpaceError("no space left")
