"""The node's receipts as rows, and what belongs to them: the nonce, and what became ready.

Functions here work inside somebody's transaction. What a receipt says is written elsewhere.
"""

import secrets
import sqlite3
from dataclasses import dataclass

_NONCE = "time-nonce"
_LAST_NONCE = "time-nonce-used"
_OMITTED = "receipts-omitted"
MOST_REFUSALS = 20
"""Refusals in a row that get a receipt each. Counted, not timed: the clock may be wrong.

Whoever holds a bad stick in again and again could otherwise fill the disk; any other receipt
opens the way for as many again.
"""


@dataclass(frozen=True, slots=True)
class ReceiptRow:
    """One receipt. ``hash`` is the SHA-256 of the signed payload, ``event`` what it is about."""

    seq: int
    kind: str
    event: str
    hash: str
    envelope: bytes


def add(db: sqlite3.Connection, row: ReceiptRow) -> None:
    """Keep a receipt."""
    db.execute(
        "INSERT INTO receipts VALUES (?, ?, ?, ?, ?)",
        (row.seq, row.kind, row.event, row.hash, row.envelope),
    )


def newest(db: sqlite3.Connection) -> ReceiptRow | None:
    """Return the last receipt, if one was ever made."""
    row = db.execute("SELECT * FROM receipts ORDER BY seq DESC LIMIT 1").fetchone()
    return None if row is None else ReceiptRow(*row)


def rows(db: sqlite3.Connection) -> list[ReceiptRow]:
    """Return all receipts, in order."""
    return [ReceiptRow(*row) for row in db.execute("SELECT * FROM receipts ORDER BY seq")]


def one(db: sqlite3.Connection, seq: int) -> ReceiptRow | None:
    """Return one receipt."""
    row = db.execute("SELECT * FROM receipts WHERE seq = ?", (seq,)).fetchone()
    return None if row is None else ReceiptRow(*row)


def may_refuse(db: sqlite3.Connection, event: str) -> bool:
    """Whether one more refusal gets a receipt; if not, it is counted for the next one."""
    others = "SELECT coalesce(max(seq), 0) FROM receipts WHERE kind != 'refusal'"
    found = [r[0] for r in db.execute(f"SELECT event FROM receipts WHERE seq > ({others})")]  # noqa: S608 - our own text
    if event not in found and len(found) < MOST_REFUSALS:
        return True
    db.execute(
        "INSERT INTO meta VALUES (?, '1') ON CONFLICT DO UPDATE SET"
        " value = CAST(CAST(value AS INTEGER) + 1 AS TEXT)",
        (_OMITTED,),
    )
    return False


def take_omitted(db: sqlite3.Connection) -> int:
    """Return how many refusals got no receipt since the last one, and begin to count anew."""
    row = db.execute("DELETE FROM meta WHERE key = ? RETURNING value", (_OMITTED,)).fetchone()
    return 0 if row is None else int(row[0])


def nonce(db: sqlite3.Connection) -> str | None:
    """Return the nonce that waits for a signed time, if this node asked for one."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (_NONCE,)).fetchone()
    return None if row is None else str(row[0])


def ask_for_time(db: sqlite3.Connection) -> str:
    """Return the nonce that waits; draw one of 256 bits when none does."""
    db.execute(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO NOTHING", (_NONCE, secrets.token_hex(32))
    )
    return str(nonce(db))


def use_nonce(db: sqlite3.Connection, answered: str) -> bool:
    """Use up the nonce; return False when it is not the one that waits: an answer counts once."""
    gone = db.execute("DELETE FROM meta WHERE key = ? AND value = ?", (_NONCE, answered))
    if gone.rowcount > 0:
        db.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
            (_LAST_NONCE, answered),
        )
    return gone.rowcount > 0


def used_nonce(db: sqlite3.Connection) -> str | None:
    """Return the nonce that was used up last, if one was."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (_LAST_NONCE,)).fetchone()
    return None if row is None else str(row[0])


def set_active(db: sqlite3.Connection, deployment: str, manifest: str) -> bool:
    """Note what a deployment serves; return whether that is another manifest than before."""
    changed = db.execute(
        "INSERT INTO activations VALUES (?, ?) ON CONFLICT DO UPDATE SET"
        " manifest = excluded.manifest WHERE manifest != excluded.manifest",
        (deployment, manifest),
    )
    return changed.rowcount > 0
