"""Single values in the ledger."""

import datetime
import sqlite3

from appliance.kit.clock import parse_rfc3339, rfc3339

_FLOOR = "floor"
_ONLINE = "floor-online/"
_MOST_ONLINE = datetime.timedelta(days=400)
"""How far beyond the newest time that was signed offline an online key can move the floor."""

_DIRECTOR_EPOCH = "director-epoch"
_KEY_MADE = "gateway-key-made"


def floor(db: sqlite3.Connection) -> datetime.datetime | None:
    """Return the newest signed time that this node accepted, as far as it counts."""
    found = dict(
        db.execute("SELECT key, value FROM meta WHERE key = ? OR key GLOB ? || '*'",
                   (_FLOOR, _ONLINE)).fetchall()
    )  # fmt: skip
    offline = found.pop(_FLOOR, None)
    if offline is None:
        return None
    low = parse_rfc3339(offline)
    return max([low, *(min(parse_rfc3339(t), low + _MOST_ONLINE) for t in found.values())])


def set_floor(db: sqlite3.Connection, moment: datetime.datetime) -> None:
    """Raise the floor inside somebody's transaction; it never goes down."""
    _raise(db, _FLOOR, moment)


def add_online_time(db: sqlite3.Connection, key: str, moment: datetime.datetime) -> None:
    """Note a time that an online key signed for this node's nonce; its newest is kept."""
    _raise(db, _ONLINE + key, moment)


def _raise(db: sqlite3.Connection, row: str, moment: datetime.datetime) -> None:
    known = db.execute("SELECT value FROM meta WHERE key = ?", (row,)).fetchone()
    if known is None or moment > parse_rfc3339(known[0]):
        _set(db, row, rfc3339(moment))


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
