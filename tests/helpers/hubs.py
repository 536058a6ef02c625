"""A hub in memory, as far as it can be, and nodes that talk to it."""

import datetime
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from appliance.core.ids import NodeId
from appliance.hub import store
from appliance.hub.identity import HubIdentity
from appliance.hub.migrations import migrations
from appliance.hub.service import HubService
from appliance.kit.commit import GroupCommit
from appliance.ledger.streams import Position, Record, SealedBatch, Stream
from appliance.sync.batch import maker
from appliance.sync.mqtt import BrokerAddress
from appliance.sync.topics import NodeTopics
from appliance.trust.envelope import Addressee, Slot, seal
from tests.helpers.signing import new_key
from tests.helpers.waiting import StillClock

DAY = datetime.timedelta(days=1)


class Hub:
    """A hub's parts, opened on a folder."""

    def __init__(self, folder: Path, identity: HubIdentity | None = None) -> None:
        usual = HubIdentity("acme", 1, new_key(), new_key(), "the token")
        self.identity = identity or usual
        self.db = GroupCommit(folder / "hub.db", migrations)
        self.clock = StillClock()
        self.service = HubService(self.identity, self.db, BrokerAddress("broker", 1), self.clock)

    def admit(self, node: "TalkingNode") -> None:
        effect = partial(store.admit, node=node.topics.node, key=node.key.public, at="long ago")
        self.db.submit(effect).result()

    def row(self, name: str = "box-1") -> store.NodeRow:
        return self.db.read(partial(store.node, name=name))

    def refusals(self, name: str = "box-1") -> list[str]:
        """Return the codes of what was refused, oldest first."""
        return [r["code"] for r in self.db.read(partial(store.refusals, name=name))][::-1]

    def records(self, name: str = "box-1", stream: str = "usage") -> list[Any]:
        known = {n.node: n.db_epoch for n in self.db.read(store.nodes)}
        where = (known.get(name) or "e1", stream)
        found = self.db.read(lambda db: store.records(db, name, where, 0, 1000))
        return [r["body"] for r in found]


class TalkingNode:
    """A node's signing hand: reports and batches as it would send them."""

    def __init__(self, name: str = "box-1", epoch: str = "e1") -> None:
        self.key = new_key()
        self.topics = NodeTopics(NodeId(name))
        self.me = Addressee("acme", name, self.key.public, epoch)
        self._previous = ""
        self._next = 1

    def begin_anew(self, epoch: str) -> None:
        """Lose the ledger, and go on with a new one."""
        self.me = replace(self.me, db_epoch=epoch)
        self._previous, self._next = "", 1

    def report(self, number: int, now: datetime.datetime, **changes: Any) -> bytes:
        body = {"report": number, "applied": {"generation": None}, "deployments": [], **changes}
        return seal(Slot.REPORTED, self.me, body, self.key, issued=now, lifetime=DAY)

    def batch(self, bodies: Sequence[Any], stream: Stream = Stream.USAGE) -> SealedBatch:
        """Return the next batch of the node's stream."""
        records = [
            Record(n, {"at": "now", "kind": "test", "body": body})
            for n, body in enumerate(bodies, start=self._next)
        ]
        make: Callable[[Position, list[Record]], SealedBatch] = maker(
            stream, self.me, self.key, "2026-12-01T00:00:00.000Z"
        )
        found = make(Position(sealed_hash=self._previous), records)
        self._previous, self._next = found.hash, found.upto + 1
        return found
