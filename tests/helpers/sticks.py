"""A node without a link, its hub, and sticks that go between them: folders all three."""

import asyncio
import datetime
import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from appliance.bundle.take.answers import AnswerTaker
from appliance.bundle.take.receipts import ReceiptBook
from appliance.core import wire
from appliance.core.ids import Digest, NodeId
from appliance.hub import receipts as hub_receipts
from appliance.hub import store
from appliance.hub.carrier import Delivery, import_folder
from appliance.hub.identity import HubIdentity
from appliance.ledger import meta, receipts, streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream
from appliance.node.freshness import freshness
from appliance.trust import floor
from appliance.trust.envelope import Addressee, Slot, seal
from appliance.trust.keys import SigningKey
from appliance.trust.receipt import Event, Receipt, open_receipt
from appliance.trust.store import TrustStore
from tests.helpers.hubs import Hub
from tests.helpers.signing import Signer, new_key
from tests.helpers.waiting import StillClock

DAY = datetime.timedelta(days=1)
SIGNER = Signer.new()


def digest(number: int) -> Digest:
    return Digest("sha256:" + hashlib.sha256(str(number).encode()).hexdigest())


class Site:
    """A node as far as receipts and the time go; its clock and its store are the test's."""

    def __init__(self, folder: Path, sync: SigningKey, *, name: str = "box-1") -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.name, self.key, self.sync = name, new_key(), sync
        self.clock = StillClock()
        self.held = [digest(1), digest(2)]
        self.trust = TrustStore(folder / "tuf")
        self.trust.init(SIGNER.root_file())
        self.name_director()
        self.ledger = Ledger(folder / "node.db")
        self.sign_offline(floor.BUILT)
        node = NodeId(name)
        self.book = ReceiptBook(
            node, self.key, self.ledger, self.trust, self.clock, lambda: self.held
        )
        self.answers = AnswerTaker(node, self.key.public, self.ledger, self.trust, self.clock)

    @property
    def me(self) -> Addressee:
        return Addressee("acme", self.name, self.key.public, self.ledger.epoch)

    def name_director(self, *, sync: SigningKey | None = None) -> None:
        path = self.folder / "tuf" / "current" / "trust" / "director.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        keys = {"keys": ["aa" * 32], "sync": [(sync or self.sync).public]}
        document = {"org": "acme", "epoch": 1, **keys, "sites": ["*"], "verbs": []}
        path.write_bytes(wire.dumps(document))

    def sign_offline(self, moment: datetime.datetime) -> None:
        """Have a bundle come whose metadata was signed at that time."""
        add = partial(meta.add_floor_row, key="0f" * 32, at=moment, online=False)
        self.ledger.record(add).result()

    def make(self, event: Event) -> int | None:
        fact = Fact(Stream.AUDIT, event.kind, "now", {})
        return self.book.record(event, fact)

    def opened(self) -> list[Receipt]:
        """Return all receipts, as who verifies them sees them."""
        rows = self.ledger.read(receipts.rows)
        return [open_receipt(r.envelope, {self.key.public}, "acme", self.name) for r in rows]

    def floor(self) -> datetime.datetime:
        found = self.ledger.read(meta.floor)
        assert found is not None
        return found

    def time(self) -> dict[str, Any]:
        return self.ledger.read(lambda db: freshness(db, self.clock))

    def nonce(self) -> str | None:
        return self.ledger.read(receipts.nonce)

    def ask(self) -> str:
        return self.ledger.record(receipts.ask_for_time).result()

    def answer(self, at: datetime.datetime, **changes: Any) -> bytes:
        """Return the hub's answer; ``changes`` are to the payload, or how it is sealed."""
        how: dict[str, Any] = {"to": self.me, "key": self.sync, "slot": Slot.TIME, "issued": at}
        how.update({k: changes.pop(k) for k in list(changes) if k in how})
        body = {"nonce": self.nonce() or "00" * 32, "time": at.isoformat(), **changes}
        return seal(how["slot"], how["to"], body, how["key"], issued=how["issued"], lifetime=DAY)

    def records(self, stream: Stream) -> list[dict[str, Any]]:
        found = self.ledger.read(lambda db: list(streams.waiting(db, stream, 1000)))
        return [r.record for r in found]

    def close(self) -> None:
        self.ledger.close()


class Desk:
    """The hub where sticks come home."""

    def __init__(self, folder: Path, sync: SigningKey) -> None:
        folder.mkdir(parents=True)
        self.hub = Hub(folder, replace(_identity(), sync=sync))
        self.clock = self.hub.clock

    def admit(self, site: Site) -> None:
        effect = partial(store.admit, node=site.name, key=site.key.public, at="long ago")
        self.hub.db.submit(effect).result()

    def post(self, node: str, envelopes: list[dict[str, Any]]) -> dict[str, Any]:
        row = self.hub.db.read(partial(store.node, name=node))
        data = hub_receipts.body_of(envelopes)
        return asyncio.run(self.hub.service.take_receipts(row, data))

    def take(self, stick: Path) -> list[Delivery]:
        return import_folder(stick, self.post)

    def chains(self, name: str = "box-1") -> list[hub_receipts.Chain]:
        return self.hub.db.read(lambda db: hub_receipts.chains(db, name))

    def close(self) -> None:
        self.hub.db.close()


def _identity() -> HubIdentity:
    return HubIdentity("acme", 1, new_key(), new_key(), "the token")
