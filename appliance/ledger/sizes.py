"""How many bytes wait in each stream of the outbox, kept up without reading it anew.

A stream's waiting records lie in *levels*, the coarsest first: records of a quarter of an hour, of
a minute, and as they were written. Only metrics ever have more than the last. Sizes are counted up
to a number; what was written later is added up when somebody asks. All functions work inside
somebody's transaction.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

ROW_BYTES = 48
"""What a record takes in the file besides its text: row, key, index."""

AS_WRITTEN = 1
_NO_END = 2**62
_SIZE = f"LENGTH(CAST(record AS BLOB)) + {ROW_BYTES}"


@dataclass(frozen=True, slots=True)
class Level:
    """Records of ``every_s`` seconds: they begin at number ``first`` and take ``bytes``."""

    every_s: int
    first: int
    bytes: int


def size_of(text: str) -> int:
    """Return the bytes that a record takes."""
    return len(text.encode()) + ROW_BYTES


def levels(db: sqlite3.Connection, stream: str) -> list[Level]:
    """Return the levels as they were counted, the coarsest first."""
    query = "SELECT every_s, first, bytes FROM levels WHERE stream = ? ORDER BY every_s DESC"
    found = [Level(*row) for row in db.execute(query, (stream,))]
    return found or [Level(AS_WRITTEN, 1, 0)]


def level_of(found: list[Level], seq: int) -> Level:
    """Return the level that a number lies in."""
    return max(
        (level for level in found if level.first <= seq),
        key=lambda level: (level.first, -level.every_s),
        default=found[-1],
    )


def waiting(db: sqlite3.Connection, stream: str) -> int:
    """Return the bytes of the records that are in no batch yet; it only reads."""
    counted = sum(level.bytes for level in levels(db, stream))
    return counted + _added_since(db, stream, _counted(db, stream))


def uncounted(db: sqlite3.Connection, stream: str) -> int:
    """Return how many numbers were given since the last count, at most; it only reads."""
    row = db.execute("SELECT next_seq - 1 FROM streams WHERE stream = ?", (stream,)).fetchone()
    return 0 if row is None else int(row[0]) - _counted(db, stream)


def sealed(db: sqlite3.Connection, stream: str) -> int:
    """Return the bytes of the batches that nobody acknowledged; it only reads."""
    query = "SELECT COALESCE(SUM(LENGTH(envelope)), 0) FROM batches WHERE stream = ?"
    return int(db.execute(query, (stream,)).fetchone()[0])


def count(db: sqlite3.Connection, stream: str) -> list[Level]:
    """Take in what was written since the last time; return the levels."""
    counted, new = _counted(db, stream), uncounted(db, stream)
    if new:
        _change(db, stream, AS_WRITTEN, _added_since(db, stream, counted))
        _set_counted(db, stream, counted + new)
    return levels(db, stream)


def recount(db: sqlite3.Connection, stream: str) -> list[Level]:
    """Read all that waits, and set every level right; return them."""
    found = sorted(levels(db, stream), key=lambda level: (level.first, -level.every_s))
    query = (
        f"SELECT COALESCE(SUM({_SIZE}), 0) FROM outbox"  # noqa: S608 - our own text
        " WHERE stream = ? AND seq >= ? AND seq < ?"
    )
    ends = [*(level.first for level in found[1:]), _NO_END]
    for level, end in zip(found, ends, strict=True):
        (size,) = db.execute(query, (stream, level.first, end)).fetchone()
        _put(db, stream, Level(level.every_s, level.first, int(size)))
    _set_counted(db, stream, _counted(db, stream) + uncounted(db, stream))
    return levels(db, stream)


def gone(db: sqlite3.Connection, stream: str, rows: Iterable[tuple[int, int]]) -> None:
    """Take records out of the count: first number and size of each."""
    found, counted = levels(db, stream), _counted(db, stream)
    less: dict[int, int] = {}
    for seq, size in rows:
        if seq <= counted:
            every_s = level_of(found, seq).every_s
            less[every_s] = less.get(every_s, 0) - size
    for every_s, change in less.items():
        _change(db, stream, every_s, change)


def came(db: sqlite3.Connection, stream: str, level: Level) -> None:
    """Add ``level.bytes`` to a level; one that is new begins at ``level.first``."""
    db.execute(
        "INSERT INTO levels VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes",
        (stream, level.every_s, level.first, level.bytes),
    )


def begin_after(db: sqlite3.Connection, stream: str, every_s: int, upto: int) -> None:
    """Have one level begin behind ``upto``."""
    db.execute(
        "UPDATE levels SET first = ? WHERE stream = ? AND every_s = ?", (upto + 1, stream, every_s)
    )


def _added_since(db: sqlite3.Connection, stream: str, counted: int) -> int:
    query = (
        f"SELECT COALESCE(SUM({_SIZE}), 0) FROM outbox"  # noqa: S608 - our own text
        " WHERE stream = ? AND seq > ?"
    )
    return int(db.execute(query, (stream, counted)).fetchone()[0])


def _counted(db: sqlite3.Connection, stream: str) -> int:
    row = db.execute("SELECT upto FROM counted WHERE stream = ?", (stream,)).fetchone()
    return 0 if row is None else int(row[0])


def _set_counted(db: sqlite3.Connection, stream: str, upto: int) -> None:
    db.execute(
        "INSERT INTO counted VALUES (?, ?) ON CONFLICT DO UPDATE SET upto = excluded.upto",
        (stream, upto),
    )


def _change(db: sqlite3.Connection, stream: str, every_s: int, change: int) -> None:
    came(db, stream, Level(every_s, 1, change))


def _put(db: sqlite3.Connection, stream: str, level: Level) -> None:
    db.execute(
        "INSERT INTO levels VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET first = excluded.first, bytes = excluded.bytes",
        (stream, level.every_s, level.first, level.bytes),
    )
