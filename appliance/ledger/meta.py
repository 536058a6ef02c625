"""Single values in the ledger."""

import datetime
import sqlite3

from appliance.kit.clock import parse_rfc3339, rfc3339

_FLOOR = "floor"
_DIRECTOR_EPOCH = "director-epoch"
_KEY_MADE = "gateway-key-made"


def floor(db: sqlite3.Connection) -> datetime.datetime | None:
    """Return the newest signed time that this node accepted."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (_FLOOR,)).fetchone()
    return None if row is None else parse_rfc3339(row[0])


def set_floor(db: sqlite3.Connection, moment: datetime.datetime) -> None:
    """Raise the floor inside somebody's transaction; it never goes down."""
    known = floor(db)
    if known is None or moment > known:
        _set(db, _FLOOR, rfc3339(moment))


def director_epoch(db: sqlite3.Connection) -> int:
    """Return the highest epoch of a director that offline keys named to this node; 0 for none."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (_DIRECTOR_EPOCH,)).fetchone()
    return 0 if row is None else int(row[0])


def set_director_epoch(db: sqlite3.Connection, epoch: int) -> None:
    """Raise the director's epoch inside somebody's transaction; it never goes down."""
    if epoch > director_epoch(db):
        _set(db, _DIRECTOR_EPOCH, str(epoch))


def was_key_made(db: sqlite3.Connection) -> bool:
    """Return whether the gateway ever had an API key."""
    return db.execute("SELECT 1 FROM meta WHERE key = ?", (_KEY_MADE,)).fetchone() is not None


def set_key_made(db: sqlite3.Connection) -> None:
    """Remember inside somebody's transaction, for good, that the gateway has had a key."""
    _set(db, _KEY_MADE, "yes")


def next_report(db: sqlite3.Connection) -> int:
    """Return the number of the next report inside somebody's transaction; it only grows."""
    (number,) = db.execute(
        "INSERT INTO meta VALUES ('report', '1') ON CONFLICT DO UPDATE SET"
        " value = CAST(CAST(value AS INTEGER) + 1 AS TEXT) RETURNING value"
    ).fetchone()
    return int(number)


def _set(db: sqlite3.Connection, key: str, value: str) -> None:
    db.execute(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
        (key, value),
    )
