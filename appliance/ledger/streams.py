"""The outbox: ``(epoch, stream, seq)`` for everything a node must tell the hub.

Functions here work inside somebody's transaction on a connection they are given. A record gets its
number in the transaction of the effect that it reports; a batch is sealed once and then sent as the
same bytes until the hub acknowledges it, whatever happens in between.
"""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from appliance.core import wire
from appliance.ledger import chain


class Stream(StrEnum):
    """The streams of DESIGN section 7 that this release writes."""

    AUDIT = "audit"
    EVENTS = "events"
    RECEIPTS = "receipts"
    USAGE = "usage"


@dataclass(frozen=True, slots=True)
class Fact:
    """Something the hub must hear of. ``at`` is UTC, RFC 3339; ``body`` is plain JSON data."""

    stream: Stream
    kind: str
    at: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """A fact with its number."""

    seq: int
    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SealedBatch:
    """Consecutive records of one stream, signed; ``hash`` is the SHA-256 of the signed payload."""

    stream: Stream
    first: int
    count: int
    hash: str
    envelope: bytes

    @property
    def upto(self) -> int:
        """The last record's number."""
        return self.first + self.count - 1


@dataclass(frozen=True, slots=True)
class Position:
    """Where a stream stands. Numbers begin at 1; 0 means none."""

    next_seq: int = 1
    sealed_upto: int = 0
    sealed_hash: str = ""
    acked_upto: int = 0
    acked_hash: str = ""

    @property
    def written(self) -> int:
        """How many records the stream has ever had in this epoch."""
        return self.next_seq - 1


def append(db: sqlite3.Connection, fact: Fact) -> int:
    """Number a fact and put it into the outbox; return the number."""
    db.execute(
        "INSERT INTO streams VALUES (?, 1, 0, '', 0, '') ON CONFLICT DO NOTHING", (fact.stream,)
    )
    (seq,) = db.execute(
        "UPDATE streams SET next_seq = next_seq + 1 WHERE stream = ? RETURNING next_seq - 1",
        (fact.stream,),
    ).fetchone()
    record = wire.dumps({"at": fact.at, "kind": fact.kind, "body": fact.body})
    if fact.stream is Stream.AUDIT:
        chain.advance(db, int(seq), record)
    db.execute("INSERT INTO outbox VALUES (?, ?, ?)", (fact.stream, seq, record.decode()))
    return int(seq)


def position(db: sqlite3.Connection, stream: Stream) -> Position:
    """Return where one stream stands."""
    row = db.execute("SELECT * FROM streams WHERE stream = ?", (stream,)).fetchone()
    return Position() if row is None else Position(*tuple(row)[1:])


def waiting(db: sqlite3.Connection, stream: Stream, most: int) -> Iterator[Record]:
    """Yield the oldest records that are not in a batch yet, ``most`` at most."""
    rows = db.execute(
        "SELECT seq, record FROM outbox WHERE stream = ? ORDER BY seq LIMIT ?", (stream, most)
    )
    for seq, record in rows:
        yield Record(seq, wire.loads(record.encode(), what=f"record {seq} of {stream}"))


def seal(
    db: sqlite3.Connection,
    stream: Stream,
    make: Callable[[Position, list[Record]], SealedBatch],
    *,
    most: int,
) -> SealedBatch | None:
    """Put the oldest waiting records into one batch; return None when there are none.

    ``make`` decides how many of the records offered it takes, from the first on.
    """
    records = list(waiting(db, stream, most))
    if not records:
        return None
    batch = make(position(db, stream), records)
    db.execute(
        "INSERT INTO batches VALUES (?, ?, ?, ?, ?)",
        (stream, batch.first, batch.count, batch.hash, batch.envelope),
    )
    db.execute("DELETE FROM outbox WHERE stream = ? AND seq <= ?", (stream, batch.upto))
    db.execute(
        "UPDATE streams SET sealed_upto = ?, sealed_hash = ? WHERE stream = ?",
        (batch.upto, batch.hash, stream),
    )
    return batch


def unacknowledged(db: sqlite3.Connection, stream: Stream, most: int) -> list[SealedBatch]:
    """Return the oldest batches that the hub has not acknowledged, ``most`` at most."""
    rows = db.execute(
        "SELECT first, count, hash, envelope FROM batches WHERE stream = ? ORDER BY first LIMIT ?",
        (stream, most),
    )
    return [SealedBatch(stream, *row) for row in rows]


def acknowledge(db: sqlite3.Connection, stream: Stream, upto: int, batch_hash: str) -> bool:
    """Free what the hub has committed up to and with the batch of this hash.

    Returns:
        Whether it told anything new. An acknowledgement that names a batch we never sealed, or
        one with another hash, changes nothing.
    """
    if upto <= position(db, stream).acked_upto:
        return False
    named = db.execute(
        "SELECT 1 FROM batches WHERE stream = ? AND first + count - 1 = ? AND hash = ?",
        (stream, upto, batch_hash),
    ).fetchone()
    if named is None:
        return False
    db.execute("DELETE FROM batches WHERE stream = ? AND first + count - 1 <= ?", (stream, upto))
    db.execute(
        "UPDATE streams SET acked_upto = ?, acked_hash = ? WHERE stream = ?",
        (upto, batch_hash, stream),
    )
    return True
