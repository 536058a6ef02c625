"""This node's certificate for the broker: asked for, taken, renewed, by whichever road.

The node key in ``identity/node.pem`` never ends, and signs each request. The certificate is for a
key of its own, ``identity/tls-key.pem``; the chain is ``identity/tls.pem``.
"""

import asyncio
import datetime
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from appliance.bundle.media import requests
from appliance.core import wire
from appliance.errors import (
    ApplianceError,
    MalformedError,
    NotFoundError,
    RefusedError,
    ReplayError,
    ScopeError,
)
from appliance.kit.clock import Clock, rfc3339
from appliance.kit.files import write_durably
from appliance.kit.http import HttpClient
from appliance.kit.loop import Again
from appliance.kit.sparing import Sparing
from appliance.ledger import meta
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream
from appliance.node.identity import NodeIdentity
from appliance.sync.broker import Tls
from appliance.trust import dsse, floor
from appliance.trust.certificates import (
    MAX_CHAIN_BYTES,
    Chain,
    FileTlsKey,
    TlsKey,
    authority_hash,
    check_chain,
    fingerprint,
    spki,
    was_issued_by,
)
from appliance.trust.enrolment import EnrolmentToken
from appliance.trust.envelope import Slot
from appliance.trust.floor import Now
from appliance.trust.store import TrustStore

log = logging.getLogger(__name__)

_KEY, _CHAIN = Path("identity", "tls-key.pem"), Path("identity", "tls.pem")
_AUTHORITY, _HUB = Path("identity", "hub-ca.pem"), Path("identity", "hub-url.json")
_LIFETIME = floor.SPAN
_LOOK_S, _SOON_S = 30.0, 60.0
"""How often the certificate is looked at; how soon a node asks again whose authority is gone."""
_SAME_REQUEST_S = 3600.0
"""So long the same question is asked again, so that its answer may be the same too."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A certificate that is in force now; ``news`` is False when it was before."""

    serial: str
    issued: str
    expires: str
    news: bool


class Certificates:
    """Asks for this node's certificate and takes what answers it."""

    def __init__(
        self, state: Path, identity: NodeIdentity, ledger: Ledger, trust: TrustStore, clock: Clock
    ) -> None:
        self._state = state
        self._identity = identity
        self._ledger = ledger
        self._trust = trust
        self._clock = clock
        self._refusals = Sparing()
        self._asked: tuple[float, bytes] | None = None

    def request(self, token: EnrolmentToken | None = None) -> bytes:
        """Return a signed request for a certificate; the first time this node's key is made.

        Raises:
            NoSpaceError, StateUnusableError: the key cannot be kept.
        """
        now = self._clock.monotonic()
        if token is None and self._asked and 0 <= now - self._asked[0] < _SAME_REQUEST_S:
            return self._asked[1]
        made = self._request(token)
        if token is None:
            self._asked = (now, made)
        return made

    def take(
        self, data: bytes, *, authority: str = "", what: str = "what came as a certificate"
    ) -> Taken:
        """Take a chain of certificates, or raise what stops it.

        Args:
            data: The chain in PEM, this node's own certificate first.
            authority: The SHA-256 of the hub's authority, as a token or a person said it; needed
                until a bundle names the authorities of this fleet.
            what: What the chain is called in an error, such as the file that it came from.

        Raises:
            RefusedError: with TRUST's code; noted in the audit stream, but sparingly.
            NotFoundError: nobody said whose certificates count.
        """
        try:
            return self._take(Chain.parse(data, what), authority)
        except RefusedError as error:
            why = self._refusals.why(error.what, self._clock.monotonic())
            if why is not None:
                self._note("certificate-refused", {"code": error.code, "why": why})
            raise

    def take_folder(self, medium: Path, *, authority: str = "") -> Taken:
        """Take the certificate that a stick carries for this node.

        Raises:
            NotFoundError: it carries none, or there is no such medium.
            RefusedError: as ``take``.
        """
        node = self._identity.node
        data, what = requests.read_answer(medium, node), f"{requests.answer_file(medium, node)}"
        return self.take(data, authority=authority, what=what)

    def export(self, medium: Path) -> None:
        """Write a request to a stick.

        Raises:
            NotFoundError, NoSpaceError, StateUnusableError: as ``courier.write``.
        """
        requests.write_request(medium, self._identity.node, self.request())

    def is_due(self) -> bool:
        """Whether another certificate is to be asked for; never before a first was taken.

        Also when what is here is damaged, is for a key that is gone, or of an authority that is.
        """
        if not (self._state / _CHAIN).exists():
            return False
        chain = self.chain()
        if chain is None or chain.is_due(self._now()):
            return True
        return not was_issued_by(chain, self.authorities())

    def is_of_another(self) -> bool:
        """Whether the certificate here is of an authority that does not count any more."""
        chain = self.chain()
        return chain is not None and not was_issued_by(chain, self.authorities())

    def is_unsure(self) -> bool:
        """Whether nobody here can say if the certificate has ended: the clock is lost."""
        return node_tls(self._state) is not None and not self._now().proven

    def has_ended(self) -> bool:
        """Whether the broker turns this node away, so that only other roads are left."""
        chain = self.chain()
        return chain is not None and self._now().at >= chain.expires

    def tls(self) -> Tls:
        """Return who this node is to the broker, as of now.

        Raises:
            NotFoundError: it was not enrolled yet.
        """
        files = node_tls(self._state)
        if files is None:
            raise NotFoundError(
                "this node has no certificate for the broker yet",
                hint="appliance enrol --hub URL --token TOKEN, or appliance enrol export STICK",
            )
        return Tls(*files, self.authorities(), self._surely_past)

    def chain(self) -> Chain | None:
        """Return the certificate that this node has, whatever it is worth now.

        None when there is none, it is damaged, or its key is not here any more.
        """
        chain, key = self._state / _CHAIN, self._state / _KEY
        if not chain.exists() or not key.exists():
            return None
        try:
            found = Chain.parse(chain.read_bytes())
        except MalformedError:
            return None
        return found if spki(found.own.public_key()) == self._key().public else None

    def authorities(self) -> tuple[str, ...]:
        """Return whose certificates count: as offline keys signed it, else as enrolment said."""
        hub = self._trust.hub()
        return hub_authorities(self._state) if hub is None else hub.ca

    def fingerprint(self) -> str:
        """Return what people compare before they approve this node's request."""
        return fingerprint(self._identity.node, self._identity.key.public, self._key().public)

    def status(self) -> dict[str, Any]:
        """Return how this node's certificate is, for people."""
        chain = self.chain()
        found = {
            "node": self._identity.node,
            "fingerprint": self.fingerprint(),
            "hub": hub_url(self._state),
        }
        if chain is None:
            return {**found, "certificate": None}
        said = {
            "serial": chain.serial,
            "issued": rfc3339(chain.issued),
            "expires": rfc3339(chain.expires),
            "due": self.is_due(),
            "ended": self.has_ended(),
        }
        return {**found, "certificate": said}

    def remember_hub(self, url: str) -> None:
        """Keep where the hub answers, for a renewal when the broker turns us away."""
        write_durably(self._state / _HUB, wire.dumps({"url": url}))

    def _request(self, token: EnrolmentToken | None) -> bytes:
        identity, director = self._identity, self._trust.director()
        org = "" if director is None else director.org
        me = identity.at(org, self._ledger.epoch)
        issued = self._now().at
        payload = {
            **me.fields(),
            "issued": rfc3339(issued),
            "expires": rfc3339(issued + _LIFETIME),
            "csr": self._key().request(identity.node),
            "nonce": secrets.token_hex(32),
            **({} if token is None else {"token": token.id}),
        }
        keys = [identity.key, *([] if token is None else [token.key])]
        return dsse.sign(Slot.REQUEST, wire.dumps(payload), *keys)

    def _take(self, chain: Chain, authority: str) -> Taken:
        now = self._now()
        pinned = self._pinned(chain, authority)
        authorities = (pinned,) if pinned else self.authorities()
        if not authorities:
            raise NotFoundError(
                "nothing has said yet whose certificates count here",
                hint="import a bundle that names the hub's authority, or name its hash: --ca HASH",
            )
        check_chain(chain, self._key().public, self._identity.node, authorities, now)
        known = self.chain()
        if known is not None and known.pem == chain.pem:
            if pinned and not self.authorities():  # it was damaged here
                write_durably(self._state / _AUTHORITY, pinned.encode())
            return _taken(known, news=False)
        is_older = known is not None and known.expires > chain.expires
        if is_older and known is not None and was_issued_by(known, authorities):
            raise ReplayError(
                f"the certificate ends at {rfc3339(chain.expires)}, before the one that is here"
            )
        if pinned:
            write_durably(self._state / _AUTHORITY, pinned.encode())
        write_durably(self._state / _CHAIN, chain.pem)
        self._asked = None
        taken = _taken(chain, news=True)
        self._note("certificate-taken", {"serial": taken.serial, "expires": taken.expires})
        return taken

    def _pinned(self, chain: Chain, authority: str) -> str:
        """Return the authority in a chain that has this hash, if that is what counts."""
        if not authority or self._trust.hub() is not None:
            return ""
        for found in chain.certificates[1:]:
            if authority_hash(found) == authority.lower():
                return found.public_bytes(Encoding.PEM).decode()
        raise ScopeError(
            "the answer is not of the hub that was named: its authority is another",
            hint="compare the hash with: appliance hub ca",
        )

    def _key(self) -> TlsKey:
        path = self._state / _KEY
        return FileTlsKey.open(path) if path.exists() else FileTlsKey.create(path)

    def _note(self, kind: str, body: dict[str, Any]) -> None:
        self._ledger.note(Fact(Stream.AUDIT, kind, rfc3339(self._clock.utc()), body)).result()

    def _surely_past(self) -> datetime.datetime:
        return floor.raised(self._ledger.read(meta.floor), floor.BUILT)

    def _now(self) -> Now:
        return floor.now(self._ledger.read(meta.floor), self._clock.utc())


class Renewal:
    """Asks for another certificate in time, by every road that there is."""

    def __init__(
        self, certificates: Certificates, state: Path, say: Callable[[bytes], bool]
    ) -> None:
        """``say`` sends a request over the broker; it returns False when the link is down."""
        self._certificates = certificates
        self._state = state
        self._say = say

    async def look(self) -> Again | None:
        """Ask if it is time; what is refused or not answered is asked again much later.

        Unless a bundle ended the authority: then nothing but the answer brings the link back, so
        it is asked for again soon.

        While the link is down the hub is asked itself, where enrolment found it: the broker may
        well be turning us away. A node without a clock asks too, as it cannot know; while its
        certificate is fresh it is answered with what it has.
        """
        certificates = self._certificates
        is_due = await asyncio.to_thread(certificates.is_due)
        if not is_due and not certificates.is_unsure():
            return Again(_LOOK_S)
        request = await asyncio.to_thread(certificates.request)
        if not self._say(request) and (url := hub_url(self._state)):
            try:
                await asyncio.to_thread(self._over_http, url, request)
            except ApplianceError as error:
                log.warning("the certificate was not renewed at %s: %s", url, error)
        return Again(_SOON_S) if await asyncio.to_thread(certificates.is_of_another) else None

    def _over_http(self, url: str, request: bytes) -> None:
        answer = asked_over_http(url, request, self._certificates.authorities())
        self._certificates.take(answer)


def asked_over_http(url: str, request: bytes, ca: Sequence[str] = ()) -> bytes:
    """Hand a request to the hub and return the chain that it answers, verified by nobody yet.

    Over HTTPS the authorities in ``ca`` are trusted beside the system's; over HTTP nobody needs to
    be, because the request holds no secret and the answer is verified by whoever takes it.

    Raises:
        ApplianceError: what the hub answered, as its own family.
        PeerUnreachableError: it did not answer.
        MalformedError: it answered something else.
    """
    hint = "check its address, and that appliance hub run runs"
    hub = HttpClient.over_tcp(url, "the hub", hint, ca=ca)
    body = {"request": wire.loads(request, what="the request for a certificate")}
    chain = hub.call("POST", "/api/v1/enrol", body).get("chain")
    if not isinstance(chain, str) or len(chain) > MAX_CHAIN_BYTES:
        raise MalformedError("the hub answered without a chain of certificates")
    return chain.encode()


def node_tls(state: Path) -> tuple[Path, Path] | None:
    """Return certificate and key that this node shows the broker; None before it was enrolled."""
    chain, key = state / _CHAIN, state / _KEY
    return (chain, key) if chain.exists() and key.exists() else None


def hub_authorities(state: Path) -> tuple[str, ...]:
    """Return the authority that enrolment named; it counts until a bundle names others.

    Nobody's when the file is damaged: it has to be named again.
    """
    path = state / _AUTHORITY
    try:
        return (Chain.parse(path.read_bytes()).pem.decode(),) if path.exists() else ()
    except MalformedError:
        return ()


def hub_url(state: Path) -> str:
    """Return where the hub answered at enrolment; empty when it was never asked there."""
    path = state / _HUB
    if not path.exists():
        return ""
    return str(wire.loads(path.read_bytes(), what=str(path)).get("url", ""))


def _taken(chain: Chain, *, news: bool) -> Taken:
    return Taken(chain.serial, rfc3339(chain.issued), rfc3339(chain.expires), news)
