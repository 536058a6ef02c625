"""The audit log that this node keeps: verified against witnesses, and let go when its time is over.

The chain alone shows a record that was changed, left out or swapped. That the end was cut off shows
only against a witness: a receipt that was carried away, or number and digits in the shift book.
"""

import asyncio
import datetime
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.errors import CorruptError, IncompleteError, ScopeError, UsageError
from appliance.kit.clock import Clock, rfc3339
from appliance.ledger import chain, meta, retained, streams
from appliance.ledger.db import Ledger
from appliance.ledger.head import Head
from appliance.ledger.streams import Stream
from appliance.node import site
from appliance.node.identity import NodeIdentity
from appliance.trust import floor, receipt

KEEP = datetime.timedelta(days=365)
"""How long acknowledged records stay where the site's document does not say."""

KEEP_AT_LEAST = datetime.timedelta(days=30)
"""Whatever a site's document says: it may come from a hub that was taken over."""

_DIGITS = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True, slots=True)
class Witness:
    """A head that was seen at some time; ``hash`` may be its first digits. ``what`` names it."""

    seq: int
    hash: str
    what: str


@dataclass(frozen=True, slots=True)
class Verified:
    """What held. ``first`` and ``last`` are the numbers of the records that are kept here.

    ``witnesses`` is how many heads were held against them, beside this ledger's own.
    """

    epoch: str
    first: int
    last: int
    hash: str
    witnesses: int


def spoken(heads: Iterable[Mapping[str, Any]]) -> Iterator[Witness]:
    """Return heads that a person read somewhere: number and at least 8 digits.

    Raises:
        UsageError: one is not that.
    """
    for head in heads:
        seq, digits = head.get("seq"), head.get("hash")
        if type(seq) is not int or seq < 1 or not isinstance(digits, str):
            raise UsageError("a witness is the number of a record and the digits of its head")
        if not _DIGITS.fullmatch(digits):
            raise UsageError(f"{digits[:80]!r} is not 8 to 64 digits of a head")
        yield Witness(seq, digits, f"the head that was given for {seq}")


def signed(receipts: Sequence[bytes], me: NodeIdentity, epoch: str) -> Iterator[Witness]:
    """Return the heads that this node signed into receipts.

    Raises:
        RefusedError: one is not this node's, or of another ledger of it.
    """
    for data in receipts:
        found = receipt.open_receipt(data, {me.key.public}, None, me.node)
        if found.epoch != epoch:
            raise ScopeError(
                f"receipt {found.seq} is of the ledger {found.epoch}, this one is {epoch}",
                hint="this node was restored since; use a receipt that was made after that",
            )
        seq, digest = found.audit
        yield Witness(seq, digest, f"receipt {found.seq}")


def verify(ledger: Ledger, witnesses: Iterable[Witness]) -> Verified:
    """Recompute the chain over what is kept, and hold it against every witness. Blocking.

    Raises:
        IncompleteError: a record is missing, or the end was cut off; or a witness is older than
            what is kept.
        CorruptError: a record is not the one that was linked, or that a witness saw.
    """
    found = list(witnesses)
    begin = ledger.read(retained.start)  # before the end: what is let go meanwhile was there
    records = ledger.read(lambda db: [r for r in retained.records(db) if r[0] > begin.seq])
    head = ledger.read(chain.head)
    records = [r for r in records if r[0] <= head.seq]
    known = _agreed([*found, Witness(head.seq, head.hash, "the ledger's own head")])
    for witness in found:
        if witness.seq < begin.seq:
            raise IncompleteError(
                f"{witness.what} saw the record {witness.seq}; what is kept here begins behind "
                f"{begin.seq}",
                hint="use a newer witness: older records are at the hub alone",
            )
    if not records:
        _compare(begin, known)
        return Verified(ledger.epoch, begin.seq + 1, begin.seq, begin.hash, len(found))
    before = {begin.seq: begin.hash}
    _compare(begin, {n: h for n, h in known.items() if n == begin.seq})
    reached = chain.verify(records, {**known, **before})
    return Verified(ledger.epoch, records[0][0], reached.seq, reached.hash, len(found))


def _compare(head: Head, known: Mapping[int, str]) -> None:
    for seq, digits in known.items():
        if seq > head.seq:
            raise IncompleteError(
                f"the audit stream ends at {head.seq}, but a witness saw {seq} records"
            )
        if not head.hash.startswith(digits):
            raise CorruptError(f"the audit records up to {seq} are not those that a witness saw")


def _agreed(witnesses: Iterable[Witness]) -> dict[int, str]:
    """Return heads by number, the longest of each; two that differ are proof enough."""
    known: dict[int, str] = {}
    for witness in witnesses:
        other = known.setdefault(witness.seq, witness.hash)
        longer, shorter = sorted((other, witness.hash), key=len, reverse=True)
        if not longer.startswith(shorter):
            raise CorruptError(
                f"{witness.what} contradicts another witness of the record {witness.seq}: "
                "the audit log was rewritten, or one of the two is of another ledger"
            )
        known[witness.seq] = longer
    return known


@dataclass(frozen=True, slots=True)
class AuditKeeper:
    """Lets go of audit records when the site's retention is over."""

    ledger: Ledger
    clock: Clock

    async def look(self) -> None:
        """Let go of what may go."""
        await asyncio.to_thread(self.tend)

    def tend(self) -> int:
        """Let go of what may go; return how many records. Blocking.

        Raises:
            NoSpaceError, StateUnusableError: the ledger cannot be written.
        """
        now = floor.now(self.ledger.read(meta.floor), self.clock.utc())
        keep = max(self.ledger.read(site.audit_retention) or KEEP, KEEP_AT_LEAST)
        before = rfc3339(now.at - keep) if now.proven else None
        gone = 0
        while count := self.ledger.record(
            lambda db: retained.trim(db, streams.position(db, Stream.AUDIT).acked_upto, before)
        ).result():
            gone += count
        return gone
