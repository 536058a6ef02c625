"""The link to the hub, once a bundle has named who directs this fleet."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from appliance.kit.clock import Clock
from appliance.kit.loop import Wake
from appliance.ledger.db import Ledger
from appliance.node.board import Board
from appliance.node.commands import CommandInbox, Hands
from appliance.node.fleet import FleetInbox
from appliance.node.identity import NodeIdentity
from appliance.node.report import Reporter
from appliance.settings import SyncSettings
from appliance.sync.broker import without_certificate
from appliance.sync.link import Endpoints, Link, Receive
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
        self.hands = Hands()
        """What carries commands of the hub out; set it before ``run``."""
        self.certificates: Certificates | None = None
        """Asks for this node's certificate, takes it and shows it; None: it has none."""
        self._identity = identity
        self._ledger = ledger
        self._trust = trust
        self._reporter = reporter
        self._board = board
        self._changed = changed
        self._imported = Wake()
        self._meeting = asyncio.Lock()
        self._inbox: FleetInbox | None = None
        self._commands: CommandInbox | None = None
        self._link: Link | None = None

    async def run(self, settings: SyncSettings, clock: Clock, *, heartbeat_s: float) -> None:
        """Keep the link up for ever."""
        if not settings.broker:
            return
        while (endpoints := await self._met()) is None:
            await self._imported.wait(clock, _LOOK_S)
        link = Link(self._ledger, endpoints, clock, settings, heartbeat_s=heartbeat_s)
        self._link = link
        if self._commands is not None:
            self._commands.say = link.say
        loop = asyncio.get_running_loop()

        def committed() -> None:
            loop.call_soon_threadsafe(link.wake.set)

        self._ledger.on_commit(committed)
        try:
            await link.run(self._me(), self._identity.key)
        finally:
            self._ledger.on_commit(lambda: None)

    def _me(self) -> Addressee:
        director = self._trust.director()
        return self._identity.at("" if director is None else director.org, self._ledger.epoch)

    async def _met(self) -> Endpoints | None:
        """Return what talks to the hub, by whichever road, once a bundle has named it."""
        if self._trust.director() is None:
            return None
        me, key = self._me(), self._identity.key
        async with self._meeting:
            if self._inbox is None or self._commands is None:
                clock = self._reporter.clock
                commands = CommandInbox(me, key, self._trust, self._ledger, clock, self.hands)
                await commands.settle()
                self._inbox = FleetInbox(me, self._trust, self._ledger, clock, self._changed)
                self._commands = commands
        inbox, commands = self._inbox, self._commands
        return Endpoints(
            down={
                "desired": inbox.desired,
                "ack": inbox.ack,
                "time": self._time,
                "cert": self._certificate,
                "cmd": commands.command,
            },
            report=lambda: self._reporter.signed(me, key),
            report_version=lambda: self._board.version,
            greet=lambda: [*commands.greet(), *self._greeting()],
            tls=without_certificate if self.certificates is None else self.certificates.tls,
        )

    async def down(self) -> Mapping[str, Receive]:
        """Return who takes what the hub says, for another road than the link."""
        endpoints = await self._met()
        return {} if endpoints is None else endpoints.down

    async def up(self) -> list[Message]:
        """Return what a hub that hears of us anew is told, for another road than the link."""
        endpoints = await self._met()
        if endpoints is None:
            return []
        topics = NodeTopics(self._identity.node)
        return [Message(topics.reported, await endpoints.report()), *endpoints.greet()]

    async def catalogue_changed(self) -> None:
        """Look again at what waited for a bundle: the director's name, a word of the fleet."""
        self._imported.set()
        await self._met()
        if self._inbox is not None:
            await self._inbox.look_again()
        if self._commands is not None:
            await self._commands.look_again()

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
