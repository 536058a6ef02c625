"""The outbox: ``(epoch, stream, seq)`` for everything a node must tell the hub.

Functions here work inside somebody's transaction on a connection they are given. A record gets its
number in the transaction of the effect that it reports; a batch is sealed once and then sent as the
same bytes until the hub acknowledges it, whatever happens in between. Until it is sealed a budget
may put one record in the place of several (``ledger/budgets.py``): it says for how many numbers it
stands, its *span*, so that every number that was ever given still has its place.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from appliance.core import wire
from appliance.ledger import chain, sizes


class Stream(StrEnum):
    """The streams of DESIGN section 7, those first that are sent first when all have news."""

    REPORTED = "reported"
    EVENTS = "events"
    AUDIT = "audit"
    RECEIPTS = "receipts"
    USAGE = "usage"
    METRICS = "metrics"


NEVER_DROPPED = frozenset({Stream.AUDIT, Stream.RECEIPTS, Stream.USAGE})
"""In these a record stands for itself alone."""


@dataclass(frozen=True, slots=True)
class Fact:
    """Something the hub must hear of. ``at`` is UTC, RFC 3339; ``body`` is plain JSON data."""

    stream: Stream
    kind: str
    at: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """A fact with its first number, as data or as the canonical JSON that the outbox holds."""

    seq: int
    content: dict[str, Any] | str

    @property
    def record(self) -> dict[str, Any]:
        """``{at, kind, body}``, and ``span`` when it stands for several numbers."""
        if isinstance(self.content, str):
            return wire.loads(self.content.encode(), what=f"the record {self.seq}")
        return self.content

    @property
    def text(self) -> str:
        """The record as canonical JSON."""
        return self.content if isinstance(self.content, str) else wire.dumps(self.content).decode()

    @property
    def span(self) -> int:
        """How many numbers it stands for."""
        if isinstance(self.content, str):
            return span_of(self.content)
        return int(self.content.get("span", 1))


def span_of(text: str) -> int:
    """Return the span in a record's canonical JSON, where it comes last.

    Without one the record ends with its kind, and so with a quote.
    """
    return 1 if text.endswith('"}') else int(text[text.rindex(":") + 1 : -1])


@dataclass(frozen=True, slots=True)
class SealedBatch:
    """Consecutive records of one stream, signed; ``hash`` is the SHA-256 of the signed payload.

    ``count`` is of numbers, not of records: some may stand for several.
    """

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
    return append_texts(db, fact.stream, (to_text(fact),))


def to_text(fact: Fact) -> str:
    """Return a fact as it will stand in the outbox.

    Raises:
        TypeError, ValueError: its body is not JSON data: NaN, half of a surrogate pair, a path.
    """
    return wire.dumps({"at": fact.at, "kind": fact.kind, "body": fact.body}).decode()


def append_texts(db: sqlite3.Connection, stream: Stream, texts: Sequence[str]) -> int:
    """Number the facts of one stream in the order given; return the last number."""
    count = len(texts)
    (last,) = db.execute(
        "INSERT INTO streams VALUES (?1, 1 + ?2, 0, '', 0, '')"
        " ON CONFLICT DO UPDATE SET next_seq = next_seq + ?2 RETURNING next_seq - 1",
        (stream, count),
    ).fetchone()
    first = last - count + 1
    if stream is Stream.AUDIT:
        chain.advance(db, first, [text.encode() for text in texts])
    rows = [(stream, seq, text) for seq, text in enumerate(texts, first)]
    db.executemany("INSERT INTO outbox VALUES (?, ?, ?)", rows)
    return int(last)


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
        yield Record(seq, record)


def is_waiting(db: sqlite3.Connection, stream: Stream) -> bool:
    """Whether there is a record that is not in a batch yet."""
    query = "SELECT 1 FROM outbox WHERE stream = ? LIMIT 1"
    return db.execute(query, (stream,)).fetchone() is not None


def replace(
    db: sqlite3.Connection, stream: Stream, upto: int, records: Iterable[tuple[int, str]]
) -> None:
    """Put other records in the place of waiting ones, from the first of them to number ``upto``.

    Args:
        db: The ledger, inside a transaction.
        stream: The stream.
        upto: The last number that the old records stand for, and the last of the new ones.
        records: Their first numbers and their canonical JSON; the first is the old ones' first.
    """
    found = list(records)
    where = (stream, found[0][0], upto)
    db.execute("DELETE FROM outbox WHERE stream = ? AND seq BETWEEN ? AND ?", where)
    db.executemany("INSERT INTO outbox VALUES (?, ?, ?)", [(stream, *row) for row in found])


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
    taken = ((r.seq, sizes.size_of(r.text)) for r in records if r.seq <= batch.upto)
    sizes.gone(db, stream, taken)
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


def unacknowledged_firsts(db: sqlite3.Connection, stream: Stream, most: int) -> list[int]:
    """Return the first numbers of the oldest batches nobody acknowledged, ``most`` at most."""
    query = "SELECT first FROM batches WHERE stream = ? ORDER BY first LIMIT ?"
    return [int(row[0]) for row in db.execute(query, (stream, most))]


def envelope(db: sqlite3.Connection, stream: Stream, first: int) -> bytes | None:
    """Return the bytes of a batch; None when it was acknowledged meanwhile."""
    query = "SELECT envelope FROM batches WHERE stream = ? AND first = ?"
    row = db.execute(query, (stream, first)).fetchone()
    return None if row is None else bytes(row[0])


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
