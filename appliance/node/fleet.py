"""What the hub sends to this node: TRUST's second algorithm, up to the durable transaction."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any

from appliance.cache import catalog
from appliance.core import reading, rollback
from appliance.core.documents import Document, ModelDeployment
from appliance.core.ids import Digest
from appliance.core.model import REVOKED
from appliance.errors import BadDocumentError, MalformedError, RefusedError, RevokedError
from appliance.kit.clock import Clock, rfc3339
from appliance.kit.sparing import Sparing
from appliance.ledger import meta, streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream
from appliance.node import desired
from appliance.node.desired import FleetWord
from appliance.planner.select import select
from appliance.trust import envelope, floor
from appliance.trust.documents import Director
from appliance.trust.envelope import Accepted, Addressee, Slot
from appliance.trust.store import TrustStore

log = logging.getLogger(__name__)
_LONGEST_REASON = 300


class FleetInbox:
    """Takes the hub's envelopes, and refuses what it must."""

    def __init__(
        self, me: Addressee, trust: TrustStore, ledger: Ledger, clock: Clock,
        changed: Callable[[], None],
    ) -> None:  # fmt: skip
        self._me = me
        self._trust = trust
        self._ledger = ledger
        self._clock = clock
        self._changed = changed
        self.refused = ""
        self._refusals = Sparing()
        self._held: bytes | None = None
        self.waits_for = ""

    async def look_again(self) -> None:
        """Try the word that waits once more, because a bundle may have brought what it names.

        One that is refused by now waits no longer; whoever brought the bundle did not fail.
        """
        if self._held is None:
            return
        try:
            await self.desired(self._held)
        except RefusedError as error:
            log.warning("refused what waited from the hub (%s): %s", error.code, error)
            self._held, self.waits_for = None, ""

    async def desired(self, data: bytes) -> None:
        """Accept a generation of the fleet's word, or raise what stops it.

        Raises:
            RefusedError: with TRUST's code; noted in the audit stream, but never so often that
                whoever reaches the broker could fill the disk.
        """
        director = self._director()
        if director is None:
            self._hold(data, "it waits for a bundle that names the director of this fleet")
            return
        try:
            await self._desired(data, director)
        except RefusedError as error:
            self.refused = error.what[:_LONGEST_REASON]
            await self._note("fleet-refused", error)
            raise
        self.refused = ""

    async def _desired(self, data: bytes, director: Director) -> None:
        accepted = envelope.accept(data, Slot.DESIRED, director.keys, self._me.fields())
        if not envelope.check_director_epoch(accepted.payload, director.epoch):
            self._hold(data, "it waits for a bundle that names its director")
            return
        envelope.check_expiry(accepted, self._now())
        generation = envelope.whole(accepted.payload, "gen")
        if not self._ledger.read(partial(_is_news, epoch=director.epoch, accepted=accepted)):
            return
        documents = _documents(accepted)
        if missing := self._missing(documents):
            self._hold(data, f"generation {generation} waits for a bundle with {missing}")
            return
        digest = desired.digest_of(documents)
        heard = self._ledger.read(partial(_heard, epoch=director.epoch))
        back = rollback.check(accepted.payload, generation, digest, heard)
        self._held, self.waits_for = None, ""
        new = FleetWord(director.epoch, generation, accepted.hash, documents)
        body: dict[str, Any] = {
            "generation": generation,
            "hash": accepted.hash,
            "documents": len(documents),
        }
        if back is not None:
            body["rollback"] = back.to_wire()
        fact = Fact(Stream.AUDIT, "fleet-accepted", rfc3339(self._clock.utc()), body)
        follow = partial(_follow, word=new, accepted=accepted, digest=digest, fact=fact)
        if await asyncio.wrap_future(self._ledger.record(follow)):
            self._changed()

    async def ack(self, data: bytes) -> None:
        """Free what the hub says it has committed.

        Raises:
            RefusedError: it is not the hub's own, or is malformed; noted, but sparingly.
        """
        director = self._director()
        if director is None:
            return
        try:
            await self._ack(data, director)
        except RefusedError as error:
            await self._note("ack-refused", error)
            raise

    async def _ack(self, data: bytes, director: Director) -> None:
        accepted = envelope.accept(data, Slot.ACK, director.sync_keys, self._me.fields())
        envelope.check_expiry(accepted, self._now())
        told = accepted.payload.get("streams")
        if not isinstance(told, dict):
            raise MalformedError("an acknowledgement without streams")
        for stream in Stream:
            entry = told.get(stream)
            if not isinstance(entry, dict) or entry.get("epoch") != self._me.db_epoch:
                continue
            upto, batch_hash = envelope.whole(entry, "upto"), str(entry.get("hash"))
            free = partial(streams.acknowledge, stream=stream, upto=upto, batch_hash=batch_hash)
            await asyncio.wrap_future(self._ledger.record(free))

    def _director(self) -> Director | None:
        return self._trust.director()

    def _now(self) -> floor.Now:
        return floor.now(self._ledger.read(meta.floor), self._clock.utc())

    def _missing(self, documents: tuple[Document, ...]) -> str:
        """Step 9: return the models that no bundle brought, or that the newest does not list.

        What runs goes on until one does.

        Raises:
            RevokedError: one is denied by name, so that waiting would be in vain.
        """
        listed, catalogue = self._trust.listed(), self._ledger.read(catalog.variants)
        denied = listed.denied(catalogue)
        missing = []
        for document in documents:
            if not isinstance(document, ModelDeployment):
                continue
            model = document.spec.model
            listed.revoked.check(Digest(model.partition("@")[2]), model)
            choice = select(document, catalogue, denied)
            if not choice.candidates and choice.reason == REVOKED:
                raise RevokedError(choice.why)
            if not choice.candidates:
                missing.append(model)
        return ", ".join(missing)

    def _hold(self, data: bytes, why: str) -> None:
        self._held = data
        if why != self.waits_for:
            self.waits_for = why
            log.info("the hub's word waits: %s", why)
            self._changed()

    async def _note(self, kind: str, error: RefusedError) -> None:
        why = self._refusals.why(error.what[:_LONGEST_REASON], self._clock.monotonic())
        if why is None:
            return
        body = {"code": error.code, "why": why}
        at = rfc3339(self._clock.utc())
        await asyncio.wrap_future(self._ledger.note(Fact(Stream.AUDIT, kind, at, body)))


def _is_news(db: sqlite3.Connection, epoch: int, accepted: Accepted) -> bool:
    """Step 8. A director that offline keys named anew counts from the start.

    A thief of the key before may have used up every number there is; and nothing of an earlier
    epoch comes back, for step 6 refuses it.
    """
    word, number = desired.fleet(db), envelope.whole(accepted.payload, "gen")
    if _is_named_anew(word, epoch):
        return True
    return envelope.check_order(number, accepted, word.generation, word.hash)


def _is_named_anew(last: FleetWord, epoch: int) -> bool:
    return 0 < last.director_epoch < epoch


def _heard(db: sqlite3.Connection, epoch: int) -> dict[int, str]:
    """Return what this director said before; what the one before said is no going back."""
    return {} if _is_named_anew(desired.fleet(db), epoch) else desired.heard(db)


def _follow(
    db: sqlite3.Connection, word: FleetWord, accepted: Accepted, digest: str, fact: Fact
) -> bool:
    """Step 10, and step 8 once more: the other road may have brought a newer word meanwhile."""
    if not _is_news(db, word.director_epoch, accepted):
        return False
    if _is_named_anew(desired.fleet(db), word.director_epoch):
        desired.forget_heard(db)
    desired.set_fleet(db, word)
    desired.hear(db, word.generation, digest)
    streams.append(db, fact)
    return True


def _documents(accepted: Accepted) -> tuple[Document, ...]:
    found = accepted.payload.get("documents")
    if not isinstance(found, list):
        raise MalformedError("the hub's word holds no documents")
    try:
        documents = tuple(reading.from_wire(d, "the hub's word") for d in found)
    except BadDocumentError as error:
        raise MalformedError(error.what) from error
    names = [(d.kind, d.name) for d in documents]
    if len(set(names)) != len(names):
        raise MalformedError("the hub's word names one object twice")
    return documents
