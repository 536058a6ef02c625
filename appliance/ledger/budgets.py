"""How many bytes each stream may take on this disk, and what gives way when it takes more.

Metrics first lose detail (a record a second, a minute, a quarter of an hour), then their oldest;
events and reported states lose their oldest. A gap record says how many numbers were dropped. What
is sealed never changes. Audit, receipts and usage are never touched: of a full audit stream the
caller is told, and starts nothing new.
"""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from appliance.core import coarsen, wire
from appliance.core.coarsen import Entry
from appliance.core.quantity import format_bytes
from appliance.errors import NoSpaceError
from appliance.ledger import sizes, streams
from appliance.ledger.sizes import Level
from appliance.ledger.streams import NEVER_DROPPED, Record, Stream

DEFAULTS: Mapping[Stream, int] = {
    Stream.REPORTED: 16 << 20,
    Stream.EVENTS: 32 << 20,
    Stream.AUDIT: 64 << 20,
    Stream.RECEIPTS: 64 << 20,
    Stream.USAGE: 256 << 20,
    Stream.METRICS: 192 << 20,
}
_GOAL = 0.95
"""What is over its budget goes down to this share of it, so that there is peace for a while."""

_FINE_SHARE = 0.25
"""Metrics lose detail from the finest level on, while that holds more than this of the budget."""

_MOST_ROWS = 3000
"""Of one transaction: others wait for the writer meanwhile, some tens of milliseconds."""

_MOST_UNCOUNTED = 5000
"""Records that were written since the last count: reading them takes some milliseconds."""

_COARSER = {1: 60, 60: 900}
_NO_END = 2**62


@dataclass(frozen=True, slots=True)
class Kept:
    """What one step made of a stream: how many records lost detail, how many numbers are gone."""

    coarsened: int = 0
    dropped: int = 0

    def __bool__(self) -> bool:
        """Whether anything gave way."""
        return bool(self.coarsened or self.dropped)


def begin(db: sqlite3.Connection, limits: Mapping[Stream, int]) -> None:
    """Set the budgets, in bytes, and count anew: another release may have run meanwhile."""
    for stream in Stream:
        db.execute(
            "INSERT INTO budgets VALUES (?, ?) ON CONFLICT DO UPDATE SET most = excluded.most",
            (stream, limits.get(stream, DEFAULTS[stream])),
        )
        sizes.recount(db, stream)


def limit(db: sqlite3.Connection, stream: Stream) -> int:
    """Return a stream's budget in bytes."""
    row = db.execute("SELECT most FROM budgets WHERE stream = ?", (stream,)).fetchone()
    return DEFAULTS[stream] if row is None else int(row[0])


def held(db: sqlite3.Connection, stream: Stream) -> int:
    """Return the bytes that a stream takes: what waits, and what is sealed; it only reads."""
    return sizes.waiting(db, stream) + sizes.sealed(db, stream)


def audit_is_full(db: sqlite3.Connection) -> bool:
    """Whether the audit stream has used up its budget; it only reads.

    Then nothing that must be audited may start, such as an import or a command. Serving goes on.
    """
    return held(db, Stream.AUDIT) >= limit(db, Stream.AUDIT)


def require_audit(db: sqlite3.Connection) -> None:
    """Refuse what must be audited when there is no room to.

    Raises:
        NoSpaceError: the audit stream is full.
    """
    if audit_is_full(db):
        raise NoSpaceError(
            f"the audit log holds {format_bytes(limit(db, Stream.AUDIT))} that the hub has not"
            " acknowledged, all that it may",
            hint="bring the link up or carry the log to the hub, or raise [sync] audit_bytes",
        )


def overfull(db: sqlite3.Connection) -> list[Stream]:
    """Return the streams that reached their budget although nothing of them may give way."""
    return [s for s in Stream if s in NEVER_DROPPED and held(db, s) >= limit(db, s)]


def is_due(db: sqlite3.Connection, stream: Stream) -> bool:
    """Whether ``step`` has something to do; it only reads, and never much."""
    if sizes.uncounted(db, stream) > _MOST_UNCOUNTED:
        return True
    return stream not in NEVER_DROPPED and held(db, stream) > limit(db, stream)


def step(db: sqlite3.Connection, stream: Stream) -> Kept:
    """Count a stream, and have a bounded piece of it give way; call it until it is false.

    Call it when ``is_due`` says so: it goes on until the stream is a little below its budget.
    """
    most = limit(db, stream)
    levels = sizes.count(db, stream)
    over = held(db, stream) - int(most * _GOAL)
    if over <= 0 or stream in NEVER_DROPPED:
        return Kept()
    if stream is Stream.METRICS:
        for level in reversed(levels):
            coarser = _COARSER.get(level.every_s)
            if coarser is not None and level.bytes > most * _FINE_SHARE:
                return Kept(coarsened=_coarsen(db, stream, level, coarser))
    return Kept(dropped=_drop(db, stream, over))


def _coarsen(db: sqlite3.Connection, stream: Stream, level: Level, every_s: int) -> int:
    """Put the oldest records of a level into the next coarser one; return how many there were."""
    finer = [f.first for f in sizes.levels(db, stream) if f.every_s < level.every_s]
    rows = _oldest(db, stream, level.first, min(finer, default=_NO_END))
    if not rows:
        sizes.recount(db, stream)
        return 0
    entries = [_entry(row) for row in rows]
    texts = {row.seq: row.text for row in rows}
    new: list[tuple[int, str]] = []
    taken: list[Entry] = []
    for window in coarsen.whole_windows(entries, every_s):
        old = [(e.first, texts[e.first]) for e in window]
        one = _text(coarsen.coarsen(window, every_s))
        smaller = sizes.size_of(one) < sum(sizes.size_of(text) for _, text in old)
        new += [(window[0].first, one)] if smaller else old
        taken += window
    _exchange(db, stream, taken[-1].upto, new, every_s)
    sizes.begin_after(db, stream, level.every_s, taken[-1].upto)
    return len(taken)


def _drop(db: sqlite3.Connection, stream: Stream, over: int) -> int:
    """Put a gap record in the place of the oldest; return how many numbers are newly gone."""
    rows = _oldest(db, stream, 0)
    freed, taken = 0, []
    for row in rows[:-1] if len(rows) < _MOST_ROWS else rows:  # never the newest of all
        if freed > over + sizes.ROW_BYTES * 4:
            break
        freed += sizes.size_of(row.text)
        taken.append(row)
    entries = [_entry(row) for row in taken]
    fresh = sum(e.span for e in entries if e.record.get("kind") != coarsen.GAP)
    if not fresh:
        return 0
    first, upto = entries[0].first, entries[-1].upto
    gap = _text(coarsen.gap(first, upto, str(entries[0].record.get("at"))))
    level = sizes.level_of(sizes.levels(db, stream), first)
    _exchange(db, stream, upto, [(first, gap)], level.every_s)
    return fresh


def _oldest(db: sqlite3.Connection, stream: Stream, first: int, end: int = _NO_END) -> list[Record]:
    rows = db.execute(
        "SELECT seq, record FROM outbox WHERE stream = ? AND seq >= ? AND seq < ?"
        " ORDER BY seq LIMIT ?",
        (stream, first, end, _MOST_ROWS),
    )
    return [Record(*row) for row in rows]


def _exchange(
    db: sqlite3.Connection, stream: Stream, upto: int, new: list[tuple[int, str]], every_s: int
) -> None:
    """Put ``new`` in the place of what stands from its first number to ``upto``, in a level."""
    first = new[0][0]
    query = "SELECT seq, record FROM outbox WHERE stream = ? AND seq BETWEEN ? AND ?"
    old = [(seq, sizes.size_of(text)) for seq, text in db.execute(query, (stream, first, upto))]
    sizes.gone(db, stream, old)
    streams.replace(db, stream, upto, new)
    added = sum(sizes.size_of(text) for _, text in new)
    sizes.came(db, stream, Level(every_s, first, added))


def _entry(row: Record) -> Entry:
    record = json.loads(row.text)  # our own text: it needs no strict reading
    return Entry(row.seq, row.span, {k: record[k] for k in ("at", "kind", "body")})


def _text(entry: Entry) -> str:
    span = {} if entry.span == 1 else {"span": entry.span}
    return wire.dumps({**entry.record, **span}).decode()
