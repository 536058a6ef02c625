"""Taking the hub's answer to this node's nonce: the time, by whichever road it came.

TRUST's second algorithm for the slot ``dn/time``. An answer raises the floor once: it names the
nonce that waits, and that is used up in the same transaction. One that is replayed, or comes on the
slower of two sticks, is refused, and the floor never goes down.
"""

import datetime
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from appliance.bundle.format import courier
from appliance.bundle.media.medium import FolderMedium, Medium
from appliance.core.ids import NodeId
from appliance.errors import (
    ApplianceError,
    EarlierLedgerError,
    NotFoundError,
    RefusedError,
    ReplayError,
)
from appliance.kit.clock import Clock, rfc3339
from appliance.kit.sparing import Sparing
from appliance.ledger import meta, receipts, streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream
from appliance.trust import envelope, floor
from appliance.trust.dsse import MAX_ENVELOPE_BYTES
from appliance.trust.envelope import Addressee, Slot
from appliance.trust.store import TrustStore


@dataclass(frozen=True, slots=True)
class TimeTaken:
    """A time that was taken: what the hub signed, and the floor after it."""

    time: str
    floor: str


class AnswerTaker:
    """Takes what the hub signed for this node, from the wire or from a stick."""

    def __init__(
        self, node: NodeId, node_key: str, ledger: Ledger, trust: TrustStore, clock: Clock
    ) -> None:
        self._node = node
        self._path = f"dn/{node}/{courier.TIME}"
        self._node_key = node_key
        self._ledger = ledger
        self._trust = trust
        self._clock = clock
        self._refusals = Sparing()

    def take_time(self, data: bytes) -> TimeTaken:
        """Take a signed time, or raise what stops it.

        Raises:
            RefusedError: with TRUST's code; noted in the audit stream, but sparingly.
            NotFoundError: no bundle has named who may sign a time for this node.
        """
        found = self._audited(data, again=False)
        assert found is not None
        return found

    def hear_time(self, data: bytes) -> TimeTaken | None:
        """Take a signed time off the wire; None when it answers what was answered last.

        A hub says it again with every connection, until it hears of the next question.

        Raises:
            RefusedError, NotFoundError: as ``take_time``.
        """
        return self._audited(data, again=True)

    def _audited(self, data: bytes, *, again: bool) -> TimeTaken | None:
        try:
            return self._take_time(data, again=again)
        except EarlierLedgerError:
            raise  # kept somewhere since this node was put back: nobody attacks
        except RefusedError as error:
            why = self._refusals.why(error.what, self._clock.monotonic())
            if why is not None:
                body = {"code": error.code, "why": why}
                self._ledger.note(Fact(Stream.AUDIT, "time-refused", self._now(), body)).result()
            raise

    def take_folder(self, medium: Path) -> TimeTaken:
        """Take the time that a stick carries for this node.

        Raises:
            NotFoundError: it carries none, or there is no such medium.
            RefusedError: as ``take_time``.
        """
        courier.check_medium(medium)
        found = FolderMedium(medium)
        if found.size(self._path) is None:
            raise NotFoundError(
                f"{medium} carries no time for {self._node}",
                hint=f"appliance receipts export {medium}, then at the hub: "
                f"appliance hub receipts import {medium}",
            )
        return self.take_time(found.read(self._path, MAX_ENVELOPE_BYTES))

    def take_along(self, medium: Medium) -> TimeTaken | ApplianceError | None:
        """Take what a bundle's medium carries beside the bundle; None when that is nothing.

        What is refused here, such as an answer that was taken before, is no reason to refuse the
        bundle; so it is returned, not raised.
        """
        try:
            if medium.size(self._path) is None:
                return None
            return self.take_time(medium.read(self._path, MAX_ENVELOPE_BYTES))
        except ApplianceError as error:
            return error

    def _take_time(self, data: bytes, *, again: bool) -> TimeTaken | None:
        director = self._trust.director()
        if director is None:
            raise NotFoundError(
                "no bundle has named who may sign a time for this node",
                hint="import a bundle of the organisation first",
            )
        earlier = self._ledger.read(meta.earlier_epochs)
        me = Addressee(director.org, self._node, self._node_key, self._ledger.epoch)
        accepted = envelope.accept(data, Slot.TIME, director.sync_keys, me.fields(), earlier)
        known = self._ledger.read(meta.floor)
        envelope.check_expiry(accepted, floor.now(known, self._clock.utc()))
        nonce, time = envelope.answered_nonce(accepted)

        def effect(db: sqlite3.Connection) -> datetime.datetime | None:
            if not receipts.use_nonce(db, nonce):
                if again and receipts.used_nonce(db) == nonce:
                    return None
                raise ReplayError(
                    "this time answers a question that does not wait for an answer",
                    hint="it was taken before, or another stick was quicker; to ask again: "
                    "appliance receipts export FOLDER",
                )
            for key in accepted.signers:
                meta.add_online_time(db, key, time)
            reached = floor.raised(meta.floor(db), floor.BUILT)
            body = {"time": rfc3339(time), "floor": rfc3339(reached)}
            streams.append(db, Fact(Stream.AUDIT, "time-taken", self._now(), body))
            return reached

        reached = self._ledger.record(effect).result()
        return None if reached is None else TimeTaken(rfc3339(time), rfc3339(reached))

    def _now(self) -> str:
        return rfc3339(self._clock.utc())
