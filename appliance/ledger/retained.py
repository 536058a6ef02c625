"""The audit records that the node keeps for itself, when the hub has long had them.

Functions here work inside somebody's transaction or query on a connection they are given. An
acknowledgement frees the outbox; what is kept here goes only when its time is over, oldest first,
and only what the hub has acknowledged. The head before the oldest record stays, so that the rest
can still be verified. Records of an earlier epoch, from before a restore, come first.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from appliance.core import wire
from appliance.ledger.head import Head

MOST_RECORDS = 500_000
"""Acknowledged records that are kept at most, some 200 MiB: the disk has an end."""

_KEPT = "audit-kept"
_EPOCH = "coalesce((SELECT value FROM meta WHERE key = 'epoch'), '')"
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Kept:
    """An audit record as it was linked."""

    epoch: str
    seq: int
    record: bytes


def keep(db: sqlite3.Connection, before: Head, records: Sequence[bytes]) -> None:
    """Keep the records after ``before``, in the transaction that links them.

    An older release, to which this node went back for a while, kept none: then it begins here.
    """
    (last,) = db.execute(f"SELECT max(seq) FROM audit WHERE epoch = {_EPOCH}").fetchone()  # noqa: S608 - our own text
    if (start(db).seq if last is None else int(last)) != before.seq:
        begin(db, before)
    db.executemany(
        f"INSERT INTO audit VALUES ({_EPOCH}, ?, ?)",  # noqa: S608 - our own text
        [(seq, record.decode()) for seq, record in enumerate(records, before.seq + 1)],
    )


def begin(db: sqlite3.Connection, head: Head) -> None:
    """Note that the records after ``head`` are kept, and none before."""
    db.execute(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
        (_KEPT, str(head)),
    )


def start(db: sqlite3.Connection) -> Head:
    """Return the head before the oldest record of this epoch that is kept."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (_KEPT,)).fetchone()
    return Head() if row is None else Head.parse(str(row[0]))


def records(db: sqlite3.Connection) -> Iterator[tuple[int, bytes]]:
    """Yield the records of this epoch that are kept and linked to each other, in order."""
    rows = db.execute(
        f"SELECT seq, record FROM audit WHERE epoch = {_EPOCH} AND seq > ? ORDER BY seq",  # noqa: S608 - our own text
        (start(db).seq,),
    )
    for seq, record in rows:
        yield int(seq), str(record).encode()


def newest(db: sqlite3.Connection, most: int) -> list[Kept]:
    """Return the newest records of this epoch, oldest first."""
    rows = db.execute(
        f"SELECT epoch, seq, record FROM audit WHERE epoch = {_EPOCH} ORDER BY seq DESC LIMIT ?",  # noqa: S608 - our own text
        (most,),
    ).fetchall()
    return [Kept(epoch, seq, str(record).encode()) for epoch, seq, record in reversed(rows)]


def earlier(db: sqlite3.Connection) -> int:
    """Return how many records of earlier epochs are kept."""
    (count,) = db.execute(f"SELECT count(*) FROM audit WHERE epoch != {_EPOCH}").fetchone()  # noqa: S608 - our own text
    return int(count)


def trim(db: sqlite3.Connection, acknowledged: int, before: str | None) -> int:
    """Let go of some of the oldest records, and return how many; call it again while it does.

    Args:
        db: The ledger, inside a transaction.
        acknowledged: The number up to which the hub has the audit stream.
        before: Records of before this time may go, up to the first that is younger; None when
            nobody knows what time it is.
    """
    if gone := _trim_earlier(db, before):
        return gone
    oldest: list[tuple[int, bytes]] = []
    first = start(db).seq
    (last,) = db.execute(f"SELECT max(seq) FROM audit WHERE epoch = {_EPOCH}").fetchone()  # noqa: S608 - our own text
    surplus = 0 if last is None else int(last) - first - MOST_RECORDS
    for seq, record in records(db):
        young = before is None or not _is_before(record, before)
        if seq > acknowledged or len(oldest) == _AT_ONCE or (young and seq - first > surplus):
            break
        oldest.append((seq, record))
    if oldest:
        head = start(db)
        for _, record in oldest:
            head = head.after(record)
        begin(db, head)
        db.execute(f"DELETE FROM audit WHERE epoch = {_EPOCH} AND seq <= ?", (head.seq,))  # noqa: S608 - our own text
    return len(oldest)


def _trim_earlier(db: sqlite3.Connection, before: str | None) -> int:
    if before is None:
        return 0
    rows = db.execute(
        f"SELECT epoch, seq, record FROM audit WHERE epoch != {_EPOCH} ORDER BY rowid LIMIT ?",  # noqa: S608 - our own text
        (_AT_ONCE,),
    ).fetchall()
    gone = [(r[0], r[1]) for r in rows if _is_before(str(r[2]).encode(), before)]
    db.executemany("DELETE FROM audit WHERE epoch = ? AND seq = ?", gone)
    return len(gone)


def _is_before(record: bytes, moment: str) -> bool:
    return str(wire.loads(record, what="an audit record").get("at", "")) < moment
