"""How a node gets its certificate: by a person's token or approval, and then by its own key.

A request is the same signed envelope whether it comes over HTTP, over the broker or on a stick. It
needs no time: what a repetition of an old one earns is a certificate for the same node's key. So a
node whose clock is lost is answered too.
"""

import asyncio
import datetime
import hmac
import re
import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from appliance.core.ids import NodeId, node_id
from appliance.errors import (
    ExpiredError,
    MalformedError,
    NotFoundError,
    ScopeError,
    SignatureError,
    UsageError,
)
from appliance.hub import roster
from appliance.hub.authority import CRL, Authority
from appliance.hub.roster import Issued, Token
from appliance.hub.store import NodeRow
from appliance.kit.clock import Clock, parse_rfc3339, rfc3339
from appliance.kit.commit import Effect, GroupCommit
from appliance.kit.files import write_durably
from appliance.sync.mqtt import Message
from appliance.sync.topics import NodeTopics
from appliance.trust import dsse
from appliance.trust.certificates import CertificateRequest, fingerprint
from appliance.trust.dsse import MAX_ENVELOPE_BYTES
from appliance.trust.enrolment import EnrolmentToken
from appliance.trust.envelope import Slot, accept
from appliance.trust.keys import public_key

T = TypeVar("T")
MOST_TOKEN_LIFE = datetime.timedelta(days=7)
_TOLD_FOR = datetime.timedelta(days=30)
"""How long a certificate is said again whenever there is occasion; a stick may take as long."""

_NONCE = re.compile(r"[0-9a-f]{64}")
_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,62}")
_WHAT = "the request for a certificate"


@dataclass(frozen=True, slots=True)
class Policy:
    """How long certificates are good, and how long after their end a node may still renew."""

    life: datetime.timedelta
    renew_expired: datetime.timedelta


@dataclass(frozen=True, slots=True)
class Asked:
    """A request whose signatures hold; ``fingerprint`` is what people compare."""

    node: NodeId
    key: str
    nonce: str
    request: CertificateRequest
    token: Token | None

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.node, self.key, self.request.public)


class Enrolment:
    """Takes requests by every road, issues, and revokes."""

    def __init__(
        self, org: str, state: Path, authority: Callable[[], Authority], db: GroupCommit,
        clock: Clock, policy: Policy,
    ) -> None:  # fmt: skip
        """``authority`` is asked at each use: a person may make another while the hub runs."""
        self._authority = authority
        self.on_gone: Callable[[str], None] = lambda _: None
        """Called with a node's name when its key is gone, on the event loop's thread."""
        self._org = org
        self._state = state
        self._db = db
        self._clock = clock
        self._policy = policy

    @property
    def authority(self) -> Authority:
        """Who issues now."""
        return self._authority()

    # --- the desk for what comes over the broker -------------------------------------------------

    async def take(self, row: NodeRow, _name: str | None, payload: bytes) -> None:
        """Answer a request that came on a node's own topic.

        Raises:
            RefusedError: it is not this node's, or may not be answered.
        """
        asked = self._opened(payload)
        if asked.node != row.node:
            raise ScopeError(f"{row.node} sent a request of {asked.node}")
        await self._answered(asked)

    def messages(self, row: NodeRow) -> Iterable[Message]:
        """Return a node's newest certificate while it is young: nobody says whether it arrived."""
        young = rfc3339(self._clock.utc() - _TOLD_FOR)
        newest = self._db.read(lambda db: roster.issued(db, row.node, row.key))[:1]
        topic, ours = NodeTopics(NodeId(row.node)).certificate, self.authority.pem.encode()
        return [
            Message(topic, found.chain)
            for found in newest
            if found.issued_at > young and found.chain.endswith(ours)
        ]

    # --- the other roads -------------------------------------------------------------------------

    async def answer(self, data: bytes) -> dict[str, Any]:
        """Answer a request that needs no person any more: with a token, or by a known key.

        Raises:
            RefusedError: with TRUST's code.
            NotFoundError: this hub knows no such node, and there is no token.
        """
        asked = self._opened(data)
        if asked.token is None:
            self._db.read(lambda db: _known(db, asked))  # strangers do not reach the writer
        return _wire(*await self._answered(asked))

    async def approve(
        self, data: bytes, compared: str, *, site: str = "", replaces: bool = False
    ) -> dict[str, Any]:
        """Answer a request that a person approves.

        Args:
            data: The request.
            compared: The fingerprint on the node's screen.
            site: Where the node is.
            replaces: The node takes the name over from another machine.

        Raises:
            ScopeError: the fingerprint is another.
            RefusedError: as ``answer``.
        """
        asked = self._opened(data)
        said = "".join(compared.split()).lower()
        if not hmac.compare_digest(said.encode(), asked.fingerprint.replace(" ", "").encode()):
            raise ScopeError(
                f"the fingerprint of this request is {asked.fingerprint}",
                hint="approve it only if the node's own screen shows the same",
            )
        admitted = _Admission(checked_site(site), replaces=replaces)
        return _wire(*await self._answered(asked, admitted))

    def look(self, data: bytes) -> Asked:
        """Return what a request says, its signatures verified; nothing is changed.

        Raises:
            RefusedError: it is not one.
        """
        return self._opened(data)

    # --- what people ask for ---------------------------------------------------------------------

    async def new_token(
        self, node: str, site: str, life: datetime.timedelta, *, replaces: bool = False
    ) -> EnrolmentToken:
        """Make a token with which one machine may become ``node``, once.

        Raises:
            UsageError: it is to last longer than a week, or the site is no label.
        """
        if not datetime.timedelta(0) < life <= MOST_TOKEN_LIFE:
            raise UsageError("a token lasts for some time, and at most for 7 days")
        made, now = EnrolmentToken.create(self.authority.hash), self._clock.utc()
        kept = Token(
            made.id, node, checked_site(site), made.key.public, replaces, rfc3339(now),
            rfc3339(now + life),
        )  # fmt: skip
        await self._write(lambda db: roster.add_token(db, kept))
        return made

    async def revoke(self, node: str, why: str) -> NodeRow:
        """Accept nothing of a node any more, here and at the broker.

        Raises:
            NotFoundError: there is no such node.
        """
        at = rfc3339(self._clock.utc())
        row = await self._write(lambda db: roster.revoke(db, node, why, at))
        self._gone(node)
        return row

    async def replace(self, node: str, key: str) -> int | None:
        """Give a node's name to another machine's key; return the generation it begins with.

        Raises:
            NotFoundError: there is no such node.
            RevokedError: the key was revoked.
        """
        at = rfc3339(self._clock.utc())
        found = await self._write(lambda db: roster.replace(db, node, key, at))
        self._gone(node)
        return found

    def crl(self) -> bytes:
        """Return the list of revoked certificates, in PEM, as of now."""
        return self._crl(self.authority)

    def write_crl(self) -> None:
        """Write the list to ``crl.pem``, for the broker."""
        authority = None
        while authority is not (newest := self.authority):  # another may be made meanwhile
            authority = newest
            write_durably(self._state / CRL, self._crl(authority))

    # ---------------------------------------------------------------------------------------------

    def _crl(self, authority: Authority) -> bytes:
        now = self._clock.utc()
        found = self._db.read(lambda db: roster.revoked_serials(db, rfc3339(now)))
        return authority.crl(found, now)

    def _opened(self, data: bytes) -> Asked:
        if len(data) > MAX_ENVELOPE_BYTES:
            raise MalformedError(f"{_WHAT} has {len(data)} bytes")
        said = dsse.unverified(data, what=_WHAT)
        try:
            node = node_id(str(said.get("node")))
        except ValueError as error:
            raise MalformedError(f"{_WHAT}: {error}") from error
        key, token = public_key(said.get("nodeKey")), self._token(said.get("token"))
        keys = {key} if token is None else {key, token.public}
        accepted = accept(data, Slot.REQUEST, keys, {"node": node, "nodeKey": key})
        if accepted.signers != keys:
            raise SignatureError(f"{_WHAT} is not signed by all the keys that it names")
        payload = accepted.payload
        if payload.get("org") not in ("", self._org):
            raise ScopeError(f"{_WHAT} is for another organisation than {self._org}")
        nonce = payload.get("nonce")
        if not isinstance(nonce, str) or not _NONCE.fullmatch(nonce):
            raise MalformedError(f"{_WHAT} holds no nonce of 256 bits")
        return Asked(node, key, nonce, CertificateRequest.parse(payload.get("csr"), node), token)

    def _token(self, token_id: object) -> Token | None:
        if token_id is None:
            return None
        return self._db.read(lambda db: roster.token(db, str(token_id)))

    async def _answered(
        self, asked: Asked, admitted: "_Admission | None" = None
    ) -> tuple[str, bytes]:
        now = self._clock.utc()
        before = self._db.read(lambda db: roster.find(db, asked.node))
        chain = await self._write(lambda db: self._issue(db, asked, admitted, now))
        if before is not None and before.key != asked.key:
            self._gone(asked.node)
        return asked.node, chain

    def _gone(self, node: str) -> None:
        self.write_crl()
        self.on_gone(node)

    def _issue(
        self, db: sqlite3.Connection, asked: Asked, admitted: "_Admission | None",
        now: datetime.datetime,
    ) -> bytes:  # fmt: skip
        at = rfc3339(now)
        if asked.token is not None and admitted is None:
            roster.use_token(db, roster.token(db, asked.token.id), asked.node, asked.key, at)
            admitted = _Admission(asked.token.site, replaces=asked.token.replaces)
        if admitted is not None:
            _admit(db, asked, admitted, at)
        known = _known(db, asked)
        earlier, authority = roster.issued(db, asked.node, asked.key), self.authority
        if (repeated := self._repeated(earlier, asked, now, authority)) is not None:
            return repeated
        if admitted is None and earlier:
            self._check_end(earlier, asked, now)
        public = asked.request.csr.public_key()
        chain = authority.issue(known.node, public, now, self._policy.life)
        ends = rfc3339(chain.expires)
        roster.note_issued(
            db,
            Issued(chain.serial, asked.node, asked.key, asked.request.public, asked.nonce, at, ends,
                   chain.pem),
        )  # fmt: skip
        return chain.pem

    def _repeated(
        self, earlier: list[Issued], asked: Asked, now: datetime.datetime, authority: Authority
    ) -> bytes | None:
        """Return what was issued for this very question, or has most of its life before it."""
        ours = authority.pem.encode()
        for found in earlier:
            if found.public != asked.request.public or not found.chain.endswith(ours):
                continue
            begun, ends = parse_rfc3339(found.issued_at), roster.ends_at(found)
            if now < ends and (found.nonce == asked.nonce or now < begun + (ends - begun) / 2):
                return found.chain
        return None

    def _check_end(self, earlier: list[Issued], asked: Asked, now: datetime.datetime) -> None:
        """A node whose certificates have all ended renews by its keys alone, as policy allows."""
        last = max(earlier, key=roster.ends_at)
        ends = roster.ends_at(last)
        if now < ends:
            return
        hint = "approve it by its fingerprint, or enrol it with a token"
        if now - ends > self._policy.renew_expired:
            days = self._policy.renew_expired.days
            raise ExpiredError(
                f"the certificate of {asked.node} ended at {last.expires_at}, and this hub renews "
                f"up to {days} days after that",
                hint=hint,
            )
        if asked.request.public not in {found.public for found in earlier}:
            raise ScopeError(
                f"{asked.node} asks for another key after its certificate ended", hint=hint
            )

    def _write(self, effect: Effect[T]) -> Awaitable[T]:
        return asyncio.wrap_future(self._db.submit(effect))


@dataclass(frozen=True, slots=True)
class _Admission:
    """A person's word that a key is a node's: by a token, or by comparing fingerprints."""

    site: str
    replaces: bool


def checked_site(text: str) -> str:
    """Return a site's label; empty for none.

    Raises:
        UsageError: it is none.
    """
    if text and not _SITE.fullmatch(text):
        raise UsageError(f"{text[:80]!r} is not a site: 1 to 63 of A-Z, a-z, 0-9, ._- and spaces")
    return text


def _admit(db: sqlite3.Connection, asked: Asked, admitted: _Admission, at: str) -> None:
    known = roster.find(db, asked.node)
    if known is not None and known.key != asked.key and known.revoked_at is None:
        if not admitted.replaces:
            raise _other_key(asked.node)
        roster.replace(db, asked.node, asked.key, at)
    roster.admit(db, asked.node, asked.key, admitted.site, at)


def _known(db: sqlite3.Connection, asked: Asked) -> NodeRow:
    row = roster.find(db, asked.node)
    if row is None:
        raise NotFoundError(
            f"this hub knows no node {asked.node}",
            hint="enrol it with a token, or approve its request: appliance hub enrol import STICK",
        )
    roster.check_key(db, asked.key)
    if row.key != asked.key:
        raise _other_key(asked.node)
    return row


def _other_key(node: str) -> ScopeError:
    return ScopeError(
        f"{node} is known by another key",
        hint=f"give this machine another name; if it takes the place of {node}: "
        f"appliance hub token {node} --replace, which revokes the old key",
    )


def _wire(node: str, chain: bytes) -> dict[str, Any]:
    return {"node": node, "chain": chain.decode()}
