"""Single values in the ledger."""

import datetime
import sqlite3
from collections.abc import Iterable

from appliance.core import signedtime
from appliance.core.signedtime import SignedTime
from appliance.kit.clock import parse_rfc3339, rfc3339

_KEY_MADE = "gateway-key-made"
_TOLD_SWITCH = "told-switch"
_EARLIER = "earlier-epochs"
_MOST_EARLIER = 32


def floor(db: sqlite3.Connection) -> datetime.datetime | None:
    """Return the newest signed time that this node accepted, as far as it counts."""
    return signedtime.newest(floor_rows(db))


def floor_rows(db: sqlite3.Connection) -> tuple[SignedTime, ...]:
    """Return the newest signed time of each key that still counts."""
    rows = db.execute("SELECT key, online, at FROM floor ORDER BY key, online")
    return tuple(SignedTime(key, bool(online), parse_rfc3339(at)) for key, online, at in rows)


def add_floor_row(db: sqlite3.Connection, key: str, at: datetime.datetime, *, online: bool) -> None:
    """Note inside somebody's transaction what time a key signed; its row never goes down."""
    row = db.execute(
        "SELECT at FROM floor WHERE key = ? AND online = ?", (key, int(online))
    ).fetchone()
    if row is None or at > parse_rfc3339(row[0]):
        db.execute("INSERT OR REPLACE INTO floor VALUES (?, ?, ?)", (key, int(online), rfc3339(at)))


def add_online_time(db: sqlite3.Connection, key: str, moment: datetime.datetime) -> None:
    """Note a time that an online key signed for this node's nonce; its newest is kept."""
    add_floor_row(db, key, moment, online=True)


def drop_floor_row(db: sqlite3.Connection, row: SignedTime) -> None:
    """Forget inside somebody's transaction what a key said that was revoked."""
    db.execute("DELETE FROM floor WHERE key = ? AND online = ?", (row.key, int(row.online)))


def epoch(db: sqlite3.Connection, what: str) -> int:
    """Return the highest epoch of a ``trust/*`` document that this node accepted; 0 for none.

    It outlives the document: one that was taken back is never followed by an older one.

    Args:
        db: The ledger.
        what: ``director``, ``hub`` or ``revoked``.
    """
    return int(_get(db, f"{what}-epoch") or 0)


def raise_epoch(db: sqlite3.Connection, what: str, number: int) -> None:
    """Raise an epoch inside somebody's transaction; it never goes down."""
    if number > epoch(db, what):
        _set(db, f"{what}-epoch", str(number))


def org(db: sqlite3.Connection) -> str | None:
    """Return whose node this is, by the first signed word on it."""
    return _get(db, "org")


def set_org(db: sqlite3.Connection, name: str) -> None:
    """Remember inside somebody's transaction, for good, whose node this is."""
    if org(db) is None:
        _set(db, "org", name)


def metadata_hash(db: sqlite3.Connection) -> str | None:
    """Return the SHA-256 of the timestamp that was in force when the ledger last knew."""
    return _get(db, "metadata")


def set_metadata_hash(db: sqlite3.Connection, text: str) -> None:
    """Note inside somebody's transaction which metadata is in force."""
    if metadata_hash(db) != text:
        _set(db, "metadata", text)


def was_key_made(db: sqlite3.Connection) -> bool:
    """Return whether the gateway ever had an API key."""
    return _get(db, _KEY_MADE) is not None


def set_key_made(db: sqlite3.Connection) -> None:
    """Remember inside somebody's transaction, for good, that the gateway has had a key."""
    _set(db, _KEY_MADE, "yes")


def earlier_epochs(db: sqlite3.Connection) -> tuple[str, ...]:
    """Return the epochs of the ledgers that this node had before it was put back, oldest first."""
    return tuple((_get(db, _EARLIER) or "").split())


def add_earlier_epochs(db: sqlite3.Connection, epochs: Iterable[str]) -> None:
    """Note inside somebody's transaction which ledgers this node had; the newest are kept."""
    found = tuple(dict.fromkeys((*earlier_epochs(db), *epochs)))
    _set(db, _EARLIER, " ".join(found[-_MOST_EARLIER:]))


def next_report(db: sqlite3.Connection) -> int:
    """Return the number of the next report inside somebody's transaction; it only grows."""
    (number,) = db.execute(
        "INSERT INTO meta VALUES ('report', '1') ON CONFLICT DO UPDATE SET"
        " value = CAST(CAST(value AS INTEGER) + 1 AS TEXT) RETURNING value"
    ).fetchone()
    return int(number)


def _get(db: sqlite3.Connection, key: str) -> str | None:
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def told_switch(db: sqlite3.Connection) -> int:
    """Return the number of the last switch of controllers that the hub was told of; 0 for none."""
    return int(_get(db, _TOLD_SWITCH) or 0)


def set_told_switch(db: sqlite3.Connection, number: int) -> None:
    """Remember inside somebody's transaction which switch the hub was told of."""
    _set(db, _TOLD_SWITCH, str(number))


def _set(db: sqlite3.Connection, key: str, value: str) -> None:
    db.execute(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
        (key, value),
    )
