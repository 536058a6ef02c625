"""Over the broker: a node asks in time and is answered; of a revoked one nothing is taken in."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from appliance.core import wire
from appliance.hub import store
from appliance.node.enrolment import Certificates, Renewal
from appliance.node.identity import NodeIdentity
from appliance.node.report import Reporter
from appliance.node.uplink import Uplink
from appliance.settings import SyncSettings
from appliance.sync import mqtt
from appliance.trust.certificates import Chain
from appliance.trust.documents import DIRECTOR_PATH, HUB_PATH
from appliance.trust.store import TrustStore
from tests.fakes.broker import FakeBroker
from tests.helpers.enrolling import Office
from tests.helpers.hubs import TalkingNode
from tests.helpers.models import deployment, machine
from tests.helpers.nodes import ControlledNode
from tests.helpers.signing import InForce
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow


DAY = 86400
REQUEST, ANSWER = "ea1/box-1/up/csr", "ea1/box-1/dn/cert"


class Pair:
    """A hub that issues, and a node that it admitted, over a broker in memory."""

    def __init__(self, folder: Path) -> None:
        for name in ("node", "tuf", "node/identity"):
            (folder / name).mkdir()
        self.broker = FakeBroker()
        self.office = Office(folder / "hub")
        self.hub = self.office.hub
        self.hub.service.add("request", self.office.enrolment)
        self.node = ControlledNode(folder / "node")
        self.node.clock = self.office.clock
        self.node.restart()
        self.signs = TalkingNode()
        self.hub.admit(self.signs)
        trust = self._trust(folder / "tuf")
        identity = NodeIdentity(self.signs.topics.node, self.signs.key)
        self.certificates = Certificates(
            folder / "node", identity, self.node.ledger, trust, self.office.clock
        )
        reporter = Reporter(self.node.ledger, self.node.board, machine, self.office.clock)
        self.uplink = Uplink(
            identity, self.node.ledger, trust, reporter, self.node.board, lambda: None
        )
        self.uplink.certificates = self.certificates
        self.renewal = Renewal(self.certificates, folder / "node", self.uplink.ask_certificate)

    def _trust(self, folder: Path) -> TrustStore:
        in_tuf, identity = InForce(folder), self.hub.identity
        keys = {"keys": [identity.director.public], "sync": [identity.sync.public]}
        document = {"org": "acme", "epoch": 1, **keys, "sites": ["*"], "verbs": []}
        in_tuf.documents[DIRECTOR_PATH] = wire.dumps(document)
        authority = {"org": "acme", "epoch": 1, "ca": [self.office.authority.pem]}
        in_tuf.documents[HUB_PATH] = wire.dumps(authority)
        in_tuf.put()
        return in_tuf.trust

    async def enrol(self) -> Chain:
        answer = await self.office.enrolment.answer(self.certificates.request())
        self.certificates.take(answer["chain"].encode())
        return self.chain()

    def chain(self) -> Chain:
        found = self.certificates.chain()
        assert found is not None
        return found

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        settings = SyncSettings(broker="mqtt://broker")
        tasks = [
            asyncio.create_task(self.hub.service.run()),
            asyncio.create_task(self.uplink.run(settings, self.office.clock, heartbeat_s=30)),
        ]
        try:
            await until(lambda: self.hub.service.connected, "the hub")
            await until(lambda: self.uplink.status()["connected"], "the link")
            yield
            assert not any(task.done() for task in tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    made = Pair(tmp_path)
    monkeypatch.setattr(mqtt, "connect", made.broker.connect)
    yield made
    made.hub.db.close()
    made.node.ledger.close()


def test_a_connection_begins_with_the_request_that_is_due(pair: Pair) -> None:
    async def story() -> None:
        first = await pair.enrol()
        pair.office.clock.move(80 * DAY)
        async with pair.running():
            await until(lambda: pair.chain().serial != first.serial, "the new certificate")
        assert len(pair.broker.on(REQUEST)) == 1
        assert set(pair.broker.on(ANSWER)) == {pair.chain().pem}
        assert not any(m.retained for m in pair.broker.published if m.topic == ANSWER)
        assert pair.hub.refusals() == []

    asyncio.run(story())


def test_a_hub_that_was_killed_says_again_what_it_issued_lately(pair: Pair) -> None:
    async def story() -> None:
        await pair.enrol()
        pair.office.clock.move(76 * DAY)
        await pair.office.enrolment.answer(pair.certificates.request())
        topic = pair.signs.topics.certificate
        (said,) = pair.office.enrolment.messages(pair.hub.row())
        assert (said.topic, said.retained) == (topic, False)
        assert pair.certificates.take(said.payload).news
        pair.office.clock.move(31 * DAY)
        assert list(pair.office.enrolment.messages(pair.hub.row())) == []

    asyncio.run(story())


def test_a_link_that_lasts_asks_when_the_time_comes(pair: Pair) -> None:
    async def story() -> None:
        first = await pair.enrol()
        async with pair.running():
            await pair.renewal.look()
            assert pair.broker.on(REQUEST) == []
            pair.office.clock.move(80 * DAY)
            await pair.renewal.look()
            await until(lambda: pair.chain().serial != first.serial, "the new certificate")

    asyncio.run(story())


def refused(pair: Pair) -> list[str]:
    """Return the codes of what the node refused, as the hub heard of it."""
    return [r["code"] for r in pair.hub.records(stream="audit") if "code" in r]


def test_what_a_broker_invents_as_a_certificate_changes_nothing(pair: Pair) -> None:
    async def story() -> None:
        first = await pair.enrol()
        other = pair.office.authority.issue(
            "box-1", pair.office.authority.certificate.public_key(), pair.office.clock.utc(),
            pair.chain().expires - pair.office.clock.utc(),
        )  # fmt: skip
        async with pair.running():
            for invented in (b"junk", other.pem):
                pair.broker.publish(ANSWER, invented)
            await until(lambda: len(refused(pair)) == 2, "both refusals at the hub")
            assert refused(pair) == ["malformed", "scope"]
            assert pair.chain().pem == first.pem

    asyncio.run(story())


def test_a_request_on_another_node_s_topic_is_refused(pair: Pair) -> None:
    async def story() -> None:
        await pair.enrol()
        request = pair.certificates.request()
        box_2 = TalkingNode("box-2")
        pair.hub.admit(box_2)
        async with pair.running():
            pair.broker.publish(box_2.topics.request, request)
            await until(lambda: pair.hub.refusals("box-2") == ["scope"], "the refusal")
            assert pair.broker.on(box_2.topics.certificate) == []

    asyncio.run(story())


def test_the_broker_forgets_what_it_kept_for_a_machine_that_is_gone(pair: Pair) -> None:
    """Else the next machine of that name begins with a word that is addressed to the old one."""

    async def story() -> None:
        desired, ack = pair.signs.topics.desired, pair.signs.topics.ack
        pair.office.enrolment.on_gone = pair.hub.service.forget
        async with pair.running():
            await until(lambda: pair.hub.row().reported, "the first report")
            ask = lambda db: store.put_documents(db, "box-1", [deployment()])  # noqa: E731
            pair.office.write(ask)
            await pair.hub.service.say("box-1")
            await until(lambda: pair.broker.retained.get(desired), "the word")
            await pair.office.enrolment.replace("box-1", "ab" * 32)
            assert not {desired, ack} & pair.broker.retained.keys()

    asyncio.run(story())


def test_to_a_revoked_node_nothing_is_said(pair: Pair) -> None:
    async def story() -> None:
        async with pair.running():
            await until(lambda: pair.hub.row().reported, "the first report")
            ask = lambda db: store.put_documents(db, "box-1", [deployment()])  # noqa: E731
            pair.office.write(ask)
        await pair.office.enrolment.revoke("box-1", "stolen")
        async with pair.running():
            await until(lambda: "revoked" in pair.hub.refusals(), "the refusal")
            await asyncio.sleep(0.3)
            assert pair.broker.on(pair.signs.topics.desired) == []

    asyncio.run(story())


def test_of_a_revoked_node_nothing_is_taken_in(pair: Pair) -> None:
    async def story() -> None:
        await pair.enrol()
        now = pair.office.clock.utc()
        await pair.office.enrolment.revoke("box-1", "stolen")
        async with pair.running():
            batch = pair.signs.batch(["a"])
            for topic, payload in (
                (pair.signs.topics.reported, pair.signs.report(1, now)),
                (pair.signs.topics.stream("usage"), batch.envelope),
                (REQUEST, pair.certificates.request()),
            ):
                pair.broker.publish(topic, payload)
            await until(lambda: len(pair.hub.refusals()) >= 3, "the refusals")
            assert set(pair.hub.refusals()) == {"revoked"}
            assert pair.hub.row().reported is None
            assert pair.hub.db.read(lambda db: store.batches(db, "box-1")) == []
            assert pair.broker.on(ANSWER) == []

    asyncio.run(story())
