"""What the hub sends to this node: TRUST's second algorithm, up to the durable transaction."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from appliance.cache import catalog
from appliance.core import reading, rollback, wire
from appliance.core.documents import Document, ModelDeployment
from appliance.core.ids import Digest
from appliance.core.model import REVOKED
from appliance.core.rollback import Rollback
from appliance.errors import (
    BadDocumentError,
    EarlierLedgerError,
    EquivocationError,
    MalformedError,
    RefusedError,
    RevokedError,
)
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
_WHERE = "the hub's word"


@dataclass(frozen=True, slots=True)
class _Judged:
    """A word that may be put in force, and what is remembered of it."""

    word: FleetWord
    texts: tuple[str, ...]
    rollback: Rollback | None


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
        self._known: dict[str, Document] = {}
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

    async def desired(self, data: bytes) -> bool:
        """Accept a generation of the fleet's word, or raise what stops it.

        Returns:
            Whether it said anything new.

        Raises:
            RefusedError: with TRUST's code; noted in the audit stream, but never so often that
                whoever reaches the broker could fill the disk.
        """
        director = self._director()
        if director is None:
            self._hold(data, "it waits for a bundle that names the director of this fleet")
            return True
        try:
            is_new = await self._desired(data, director)
        except EarlierLedgerError:
            raise  # a broker or a stick kept it since: nobody attacks
        except RefusedError as error:
            self.refused = error.what[:_LONGEST_REASON]
            await self._note("fleet-refused", error)
            raise
        self.refused = ""
        return is_new

    async def _desired(self, data: bytes, director: Director) -> bool:
        found = self.judged(data, director)
        if found is None:
            return self._held is data
        new, back = found.word, found.rollback
        self._held, self.waits_for = None, ""
        body: dict[str, Any] = {
            "generation": new.generation, "hash": new.hash, "documents": len(new.documents),
            **({} if back is None else {"rollback": back.to_wire()}),
        }  # fmt: skip
        fact = Fact(Stream.AUDIT, "fleet-accepted", rfc3339(self._clock.utc()), body)

        text, digest = f"[{','.join(found.texts)}]", rollback.digest_of(found.texts)

        def effect(db: sqlite3.Connection) -> bool:
            """Step 10, and step 8 once more: the other road may have been quicker."""
            known, _ = _standing(db, new.director_epoch)
            same = Accepted({}, new.hash, _WHERE)
            if not envelope.check_order(new.generation, same, *known):
                return False
            if desired.director_epoch(db) < new.director_epoch:
                desired.forget_heard(db)
            desired.set_fleet(db, new, text)
            desired.hear(db, new.generation, digest)
            streams.append(db, fact)
            return True

        is_new = await asyncio.wrap_future(self._ledger.record(effect))
        if is_new:
            self._changed()
        return is_new

    def judged(self, data: bytes, director: Director) -> "_Judged | None":
        """Steps 1 to 9: return what to put in force; None for a repetition, and for what waits.

        Raises:
            RefusedError: with TRUST's code.
        """
        accepted = envelope.accept(
            data, Slot.DESIRED, director.keys, self._me.fields(), self._earlier()
        )
        if not envelope.check_director_epoch(accepted.payload, director.epoch):
            self._hold(data, "it waits for a bundle that names its director")
            return None
        envelope.check_expiry(accepted, self._now())
        generation = envelope.whole(accepted.payload, "gen")
        known, heard = self._ledger.read(partial(_standing, epoch=director.epoch))
        if not envelope.check_order(generation, accepted, *known):
            return None
        texts, documents = self._read(accepted)
        back = rollback.check(accepted.payload, generation, rollback.digest_of(texts), heard)
        if missing := self._missing(documents):
            self._hold(data, f"generation {generation} waits for a bundle with {missing}")
            return None
        word = FleetWord(director.epoch, generation, accepted.hash, documents)
        return _Judged(word, texts, back)

    def _read(self, accepted: Accepted) -> tuple[tuple[str, ...], tuple[Document, ...]]:
        """Return the documents' texts and what they say; what was read before is not read again."""
        found = accepted.payload.get("documents")
        if not isinstance(found, list):
            raise MalformedError("the hub's word holds no documents")
        written = {wire.dumps(document).decode(): document for document in found}
        texts, known = tuple(sorted(written)), self._known
        try:
            read = {t: known.get(t) or reading.from_wire(written[t], _WHERE) for t in texts}
        except BadDocumentError as error:
            raise MalformedError(error.what) from error
        documents = tuple(read.values())
        names = [(d.kind, d.name) for d in documents]
        if len(set(names)) != len(found):
            raise MalformedError("the hub's word names one object twice")
        self._known = read
        return texts, documents

    async def ack(self, data: bytes) -> bool:
        """Free what the hub says it has committed.

        Returns:
            Whether it freed anything.

        Raises:
            RefusedError: it is not the hub's own, or is malformed; noted, but sparingly.
        """
        director = self._director()
        if director is None:
            return True
        try:
            return await self._ack(data, director)
        except EarlierLedgerError:
            raise
        except RefusedError as error:
            await self._note("ack-refused", error)
            raise

    async def _ack(self, data: bytes, director: Director) -> bool:
        accepted = envelope.accept(
            data, Slot.ACK, director.sync_keys, self._me.fields(), self._earlier()
        )
        envelope.check_expiry(accepted, self._now())
        told = accepted.payload.get("streams")
        if not isinstance(told, dict):
            raise MalformedError("an acknowledgement without streams")
        entries = [
            (stream, envelope.whole(entry, "upto"), str(entry.get("hash")))
            for stream in Stream
            if isinstance(entry := told.get(stream), dict)
            and entry.get("epoch") == self._me.db_epoch
        ]
        free = partial(_free, told=entries)
        strange, is_new = await asyncio.wrap_future(self._ledger.record(free))
        if strange:
            raise EquivocationError(
                f"the hub acknowledges what this node never sent, of {strange}",
                hint="another machine may have its key, or its state folder was put back: "
                "compare appliance audit verify with the hub",
            )
        return is_new

    def _director(self) -> Director | None:
        return self._trust.director()

    def _earlier(self) -> tuple[str, ...]:
        return self._ledger.read(meta.earlier_epochs)

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
        deployments = (d for d in documents if isinstance(d, ModelDeployment))
        asked = {(d.spec.model, d.spec.quantization, d.spec.engine): d for d in deployments}
        for document in asked.values():
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


def _free(db: sqlite3.Connection, told: Iterable[tuple[Stream, int, str]]) -> tuple[str, bool]:
    """Free what was acknowledged, all in one transaction.

    Returns the stream that is not as told, and whether anything was freed.

    One below the last is an old word come late, and one like it a repetition: both do nothing.
    """
    strange, is_new = "", False
    for stream, upto, batch_hash in told:
        if streams.acknowledge(db, stream, upto, batch_hash):
            is_new = True
            continue
        known = streams.position(db, stream)
        is_old = upto < known.acked_upto or (upto, batch_hash) == (
            known.acked_upto,
            known.acked_hash,
        )
        strange = strange if is_old else strange or stream
    return strange, is_new


def _standing(db: sqlite3.Connection, epoch: int) -> tuple[tuple[int, str], dict[int, str]]:
    """Return what step 8 compares a word with: the last, and what was said before.

    A director whom offline keys named anew counts from the start. A thief of the key before may
    have used up every number there is, and nothing of its epoch comes back: step 6 refuses it.
    """
    if desired.director_epoch(db) < epoch:
        return (0, ""), {}
    return desired.position(db), desired.heard(db)
