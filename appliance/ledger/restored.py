"""A ledger that came out of a backup: it begins a new epoch, so that nothing of it counts twice.

What the copy had not sent yet may have been sent since by the ledger that was lost; so none of it
is sent again under the old numbers, and an audit record, the first of the new epoch, says how far
each stream of the old one had come. Who holds the rest is the hub, or nobody.
"""

import secrets
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from appliance.ledger import chain, meta, retained, streams
from appliance.ledger.head import Head
from appliance.ledger.streams import Fact, Stream

_OF_AN_EPOCH = frozenset({"outbox", "batches", "streams", "receipts", "counted", "levels"})
"""Tables whose rows are numbered within an epoch."""


@dataclass(frozen=True, slots=True)
class NewEpoch:
    """What a restore began, and what it left behind: the old ledger's epoch and its audit head."""

    epoch: str
    old_epoch: str
    old_head: Head
    unsent: int


def begin_epoch(
    db: sqlite3.Connection, at: str, made_at: str, known: Iterable[str] = ()
) -> NewEpoch:
    """Turn a restored copy into a ledger of its own, inside one transaction.

    Streams and receipts count from 1 again; what waited to be sent is gone from it. Commands of
    the old epoch are refused by the epoch they name.

    Args:
        db: The copy.
        at: The time of the restore, UTC.
        made_at: When the backup was made, as it says.
        known: Epochs of other ledgers that this node had, such as the one that made way.
    """
    old = str(db.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()[0])
    head, stood = chain.head(db), _positions(db)
    db.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (secrets.token_hex(8),))
    here = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    for table in _OF_AN_EPOCH & here:
        db.execute(f"DELETE FROM {table}")  # noqa: S608 - names of our own
    db.execute("DELETE FROM meta WHERE key IN ('time-nonce', 'receipts-omitted')")
    meta.add_earlier_epochs(db, (old, *known))
    retained.begin(db, Head())
    body: dict[str, Any] = {
        "epoch": old, "audit": head.to_wire(), "backup": made_at, "streams": stood
    }  # fmt: skip
    streams.append(db, Fact(Stream.AUDIT, "restored", at, body))
    new = str(db.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()[0])
    unsent = sum(s["written"] - s["acknowledged"] for s in stood.values())
    return NewEpoch(new, old, head, unsent)


def _positions(db: sqlite3.Connection) -> dict[str, dict[str, int]]:
    found = {s: streams.position(db, s) for s in Stream}
    return {
        str(s): {"written": p.written, "acknowledged": p.acked_upto}
        for s, p in found.items()
        if p.written
    }
