"""A hub and a node that it enrolled, over the shipped broker settings and a real mosquitto.

Nobody gets in without a certificate of the hub's authority; one that is due is renewed over the
very connection that it opened; and a node that is revoked is turned away.
"""

import asyncio
import datetime
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from appliance.core import wire
from appliance.hub.authority import hub_tls
from appliance.hub.service import HubService
from appliance.kit.clock import SystemClock
from appliance.node.board import Board
from appliance.node.enrolment import Renewal
from appliance.node.report import Reporter
from appliance.node.uplink import Uplink
from appliance.settings import SyncSettings
from appliance.sync.broker import BrokerAddress, Tls
from appliance.trust.certificates import FileTlsKey
from appliance.trust.documents import DIRECTOR_PATH
from tests.helpers import brokers
from tests.helpers.enrolling import Machine, Office
from tests.helpers.models import machine
from tests.helpers.waiting import StillClock, until

pytestmark = pytest.mark.integration
DAYS = datetime.timedelta(days=1)


class ShiftedClock(SystemClock, StillClock):
    """The machine's clock, some days off."""

    def __init__(self) -> None:
        self.shift = datetime.timedelta(0)

    def utc(self) -> datetime.datetime:
        return super().utc() + self.shift


class Issuer(brokers.Authority):
    """The hub's own authority, as the shipped settings want their files."""

    def __init__(self, office: Office) -> None:
        self.office, self.pem = office, office.authority.pem

    def issue(
        self, name: str, files: tuple[Path, Path], *, host: str | None = None,
        valid: brokers.Validity | None = None,
    ) -> None:  # fmt: skip
        assert valid is None
        certificate, key = files
        hosts, now = [host or name], self.office.clock.utc()
        made = self.office.authority.issue_server(hosts, FileTlsKey.create(key), now)
        certificate.write_bytes(made.pem)

    def revoking(self, *certificates: Path) -> bytes:
        assert not certificates
        return self.office.enrolment.crl()


class Fleet:
    """A broker, a hub and a node, each with its certificate, and a clock that they share."""

    def __init__(self, folder: Path) -> None:
        self.clock = ShiftedClock()
        self.office = Office(folder / "hub", self.clock)
        self.node = Machine(folder / "node", self.clock)
        (folder / "broker").mkdir()
        self.folder = folder / "broker"
        self.broker = brokers.fleet(self.folder, Issuer(self.office))
        self.service = self._hub()
        self._trusts()
        board = Board(self.node.ledger, self.clock, folder / "routes.json")
        reporter = Reporter(self.node.ledger, board, machine, self.clock)
        trust = self.node.in_force.trust
        self.uplink = Uplink(
            self.node.identity, self.node.ledger, trust, reporter, board, lambda: None
        )
        self.uplink.certificates = self.node.certificates
        ask = self.uplink.ask_certificate
        self.renewal = Renewal(self.node.certificates, self.node.folder, ask)

    def _hub(self) -> HubService:
        office = self.office

        def tls() -> Tls:
            files = hub_tls(office.folder, office.authority, self.clock.utc())
            return Tls(*files, (office.authority.pem,))

        address = BrokerAddress("localhost", self.broker.port, "mqtts", tls=tls)
        service = HubService(office.hub.identity, office.hub.db, address, self.clock)
        service.add("request", office.enrolment)
        return service

    def _trusts(self) -> None:
        identity = self.office.hub.identity
        keys = {"keys": [identity.director.public], "sync": [identity.sync.public]}
        document = {"org": "acme", "epoch": 1, **keys, "sites": ["*"], "verbs": []}
        self.node.in_force.documents[DIRECTOR_PATH] = wire.dumps(document)
        self.node.name_authorities(self.office.authority.pem)

    async def enrol(self, *, may_take: bool = True) -> None:
        """Enrol the node; where this release is younger than that day, as an older one did."""
        token = await self.office.enrolment.new_token("box-1", "hall 4", DAYS)
        answer = await self.office.enrolment.answer(self.node.certificates.request(token))
        chain = answer["chain"].encode()
        if may_take:
            self.node.certificates.take(chain)
        else:
            (self.node.folder / "identity" / "tls.pem").write_bytes(chain)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        settings = SyncSettings(
            broker=f"mqtts://localhost:{self.broker.port}", first_retry_s=0.05, most_retry_s=0.1
        )
        tasks = [
            asyncio.create_task(self.service.run()),
            asyncio.create_task(self.uplink.run(settings, self.clock, heartbeat_s=30)),
        ]
        try:
            await until(lambda: self.service.connected, "the hub's connection")
            yield
            assert not any(task.done() for task in tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def is_up(self) -> bool:
        return bool(self.uplink.status()["connected"])

    def revoked_here(self) -> None:
        """Give the hub's list to the broker, and have it read that."""
        shutil.copy(self.office.folder / "crl.pem", self.folder / "revoked.pem")
        os.kill(self.broker.process.pid, signal.SIGHUP)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    yield made
    made.broker.kill()
    made.office.close()
    made.node.close()


def test_a_certificate_opens_the_door_is_renewed_and_can_be_taken_back(fleet: Fleet) -> None:
    async def story() -> None:
        fleet.clock.shift = -80 * DAYS
        await fleet.enrol()
        fleet.clock.shift = 0 * DAYS
        first = fleet.node.chain()
        assert fleet.node.certificates.is_due()
        async with fleet.running():
            await until(fleet.is_up, "the link")
            await until(lambda: fleet.node.chain().serial != first.serial, "the renewed one")
            reported = lambda: (row := fleet.office.row()) is not None and row.reported  # noqa: E731
            await until(reported, "a report")
        async with fleet.running():
            await until(fleet.is_up, "the link again")
        await fleet.office.enrolment.revoke("box-1", "stolen")
        fleet.revoked_here()
        await asyncio.sleep(0.5)
        async with fleet.running():
            await asyncio.sleep(1)
            assert not fleet.is_up()

    asyncio.run(story())


def test_without_a_certificate_status_says_what_is_missing(fleet: Fleet) -> None:
    async def story() -> None:
        async with fleet.running():
            await until(lambda: "no certificate" in fleet.uplink.status()["why"], "the reason")
            await fleet.enrol()
            await until(fleet.is_up, "the link")

    asyncio.run(story())


def test_an_expired_certificate_is_turned_away_until_it_is_renewed_elsewhere(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's API takes the same request that the broker would have carried."""

    async def story() -> None:
        fleet.clock.shift = -110 * DAYS
        await fleet.enrol(may_take=False)
        fleet.clock.shift = 0 * DAYS
        fleet.node.certificates.remember_hub("http://hub:8090")
        loop = asyncio.get_running_loop()

        def post(_: str, request: bytes, __: object) -> bytes:
            answer = fleet.office.enrolment.answer(request)
            return str(asyncio.run_coroutine_threadsafe(answer, loop).result()["chain"]).encode()

        monkeypatch.setattr("appliance.node.enrolment.asked_over_http", post)
        async with fleet.running():
            await asyncio.sleep(1)
            assert not fleet.is_up()
            assert fleet.node.certificates.has_ended()
            await fleet.renewal.look()
            await until(fleet.is_up, "the link")

    asyncio.run(story())
