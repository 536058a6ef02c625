"""A node and its hub that know each other by sticks alone: folders, all of them."""

import asyncio
import contextlib
from functools import partial
from pathlib import Path
from typing import Any

from appliance.core import wire
from appliance.core.documents import Document
from appliance.core.ids import NodeId
from appliance.errors import NotFoundError
from appliance.hub import store
from appliance.hub.carrier import Replay, import_folder, import_letters
from appliance.kit.clock import Clock
from appliance.ledger import meta, streams
from appliance.ledger.streams import Fact, Stream
from appliance.node import identity
from appliance.node.carry import Alone, Carrier, Exported, Taken
from appliance.node.identity import NodeIdentity
from appliance.sync.mqtt import Message
from appliance.sync.topics import NodeTopics
from appliance.trust.envelope import Slot, seal
from tests.helpers.organisation import Node
from tests.helpers.signing import new_key
from tests.helpers.sticks import DAY, Desk, Site


def carrier_of(node: Node, clock: Clock) -> Carrier:
    """Return a node's end of the stick road, as wiring builds it without a controller."""
    me = identity.load(node.state)
    voice = Alone(me, node.ledger, node.trust, clock, {"time": node.answers.take_time})
    return Carrier(me, node.ledger, node.trust, node.receipts, clock, voice)


class Speaking(Alone):
    """A voice that also has a report to give, as a running controller has."""

    site: Site
    applied: int | None = None

    async def up(self) -> list[Message]:
        site = self.site
        number = site.ledger.record(meta.next_report).result()
        body = {
            "report": number,
            "applied": {"generation": self.applied},
            "deployments": [],
            "streams": {
                s: {"written": p.written, "acknowledged": p.acked_upto, "hash": p.acked_hash}
                for s in Stream
                for p in [site.ledger.read(partial(streams.position, stream=s))]
            },
        }
        now = site.clock.utc()
        data = seal(Slot.REPORTED, site.me, body, site.key, issued=now, lifetime=DAY)
        return [Message(NodeTopics(NodeId(site.name)).reported, data)]


class Carried:
    """A site without a link, the hub, and what goes between them."""

    def __init__(self, folder: Path, name: str = "box-1") -> None:
        self.folder = folder
        self.desk = Desk(folder / "hub", new_key())
        self.site = Site(folder / name, self.desk.hub.identity.sync, name=name)
        self._name_both()
        self.desk.admit(self.site)
        self.open()

    def open(self) -> None:
        """Make the node's end over the ledger that is open now."""
        site = self.site
        me = NodeIdentity(NodeId(site.name), site.key)
        takers = {"time": site.answers.take_time}
        self.voice = Speaking(me, site.ledger, site.trust, site.clock, takers)
        self.voice.site = site
        self.carrier = Carrier(me, site.ledger, site.trust, site.book, site.clock, self.voice)

    def _name_both(self) -> None:
        path = self.site.folder / "tuf" / "current" / "trust" / "director.json"
        ours = self.desk.hub.identity
        keys = {"keys": [ours.director.public], "sync": [ours.sync.public]}
        path.write_bytes(wire.dumps({"org": "acme", "epoch": 1, **keys, "sites": [], "verbs": []}))

    def stick(self, name: str) -> Path:
        """Return an empty stick, or the one of that name."""
        path = self.folder / "sticks" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def note(self, count: int, stream: Stream = Stream.USAGE, kind: str = "test") -> None:
        at = "2026-12-01T00:00:00.000Z"
        facts = [Fact(stream, kind, at, {"n": n}) for n in range(count)]
        self.site.ledger.note(*facts).result()

    def export(self, stick: Path) -> Exported:
        return asyncio.run(self.carrier.export(stick))

    def take(self, stick: Path) -> list[Taken]:
        return asyncio.run(self.carrier.take(stick))

    def bring(self, stick: Path) -> list[Replay]:
        """Hand a stick in at the hub."""
        with contextlib.suppress(NotFoundError):  # an empty one, to begin with
            import_folder(stick, self.desk.post)
        return import_letters(stick, self.post, self.ask)

    def post(self, node: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
        hub = self.desk.hub
        found = [Message(m["topic"], m["payload"].encode()) for m in messages]
        results = asyncio.run(hub.service.replay(hub.row(node), found))
        positions = hub.db.read(lambda db: store.positions(db, node))
        said = [{"epoch": p.epoch, "stream": p.stream, "upto": p.upto} for p in positions]
        return {"results": results, "positions": said}

    def ask(self, node: str) -> dict[str, Any]:
        found = asyncio.run(self.desk.hub.service.answers(node))
        return {"messages": [{"topic": m.topic, "payload": m.payload.decode()} for m in found]}

    def wish(self, *documents: Document) -> int:
        """Have the fleet ask for something."""
        submit = self.desk.hub.db.submit
        return submit(lambda db: store.put_documents(db, self.site.name, list(documents))).result()

    def left(self, stream: Stream) -> int:
        """Return how many records the node still keeps for the hub."""
        found = self.site.ledger.read(lambda db: streams.position(db, stream))
        return found.written - found.acked_upto

    def at_hub(self, stream: str) -> list[Any]:
        return self.desk.hub.records(self.site.name, stream)

    def close(self) -> None:
        self.site.close()
        self.desk.close()
