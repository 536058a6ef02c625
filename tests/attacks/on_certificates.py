"""Attacks by certificates: what opens the broker's door, offered by who holds the broker."""

import datetime
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from appliance.core import wire
from appliance.hub.authority import Authority
from appliance.node import identity
from appliance.node.enrolment import Certificates
from appliance.trust.certificates import Chain, FileTlsKey
from tests.attacks import defences as d
from tests.attacks.attack import DAY, NOW, Attempt, Scene, attack, good
from tests.helpers.organisation import Node
from tests.helpers.signing import ORG

LIFE = 100 * DAY

offers = partial(attack, row="", kind="wrong key")


@dataclass(frozen=True)
class Office:
    """The fleet's authority, and the key of the node that it issues to."""

    authority: Authority
    key: FileTlsKey

    def chain(
        self, name: str = "box-1", key: FileTlsKey | None = None, at: datetime.datetime = NOW
    ) -> Chain:
        public = (key or self.key).private.public_key()
        return self.authority.issue(name, public, at, LIFE)


def enrolled(s: Scene, folder: str = "hub") -> Office:
    """Have offline keys name an authority, and the node make its key."""
    authority = stranger(s, folder)
    draft = good()
    draft.hub = wire.dumps({"org": ORG, "epoch": 1, "ca": [authority.pem]})
    s.took(draft)
    key = FileTlsKey.create(s.node.state / "identity" / "tls-key.pem")
    return Office(authority, key)


def stranger(s: Scene, folder: str = "stranger") -> Authority:
    (s.folder / folder / "identity").mkdir(parents=True)
    return Authority.of(s.folder / folder, ORG, NOW)


def taking(data: bytes) -> Attempt:
    def take(node: Node) -> object:
        clock = node.importer._parts.clock
        me = identity.load(node.state)
        return Certificates(node.state, me, node.ledger, node.trust, clock).take(data)

    return take


@offers("envelope 1", d.CHAIN_CAP, 27, kind="endless data")
def endless_certificate(s: Scene) -> Attempt:
    """A chain of certificates never ends."""
    return taking(enrolled(s).chain().pem + b"\n" * (64 << 10))


@offers("envelope 3", d.ISSUER, 20)
def certificate_by_a_stranger(s: Scene) -> Attempt:
    """Whoever took the broker over issues certificates of its own."""
    office = enrolled(s)
    public = office.key.private.public_key()
    return taking(stranger(s).issue("box-1", public, NOW, LIFE).pem)


@offers("envelope 3", d.ISSUER, 20, row="node", kind="wrong role")
def certificate_by_another_node(s: Scene) -> Attempt:
    """A node issues certificates with the one that it was issued."""
    office = enrolled(s)
    other = FileTlsKey.create(Path(s.folder / "other-key.pem"))
    between = office.chain("box-2", other)
    public = office.key.private.public_key()
    chain = Authority(other, between.own).issue("box-1", public, NOW, LIFE)
    return taking(chain.pem + office.authority.pem.encode())


@offers("envelope 5", d.OWN_KEY, 28, row="node", kind="replay")
def certificate_for_another_key(s: Scene) -> Attempt:
    """A node is given a certificate that it has no key for, and is shut out."""
    office = enrolled(s)
    return taking(office.chain(key=FileTlsKey.create(Path(s.folder / "other-key.pem"))).pem)


@offers("envelope 5", d.OWN_NAME, 28, row="node", kind="replay")
def certificate_in_another_name(s: Scene) -> Attempt:
    """A node comes to another one's topics by a certificate in its name."""
    return taking(enrolled(s).chain("box-2").pem)


@offers("envelope 7", d.IN_FORCE, 21, kind="freeze")
def certificate_that_has_ended(s: Scene) -> Attempt:
    """A certificate is kept back until it opens nothing any more."""
    return taking(enrolled(s).chain(at=NOW - 2 * LIFE).pem)


@offers("envelope 7", d.IN_FORCE, 21)
def certificate_that_has_not_begun(s: Scene) -> Attempt:
    """A certificate of next year takes the place of the one that is good today."""
    return taking(enrolled(s).chain(at=NOW + 365 * DAY).pem)


@offers("envelope 8", d.OLDER_CHAIN, 30, kind="replay")
def certificate_that_was_replaced(s: Scene) -> Attempt:
    """The certificate before is delivered again after a renewal."""
    office = enrolled(s)
    before = office.chain(at=NOW - DAY)
    taking(office.chain().pem)(s.node)
    return taking(before.pem)


@offers("envelope 9", d.FOR_CLIENTS, 28, kind="wrong role")
def certificate_of_a_broker(s: Scene) -> Attempt:
    """A certificate with which one could pass for the broker is given to a node."""
    office = enrolled(s)
    return taking(office.authority.issue_server(["box-1"], office.key, NOW).pem)
