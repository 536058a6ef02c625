"""Whole nodes without engines, and a hub: a test lays the road between them."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from appliance.bundle.take.answers import AnswerTaker
from appliance.bundle.take.receipts import ReceiptBook
from appliance.core import wire
from appliance.core.commands import Command, Verb
from appliance.core.ids import NodeId
from appliance.hub import store
from appliance.ledger import streams
from appliance.ledger.streams import Fact, Record, Stream
from appliance.node import desired
from appliance.node.asking import TimeAsker
from appliance.node.commands import Hands
from appliance.node.enrolment import Certificates, Renewal
from appliance.node.identity import NodeIdentity
from appliance.node.report import Reporter
from appliance.node.uplink import Uplink
from appliance.settings import SyncSettings
from appliance.sync.batch import open_batch
from appliance.sync.mqtt import BrokerAddress
from appliance.trust.documents import DIRECTOR_PATH
from appliance.trust.remembered import rederive
from tests.helpers.hubs import Hub, TalkingNode
from tests.helpers.models import machine, variant
from tests.helpers.nodes import ControlledNode
from tests.helpers.signing import InForce
from tests.helpers.waiting import StillClock, until


class LinkedNode:
    """One node: ledger, controller over a fake driver, trust, and its end of the link."""

    def __init__(
        self, folder: Path, hub: Hub, name: str = "box-1", clock: StillClock | None = None
    ) -> None:
        for part in ("node", "tuf"):
            (folder / part).mkdir(parents=True)
        self.name = name
        self.signs = TalkingNode(name)
        self.topics = self.signs.topics
        self.node = ControlledNode(folder / "node")
        if clock is not None:
            self.node.clock = clock
            self.node.restart()
        self.ledger, self.clock = self.node.ledger, self.node.clock
        self.in_tuf = InForce(folder / "tuf")
        self.in_tuf.trust.init(self.in_tuf._signer.root_file())
        trust, key, node = self.in_tuf.trust, self.signs.key, NodeId(name)
        hub.admit(self.signs)
        self.name_director(hub)
        self.bring("small")
        self.reporter = Reporter(self.ledger, self.node.board, machine, self.clock)
        self.uplink = Uplink(
            NodeIdentity(node, key), self.ledger, trust, self.reporter, self.node.board,
            lambda: None,
        )  # fmt: skip
        answers = AnswerTaker(node, key.public, self.ledger, trust, self.clock)
        self.uplink.on_time = answers.hear_time
        state = folder / "node"
        (state / "identity").mkdir()
        me = NodeIdentity(node, key)
        self.certificates = Certificates(state, me, self.ledger, trust, self.clock)
        self.uplink.certificates = self.certificates
        self.done: list[str] = []
        self.uplink.hands = Hands(self._do)
        self.renewal = Renewal(self.certificates, state, self.uplink.ask_certificate)
        book = ReceiptBook(node, key, self.ledger, trust, self.clock, list)
        self.asker = TimeAsker(self.ledger, self.clock, book.ask)

    def name_director(self, hub: Hub, epoch: int = 1) -> None:
        """Have offline keys name the hub's keys."""
        identity = hub.identity
        keys = {"keys": [identity.director.public], "sync": [identity.sync.public]}
        document = {"org": "acme", "epoch": epoch, **keys, "sites": ["*"], "verbs": list(Verb)}
        self.sign(DIRECTOR_PATH, document)

    def sign(self, path: str, document: dict[str, Any]) -> None:
        """Have offline keys say something of trust itself."""
        self.in_tuf.documents[path] = wire.dumps(document)
        self.in_tuf.put()
        rederive(self.in_tuf.trust, self.ledger)

    def bring(self, model: str) -> None:
        """Have a model in the catalogue, and on the signed list."""
        found = variant(model)
        self.node.bring(found)
        self.in_tuf.list(found)

    def note(self, stream: Stream, *numbers: int) -> None:
        at = "2026-12-01T00:00:00.000Z"
        self.ledger.note(*(Fact(stream, "test", at, {"n": n}) for n in numbers)).result()

    async def serve(self, name: str = "notes") -> None:
        """Have a deployment of local staff run."""
        self.node.apply(name)
        await self.node.controller.reconcile()
        self.node.driver.become_ready(f"{name}-0")
        await self.node.controller.reconcile()
        assert self.node.status(name).is_ready

    async def still_serves(self, name: str = "notes") -> None:
        """Make a pass, as the loop does, and look at what the gateway is told."""
        await self.node.controller.reconcile()
        assert self.node.status(name).is_ready
        (route,) = [r for r in self.node.routes().routes if r.model == name]
        assert route.endpoints

    def generation(self) -> int:
        return self.ledger.read(desired.fleet).generation

    def waiting(self, stream: Stream) -> list[Record]:
        """Return the records that are in no batch yet."""
        self.ledger.note().result()  # what was noted before is committed by then
        return self.ledger.read(lambda db: list(streams.waiting(db, stream, 10_000)))

    def left(self) -> dict[str, int]:
        """Return how many records of each stream the hub has not acknowledged."""
        found = self.ledger.read(lambda db: {s: streams.position(db, s) for s in Stream})
        return {str(s): p.written - p.acked_upto for s, p in found.items()}

    def all_acknowledged(self) -> bool:
        return not any(self.left().values())

    def resend(self) -> None:
        """Let so much time pass that what nobody acknowledged is sent again."""
        self.clock.move(61)

    async def _do(self, command: Command) -> dict[str, Any]:
        self.done.append(command.id)
        return {"ran": command.id}

    def close(self) -> None:
        self.ledger.close()


@dataclass
class Fleet:
    """A hub and its nodes."""

    folder: Path
    hub: Hub = field(init=False)
    nodes: list[LinkedNode] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "hub").mkdir()
        self.hub = Hub(self.folder / "hub")

    def add(self, name: str, clock: StillClock | None = None) -> LinkedNode:
        made = LinkedNode(self.folder / name, self.hub, name, clock)
        self.nodes.append(made)
        return made

    @asynccontextmanager
    async def running(self, broker: BrokerAddress) -> AsyncIterator[None]:
        """Run hub and nodes, all by one broker."""
        self.hub.service._broker = broker
        url = f"mqtt://{broker.host}:{broker.port}"
        settings = SyncSettings(broker=url, first_retry_s=0.05, most_retry_s=0.2)
        tasks = [asyncio.create_task(self.hub.service.run())]
        tasks += [
            asyncio.create_task(n.uplink.run(settings, n.clock, heartbeat_s=30)) for n in self.nodes
        ]
        try:
            yield
            assert not any(task.done() for task in tasks), "one of them ended"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def introduced(self) -> None:
        """Wait until the hub has heard every node once."""
        for node in self.nodes:
            await until(partial(self._reported, node.name), f"the first report of {node.name}")

    async def ask(self, node: LinkedNode, *documents: Any) -> int:
        """Have the fleet ask something of a node; return the generation."""
        effect = partial(store.put_documents, name=node.name, found=list(documents))
        generation = self.hub.db.submit(effect).result()
        await self.hub.service.say(node.name)
        return generation

    def records(self, node: LinkedNode, stream: str = "usage") -> list[Any]:
        """Return what the hub has of a node, in its order."""
        where = (node.ledger.epoch, stream)
        found = self.hub.db.read(lambda db: store.records(db, node.name, where, 0, 1 << 20))
        return [r["body"]["n"] for r in found]

    def refused(self, node: LinkedNode) -> list[tuple[str, str]]:
        """Return kind and code of every refusal that a node has audited, wherever it is by now."""
        epoch, trusted = node.ledger.epoch, {node.signs.key.public}
        me = replace(node.signs.me, db_epoch=epoch)
        told = self.hub.db.read(partial(_stored, name=node.name, epoch=epoch))
        found = {r["seq"]: r for r in told}
        for sealed in node.ledger.read(lambda db: streams.unacknowledged(db, Stream.AUDIT, 999)):
            opened = open_batch(sealed.envelope, trusted, me, Stream.AUDIT)
            found.update(enumerate(opened.records, start=sealed.first))
        found.update({r.seq: r.record for r in node.waiting(Stream.AUDIT)})
        records = [found[seq] for seq in sorted(found)]
        return [
            (str(r["kind"]), str(r["body"]["code"]))
            for r in records
            if str(r["kind"]).endswith("-refused")
        ]

    def _reported(self, name: str) -> bool:
        return self.hub.row(name).reported is not None

    def close(self) -> None:
        self.hub.db.close()
        for node in self.nodes:
            node.close()


def _stored(db: sqlite3.Connection, name: str, epoch: str) -> list[dict[str, Any]]:
    return store.records(db, name, (epoch, Stream.AUDIT), 0, 10_000)
