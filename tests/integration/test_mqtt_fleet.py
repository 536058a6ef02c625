"""The shipped broker settings against a real mosquitto: who may what, TLS, WebSocket, a bridge."""

import asyncio
import contextlib
import datetime
import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.core.ids import NodeId
from appliance.errors import ApplianceError, PeerUnreachableError, StateUnusableError
from appliance.sync import mqtt
from appliance.sync.mqtt import BrokerAddress, Connection, Message, Session, Tls
from appliance.sync.topics import EVERY_NODE, NodeTopics
from tests.helpers import brokers
from tests.helpers.brokers import DAY, HUB, NOW, Authority, Process
from tests.helpers.proxies import Proxy

pytestmark = pytest.mark.integration
ONE, TWO = NodeTopics(NodeId("press-1")), NodeTopics(NodeId("press-2"))
DOWN = (ONE.desired, ONE.ack, ONE.time, ONE.certificate, ONE.commands)
"""What a node listens to."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def broker(tmp_path: Path, authority: Authority) -> Iterator[Process]:
    (tmp_path / "broker").mkdir()
    made = brokers.fleet(tmp_path / "broker", authority)
    yield made
    made.kill()


@pytest.fixture(params=["mqtts", "wss"])
def at(request: pytest.FixtureRequest, broker: Process) -> BrokerAddress:
    port = {"mqtts": broker.port, "wss": broker.more_ports[0]}[request.param]
    return BrokerAddress("localhost", port, request.param)


def as_one(address: BrokerAddress, tls: Tls) -> BrokerAddress:
    return replace(address, tls=lambda: tls)


async def heard(connection: Connection) -> Message:
    async with asyncio.timeout(10):
        return await connection.messages.get()


async def all_heard(connection: Connection, last: bytes) -> list[tuple[str, bytes]]:
    found = [await heard(connection)]
    while found[-1].payload != last:
        found.append(await heard(connection))
    return [(m.topic, m.payload) for m in found]


def the_rest_of(node: NodeTopics) -> Sequence[str]:
    """What only the node itself may write."""
    return (node.state, node.reported, node.stream("audit"), node.outcome("7"), node.request)


def test_a_node_and_the_hub_say_to_each_other_all_that_they_have_to(
    at: BrokerAddress, authority: Authority
) -> None:
    async def story() -> None:
        async with (
            mqtt.connect(as_one(at, authority.tls(HUB)), Session("h", (EVERY_NODE,))) as hub,
            mqtt.connect(as_one(at, authority.tls("press-1")), Session("n", DOWN)) as node,
        ):
            for number, topic in enumerate(the_rest_of(ONE)):
                node.publish(topic, b"%d" % number)
            assert [t for t, _ in await all_heard(hub, b"4")] == list(the_rest_of(ONE))
            down, size = (*DOWN[:-1], ONE.command("7")), 2_000 if at.is_web else 60_000
            for number, topic in enumerate(down):  # this mosquitto is slow down a WebSocket
                hub.publish(topic, bytes(size) + b"%d" % number)
            assert [t for t, _ in await all_heard(node, bytes(size) + b"4")] == list(down)

    asyncio.run(story())


def test_a_node_reads_nothing_of_another_whatever_it_subscribes_to(
    at: BrokerAddress, authority: Authority
) -> None:
    everything = Session("press-1", ("#", "ea1/#", "ea1/press-1/#", "ea1/+/up/#", EVERY_NODE))

    async def story() -> None:
        async with (
            mqtt.connect(as_one(at, authority.tls(HUB)), Session("h", ("nothing",))) as hub,
            mqtt.connect(as_one(at, authority.tls("press-1")), Session("n", DOWN)) as victim,
        ):
            hub.publish(ONE.desired, b"of press-1", retain=True)
            victim.publish(ONE.reported, b"also of press-1", retain=True)
            assert (await heard(victim)).payload == b"of press-1"
            tls = authority.tls("press-2")
            async with mqtt.connect(as_one(at, tls), everything) as spy:
                hub.publish(ONE.ack, b"again of press-1")
                victim.publish(ONE.stream("audit"), b"and again")
                hub.publish(TWO.ack, b"of press-2")
                found = await all_heard(spy, b"of press-2")
                await asyncio.sleep(0.2)
                assert {t for t, _ in found} == {TWO.ack}
                assert all(spy.messages.get_nowait().topic == TWO.ack for _ in _left(spy))

    asyncio.run(story())


def _left(connection: Connection) -> range:
    return range(connection.messages.qsize())


def test_a_node_writes_nothing_of_another_nor_of_the_hub(
    at: BrokerAddress, authority: Authority
) -> None:
    forbidden = (*the_rest_of(TWO), TWO.desired, TWO.command("7"), ONE.desired, ONE.command("7"))

    async def story() -> None:
        tls = authority.tls("press-2")
        async with (
            mqtt.connect(as_one(at, authority.tls(HUB)), Session("h", (EVERY_NODE,))) as hub,
            mqtt.connect(as_one(at, tls), Session("n", (TWO.desired, TWO.commands))) as victim,
            mqtt.connect(as_one(at, authority.tls("press-1")), Session("n", DOWN)) as liar,
        ):
            for topic in forbidden:
                liar.publish(topic, b"a lie", retain=True)
            liar.publish(ONE.state, b"the truth")
            hub.publish(TWO.desired, b"from the hub")
            found = await all_heard(hub, b"the truth")
            assert [t for t, payload in found if payload == b"a lie"] == []
            assert await all_heard(victim, b"from the hub") == [(TWO.desired, b"from the hub")]
            assert liar.messages.empty()
            async with asyncio.timeout(10):
                while not liar.refused:
                    await asyncio.sleep(0.01)
            assert liar.refused == "Not authorized"

    asyncio.run(story())


def test_a_will_is_no_way_around(broker: Process, authority: Authority) -> None:
    at = BrokerAddress("localhost", broker.port, "mqtts")
    lie = Session("n", DOWN, will=Message(TWO.state, b"press-2 is gone"))

    async def lied() -> None:
        async with mqtt.connect(as_one(at, authority.tls("press-1")), lie) as liar:
            liar._client.socket().shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
            async with asyncio.timeout(10):
                await liar.closed.wait()

    async def story() -> None:
        hub_at, node_at = (as_one(at, authority.tls(name)) for name in (HUB, "press-1"))
        async with mqtt.connect(hub_at, Session("h", (EVERY_NODE,))) as hub:
            with contextlib.suppress(PeerUnreachableError):  # it may also not be let in at all
                await lied()
            async with mqtt.connect(node_at, Session("n", DOWN)) as node:
                node.publish(ONE.state, b"press-1 is here")
                found = await all_heard(hub, b"press-1 is here")
                assert (TWO.state, b"press-2 is gone") not in found

    asyncio.run(story())


def test_the_client_id_is_the_certificates_name_whatever_is_claimed(
    at: BrokerAddress, authority: Authority
) -> None:
    async def story() -> None:
        one, two = authority.tls("press-1"), authority.tls("press-2")
        async with (
            mqtt.connect(as_one(at, one), Session("press-1", DOWN)) as victim,
            mqtt.connect(as_one(at, two), Session("press-1", (TWO.desired,))) as thief,
        ):
            thief.publish(TWO.state, b"here")
            await asyncio.sleep(0.2)
            assert not victim.closed.is_set()
            assert not thief.closed.is_set()

    asyncio.run(story())


def refusal(address: BrokerAddress) -> str:
    async def story() -> None:
        async with mqtt.connect(address, Session("press-1", DOWN)):
            pass

    with pytest.raises(ApplianceError) as found:
        asyncio.run(story())
    assert isinstance(found.value, PeerUnreachableError | StateUnusableError)
    return found.value.what


def test_who_has_no_certificate_of_the_hubs_ca_does_not_come_in(
    at: BrokerAddress, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path).tls("press-1")
    said = refusal(as_one(at, replace(stranger, ca=(authority.pem,))))
    assert at.is_web or "ended, revoked, or of another authority" in said


def test_who_was_revoked_does_not_come_in_but_over_a_websocket(
    tmp_path: Path, authority: Authority
) -> None:
    """The page says so of mosquitto 2.0; when this fails, it is time to write that it is over."""
    bad, good = authority.tls("press-1"), authority.tls("press-2")
    broker = brokers.fleet(tmp_path, authority, revoked=[bad.certificate])
    at = BrokerAddress("localhost", broker.port, "mqtts")
    web = BrokerAddress("localhost", broker.more_ports[0], "wss")

    async def comes_in(address: BrokerAddress) -> None:
        async with mqtt.connect(address, Session("n", (ONE.desired, TWO.desired))) as node:
            assert not node.closed.is_set()

    try:
        asyncio.run(comes_in(as_one(at, good)))
        refusal(as_one(at, bad))
        asyncio.run(comes_in(as_one(web, bad)))
    finally:
        broker.kill()


def test_who_has_no_certificate_at_all_is_told_that_it_has_none(
    at: BrokerAddress, authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "system.pem").write_text(authority.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "system.pem"))
    assert at.is_web or "we have no certificate to show" in refusal(at)
    refusal(at)


def test_a_broker_that_the_hubs_ca_does_not_know_is_not_believed(
    at: BrokerAddress, authority: Authority, tmp_path: Path
) -> None:
    wrong = replace(authority.tls("press-1"), ca=(Authority(tmp_path).pem,))
    assert "CERTIFICATE_VERIFY_FAILED" in refusal(as_one(at, wrong))
    assert "CERTIFICATE_VERIFY_FAILED" in refusal(at)


def test_the_brokers_name_must_be_in_its_certificate(
    at: BrokerAddress, authority: Authority
) -> None:
    elsewhere = replace(as_one(at, authority.tls("press-1")), host="127.0.0.2")
    assert "127.0.0.2" in refusal(elsewhere)


def test_a_certificate_that_cannot_be_read_is_said_in_words(
    at: BrokerAddress, authority: Authority, tmp_path: Path
) -> None:
    good = authority.tls("press-1")
    assert str(tmp_path) in refusal(as_one(at, replace(good, certificate=tmp_path / "none")))
    assert "cannot be used" in refusal(as_one(at, replace(good, ca=("not PEM",))))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_nothing_below_tls_1_3_is_spoken(
    at: BrokerAddress, authority: Authority, version: ssl.TLSVersion
) -> None:
    context = as_one(at, authority.tls("press-1")).context()
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = version
    with socket.create_connection((at.host, at.port), 10) as plain:
        if version is ssl.TLSVersion.TLSv1_3:
            context.wrap_socket(plain, server_hostname=at.host).close()
        else:
            with pytest.raises(ssl.SSLError, match="protocol version"):
                context.wrap_socket(plain, server_hostname=at.host)


def test_a_brokers_dates_are_judged_by_a_time_that_has_surely_passed(
    tmp_path: Path, authority: Authority
) -> None:
    broker = brokers.fleet(tmp_path, authority, valid=(NOW - 90 * DAY, NOW - 30 * DAY))
    at, tls = BrokerAddress("localhost", broker.port, "mqtts"), authority.tls("press-1")

    async def story(then: datetime.datetime | None) -> None:
        known = replace(tls, surely_past=None if then is None else lambda: then)
        async with mqtt.connect(as_one(at, known), Session("press-1", DOWN)) as node:
            assert not node.closed.is_set()

    try:
        asyncio.run(story(None))
        asyncio.run(story(NOW - 40 * DAY))
        with pytest.raises(PeerUnreachableError, match=r"certificate of .* ended on"):
            asyncio.run(story(NOW - 20 * DAY))
    finally:
        broker.kill()


def test_through_a_proxy_that_knows_the_password(at: BrokerAddress, authority: Authority) -> None:
    async def story(proxy: Proxy, login: str) -> None:
        tls = authority.tls("press-1")
        address = BrokerAddress.parse(
            f"{at.scheme}://localhost:{at.port}",
            proxy=f"http://{login}127.0.0.1:{proxy.port}",
            tls=lambda: tls,
        )
        async with (
            mqtt.connect(as_one(at, authority.tls(HUB)), Session(HUB, (EVERY_NODE,))) as hub,
            mqtt.connect(address, Session("press-1", DOWN)) as node,
        ):
            node.publish(ONE.state, b"through the wall")
            assert (await heard(hub)).payload == b"through the wall"
            hub.publish(ONE.ack, b"and back")
            assert (await heard(node)).payload == b"and back"

    with Proxy("box", "secret") as proxy:
        asyncio.run(story(proxy, "box:secret@"))
        assert proxy.asked == [f"localhost:{at.port}"]
        with pytest.raises(PeerUnreachableError, match="407") as found:
            asyncio.run(story(proxy, "box:wrong@"))
        assert "wrong" not in found.value.what
    with pytest.raises(PeerUnreachableError, match="refused"):
        asyncio.run(story(proxy, ""))


def test_a_site_s_broker_is_a_bridge_and_no_more(tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "fleet").mkdir()
    (tmp_path / "site").mkdir()
    central = brokers.fleet(tmp_path / "fleet", authority, more_acl=("acl-site",))
    site = brokers.site(tmp_path / "site", authority, central)
    at_fleet = BrokerAddress("localhost", central.port, "mqtts")
    hub_at = as_one(at_fleet, authority.tls(HUB))
    node_at = BrokerAddress("127.0.0.1", site.port)
    hub_session, node_session = Session(HUB, (EVERY_NODE,)), Session("press-1", DOWN)

    async def story() -> None:
        async with (
            mqtt.connect(hub_at, hub_session) as hub,
            mqtt.connect(node_at, node_session) as node,
        ):
            node.publish(ONE.reported, b"a report", retain=True)
            assert await heard(hub) == Message(ONE.reported, b"a report")
            hub.publish(ONE.desired, b"a word", retain=True)
            assert (await heard(node)).payload == b"a word"
            central.kill()
            node.publish(ONE.stream("audit"), b"while the line was down")
            await asyncio.sleep(0.3)
            central.start()
        async with mqtt.connect(hub_at, hub_session) as hub:
            await all_heard(hub, b"while the line was down")
            hub.publish("ea1/press-9/dn/desired", b"of another site", retain=True)
            hub.publish(ONE.ack, b"after all", retain=True)
            async with mqtt.connect(node_at, Session("spy", ("ea1/+/dn/#",))) as spy:
                found = await all_heard(spy, b"after all")
                assert not [t for t, _ in found if t.startswith("ea1/press-9/")]

    try:
        asyncio.run(story())
    finally:
        site.kill()
        central.kill()


def test_both_lists_of_rules_say_the_same() -> None:
    """EMQX cannot be run here: its rules are at least the same as those that were proven."""
    folder = brokers.EXAMPLES
    ours = re.findall(r"^(\w+) (read|write) (\S+)$", (folder / "acl").read_text(), re.MULTILINE)
    text = (folder.parent / "emqx" / "acl.conf").read_text()
    theirs = re.findall(r'^{allow, (.+?), (\w+), \["(\S+)"\]}\.$', text, re.MULTILINE)
    assert {
        (who == "topic", what, topic.replace("%u", "${username}")) for who, what, topic in ours
    } == {
        (who == '{username, "_hub"}', {"subscribe": "read", "publish": "write"}[what], topic)
        for who, what, topic in theirs
    }
    assert text.rstrip().endswith("{deny, all}.")


def test_a_site_s_broker_speaks_for_its_own_nodes_alone(
    tmp_path: Path, authority: Authority
) -> None:
    central = brokers.fleet(tmp_path, authority, more_acl=("acl-site",))
    at = BrokerAddress("localhost", central.port, "mqtts")
    everything = Session("any", ("ea1/+/dn/#", EVERY_NODE))

    async def story() -> None:
        async with (
            mqtt.connect(as_one(at, authority.tls(HUB)), Session(HUB, (EVERY_NODE,))) as hub,
            mqtt.connect(as_one(at, authority.tls("_site-zurich")), everything) as site,
        ):
            site.publish("ea1/press-9/up/state", b"a lie")
            site.publish(TWO.desired, b"a lie")
            site.publish(TWO.state, b"the truth")
            assert await all_heard(hub, b"the truth") == [(TWO.state, b"the truth")]
            hub.publish("ea1/press-9/dn/desired", b"of another site")
            hub.publish(TWO.desired, b"of this site")
            assert await all_heard(site, b"of this site") == [(TWO.desired, b"of this site")]

    try:
        asyncio.run(story())
    finally:
        central.kill()


def test_the_broker_listens_where_its_settings_say_and_nowhere_else(broker: Process) -> None:
    """A setting in the wrong place opens a listener on port 1883, without TLS."""
    opened = re.findall(r"Opening .* socket on port (\d+)", broker.log())
    assert sorted(map(int, opened)) == sorted([broker.port, *broker.more_ports])
