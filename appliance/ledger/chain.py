"""The audit stream's hash chain: each record is linked to all before it, so that a cut shows.

The head after a record is ``sha256(head before it || sha256(record))``, over the record's canonical
JSON. Linking the record's own hash, not its bytes, lets who holds a gap record (which states that
hash) go on counting. A head that was signed into a receipt, or copied into the shift book, is a
witness: whoever cuts or rewrites what lies before it is found out. What was cut after the newest
witness is not.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence

from appliance.errors import CorruptError, IncompleteError
from appliance.ledger import retained
from appliance.ledger.head import GENESIS, Head

__all__ = ["GENESIS", "Head", "advance", "head", "start", "verify"]

_HEAD = "audit-head"
_START = "audit-start"


def head(db: sqlite3.Connection) -> Head:
    """Return the newest head."""
    return _read(db, _HEAD)


def start(db: sqlite3.Connection) -> Head:
    """Return where the chain begins: after the records of a release that had none."""
    return _read(db, _START)


def advance(db: sqlite3.Connection, first: int, records: Sequence[bytes]) -> None:
    """Link records, in the transaction that numbers them from ``first`` on, and keep them."""
    known = _read(db, _HEAD)
    if known.seq != first - 1:
        known = Head(first - 1)
        _write(db, _START, known)
    retained.keep(db, known, records)
    for record in records:
        known = known.after(record)
    _write(db, _HEAD, known)


def verify(records: Iterable[tuple[int, bytes]], witnesses: Mapping[int, str]) -> Head:
    """Recompute the chain over a run of records, and hold it against every witness in it.

    Args:
        records: Their numbers and their bytes as they were linked, in order.
        witnesses: Heads by number, whole or their first digits. A whole one must stand for what
            lies before the first record; 0 is known to be ``GENESIS``.

    Returns:
        The head after the last record.

    Raises:
        IncompleteError: a record is missing: in the run, before it, or behind its end.
        CorruptError: the records are not those that a witness saw.
    """
    known = {0: GENESIS, **witnesses}
    at: Head | None = None
    for seq, record in records:
        if at is None:
            at = _before(seq, known)
        if seq != at.seq + 1:
            raise IncompleteError(f"the audit record {at.seq + 1} is missing: {seq} follows")
        at = at.after(record)
        if not at.hash.startswith(known.get(seq, at.hash)):
            raise CorruptError(f"the audit records up to {seq} are not those that a witness saw")
    last, newest = (0 if at is None else at.seq), max(known)
    if newest > last:
        raise IncompleteError(
            f"the audit stream ends at {last}, but a witness saw {newest} records",
            hint="the end was cut off, or the state folder was put back to an earlier day",
        )
    return at or Head()


def _before(first: int, known: Mapping[int, str]) -> Head:
    if first - 1 not in known:
        raise IncompleteError(f"nothing vouches for what lies before the audit record {first}")
    return Head(first - 1, known[first - 1])


def _read(db: sqlite3.Connection, key: str) -> Head:
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return Head() if row is None else Head.parse(str(row[0]))


def _write(db: sqlite3.Connection, key: str, value: Head) -> None:
    db.execute(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
        (key, str(value)),
    )
