"""A hub's enrolment and a node that asks it, with a clock in the test's hand and no network."""

import asyncio
import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from appliance.core import wire
from appliance.core.ids import NodeId
from appliance.hub import roster, store
from appliance.hub.authority import Authority, Standing
from appliance.hub.enrolment import Enrolment, Policy
from appliance.kit.clock import SystemClock
from appliance.ledger import streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Stream
from appliance.node import identity
from appliance.node.enrolment import Certificates
from appliance.node.identity import NodeIdentity
from appliance.trust.certificates import Chain
from appliance.trust.documents import HUB_PATH
from appliance.trust.enrolment import EnrolmentToken
from tests.helpers.hubs import Hub
from tests.helpers.organisation import Node
from tests.helpers.signing import InForce, new_key
from tests.helpers.waiting import StillClock

T = TypeVar("T")
LIFE = datetime.timedelta(days=100)
HOUR = datetime.timedelta(hours=1)


def certificates_of(node: Node) -> Certificates:
    """Return what an opened node asks for certificates with."""
    me = identity.load(node.state)
    return Certificates(node.state, me, node.ledger, node.trust, SystemClock())


class Office:
    """A hub that issues certificates for 100 days, and renews up to 30 days after their end."""

    def __init__(self, folder: Path, clock: StillClock | None = None) -> None:
        (folder / "identity").mkdir(parents=True)
        self.folder = folder
        self.hub = Hub(folder)
        if clock is not None:
            self.hub.clock = clock
        self.clock = self.hub.clock
        standing = Standing(folder, "acme", self.clock)
        policy = Policy(LIFE, datetime.timedelta(days=30))
        self.enrolment = Enrolment("acme", folder, standing, self.hub.db, self.clock, policy)

    @property
    def authority(self) -> Authority:
        return self.enrolment.authority

    def close(self) -> None:
        self.hub.db.close()

    def token(self, node: str = "box-1", **more: Any) -> EnrolmentToken:
        life, site = more.pop("life", HOUR), more.pop("site", "hall 4")
        return asyncio.run(self.enrolment.new_token(node, site, life, **more))

    def answer(self, request: bytes) -> bytes:
        return str(asyncio.run(self.enrolment.answer(request))["chain"]).encode()

    def approve(self, request: bytes, fingerprint: str, **more: Any) -> bytes:
        answer = asyncio.run(self.enrolment.approve(request, fingerprint, **more))
        return str(answer["chain"]).encode()

    def row(self, node: str = "box-1") -> store.NodeRow | None:
        return self.hub.db.read(lambda db: roster.find(db, node))

    def revoked(self) -> list[str]:
        """Return the serials that are on the list for the broker."""
        at = "2000-01-01T00:00:00.000Z"
        return [r.serial for r in self.hub.db.read(lambda db: roster.revoked_serials(db, at))]

    def write(self, effect: Any) -> Any:
        return self.hub.db.submit(effect).result()

    def admit(self, node: "Machine") -> None:
        key = node.identity.key.public
        self.write(partial(store.admit, node=node.name, key=key, at="long ago"))


class Machine:
    """A node's state folder, and the part of it that has to do with certificates."""

    def __init__(self, folder: Path, clock: StillClock, name: str = "box-1") -> None:
        for each in ("identity", "tuf"):
            (folder / each).mkdir(parents=True)
        self.folder = folder
        self.name = name
        self.clock = clock
        self.ledger = Ledger(folder / "node.db")
        self.in_force = InForce(folder / "tuf")
        self.identity = NodeIdentity(NodeId(name), new_key())
        self.certificates = Certificates(
            folder, self.identity, self.ledger, self.in_force.trust, clock
        )

    def close(self) -> None:
        self.ledger.close()

    def name_authorities(self, *pems: str, epoch: int = 1) -> None:
        """Have a bundle say whose certificates speak for the hub."""
        found = {"org": "acme", "epoch": epoch, "ca": list(pems)}
        self.in_force.documents[HUB_PATH] = wire.dumps(found)
        self.in_force.put()

    def audit(self) -> list[tuple[str, dict[str, Any]]]:
        found = self.ledger.read(lambda db: list(streams.waiting(db, Stream.AUDIT, 1000)))
        return [(r.record["kind"], r.record["body"]) for r in found]

    def chain(self) -> Chain:
        found = self.certificates.chain()
        assert found is not None
        return found
