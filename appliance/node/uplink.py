"""The link to the hub, once a bundle has named who directs this fleet."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from appliance.kit.clock import Clock
from appliance.kit.loop import Wake
from appliance.ledger.db import Ledger
from appliance.node.board import Board
from appliance.node.fleet import FleetInbox
from appliance.node.identity import NodeIdentity
from appliance.node.report import Reporter
from appliance.settings import SyncSettings
from appliance.sync.broker import TlsSource, without_certificate
from appliance.sync.link import Endpoints, Link
from appliance.sync.mqtt import Message
from appliance.sync.topics import NodeTopics
from appliance.trust.envelope import Addressee
from appliance.trust.store import TrustStore

if TYPE_CHECKING:
    from appliance.node.enrolment import Certificates

log = logging.getLogger(__name__)
_LOOK_S = 2.0
TakeTime = Callable[[bytes], object]


class Uplink:
    """Everything of this node that talks to the hub; without a broker it does nothing."""

    def __init__(
        self, identity: NodeIdentity, ledger: Ledger, trust: TrustStore, reporter: Reporter,
        board: Board, changed: Callable[[], None],
    ) -> None:  # fmt: skip
        """``changed`` is called when the fleet's word has."""
        self.on_time: TakeTime = lambda _: None
        """Takes a signed time, or raises what stops it; called on a thread of its own."""
        self.certificates: Certificates | None = None
        self.tls: TlsSource = without_certificate
        """Returns this node's certificate as it is now; asked before each connection."""
        self._identity = identity
        self._ledger = ledger
        self._trust = trust
        self._reporter = reporter
        self._board = board
        self._changed = changed
        self._imported = Wake()
        self._inbox: FleetInbox | None = None
        self._link: Link | None = None

    async def run(self, settings: SyncSettings, clock: Clock, *, heartbeat_s: float) -> None:
        """Keep the link up for ever."""
        if not settings.broker:
            return
        while (director := self._trust.director()) is None:
            await self._imported.wait(clock, _LOOK_S)
        me = Addressee(
            director.org, self._identity.node, self._identity.key.public, self._ledger.epoch
        )
        inbox = FleetInbox(me, self._trust, self._ledger, clock, self._changed)
        endpoints = Endpoints(
            down={
                "desired": inbox.desired,
                "ack": inbox.ack,
                "time": self._time,
                "cert": self._certificate,
            },
            report=lambda: self._reporter.signed(me, self._identity.key),
            report_version=lambda: self._board.version,
            greet=self._greeting,
            tls=self.tls,
        )
        link = Link(self._ledger, endpoints, clock, settings, heartbeat_s=heartbeat_s)
        self._inbox, self._link = inbox, link
        loop = asyncio.get_running_loop()

        def committed() -> None:
            loop.call_soon_threadsafe(link.wake.set)

        self._ledger.on_commit(committed)
        try:
            await link.run(me, self._identity.key)
        finally:
            self._ledger.on_commit(lambda: None)

    async def catalogue_changed(self) -> None:
        """Look again at what waited for a bundle: the director's name, a word of the fleet."""
        self._imported.set()
        if self._inbox is not None:
            await self._inbox.look_again()

    def ask_certificate(self, request: bytes) -> bool:
        """Hand a request for a certificate to the hub; return False when the link is down."""
        if self._link is None or not self._link.state.connected:
            return False
        self._link.say(NodeTopics(self._identity.node).request, request)
        return True

    def _greeting(self) -> Iterable[Message]:
        """Return what a new connection begins with."""
        if self.certificates is not None and self.certificates.is_due():
            topic = NodeTopics(self._identity.node).request
            yield Message(topic, self.certificates.request())

    async def _certificate(self, data: bytes) -> None:
        if self.certificates is not None:
            await asyncio.to_thread(self.certificates.take, data)

    async def _time(self, data: bytes) -> None:
        await asyncio.to_thread(self.on_time, data)

    def status(self) -> dict[str, Any]:
        """Return how the link is, for people."""
        if self._link is None:
            why = "no bundle has named a director yet, or no broker is set"
            return {"connected": False, "since": "", "why": why, "waits_for": "", "refused": ""}
        waits, refused = "", ""
        if self._inbox is not None:
            waits, refused = self._inbox.waits_for, self._inbox.refused
        return {**asdict(self._link.state), "waits_for": waits, "refused": refused}
