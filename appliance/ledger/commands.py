"""Commands in the ledger: which counters were used, how each ended, and the nonce that waits.

Functions here work inside somebody's transaction or query on a connection they are given.
"""

import secrets
import sqlite3
from dataclasses import dataclass

from appliance.core.commands import State
from appliance.ledger import streams
from appliance.ledger.streams import Stream

_NONCE = "command-nonce"
_EPOCH = "command-director"
_MOST_ROWS = 200
_COLUMNS = "counter, hash, verb, state, at, outcome"


@dataclass(frozen=True, slots=True)
class Row:
    """One command; ``outcome`` is the envelope that says how it ended, once it has."""

    counter: int
    hash: str
    verb: str
    state: State
    at: str
    outcome: bytes | None


def last(db: sqlite3.Connection) -> int:
    """Return the highest counter that was ever used here; 0 before the first."""
    return int(db.execute("SELECT coalesce(max(counter), 0) FROM commands").fetchone()[0])


def director_epoch(db: sqlite3.Connection) -> int:
    """Return the epoch of the director whose counters are known; 0 before the first."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (_EPOCH,)).fetchone()
    return 0 if row is None else int(row[0])


def begin_epoch(db: sqlite3.Connection, epoch: int) -> None:
    """Forget the counters of the director before, inside somebody's transaction.

    Nothing of it comes back, for its epoch is refused. What it began and is not over is told by the
    audit stream alone.
    """
    known = director_epoch(db)
    if known >= epoch:
        return
    if known:
        db.execute("DELETE FROM commands")
    db.execute(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
        (_EPOCH, str(epoch)),
    )


def find(db: sqlite3.Connection, counter: int) -> Row | None:
    """Return a command, if it is still known."""
    row = db.execute(
        f"SELECT {_COLUMNS} FROM commands WHERE counter = ?",  # noqa: S608 - our own text
        (counter,),
    ).fetchone()
    return None if row is None else _row(row)


def start(db: sqlite3.Connection, counter: int, content: str, verb: str, at: str) -> None:
    """Use up a counter, before the effect; the oldest that ended make place."""
    db.execute(
        "INSERT INTO commands (counter, hash, verb, state, at) VALUES (?, ?, ?, ?, ?)",
        (counter, content, verb, State.STARTED, at),
    )
    db.execute(
        "DELETE FROM commands WHERE counter <= ? - ? AND state != ?",
        (counter, _MOST_ROWS, State.STARTED),
    )


def end(db: sqlite3.Connection, counter: int, state: State, outcome: bytes, audit_seq: int) -> None:
    """Note how a command ended, and the number of the audit record that says so."""
    db.execute(
        "UPDATE commands SET state = ?, outcome = ?, audit_seq = ? WHERE counter = ?",
        (state, outcome, audit_seq, counter),
    )


def begun(db: sqlite3.Connection) -> list[Row]:
    """Return those that started and did not end, oldest first."""
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM commands WHERE state = ? ORDER BY counter",  # noqa: S608 - our own text
        (State.STARTED,),
    )
    return [_row(row) for row in rows]


def unheard(db: sqlite3.Connection, most: int) -> list[Row]:
    """Return the newest whose end the hub has not acknowledged with the audit stream, oldest first.

    The very newest is always among them: its audit record may have come and its outcome not.
    """
    acked = streams.position(db, Stream.AUDIT).acked_upto
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM commands WHERE outcome IS NOT NULL AND (audit_seq > ? OR"  # noqa: S608 - our own text
        " counter = (SELECT max(counter) FROM commands)) ORDER BY counter DESC LIMIT ?",
        (acked, most),
    )
    return [_row(row) for row in rows][::-1]


def nonce(db: sqlite3.Connection) -> str | None:
    """Return the nonce of 256 bits that a command must name while the time is unproven."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (_NONCE,)).fetchone()
    return None if row is None else str(row[0])


def draw_nonce(db: sqlite3.Connection) -> str:
    """Return the nonce that waits; draw one when none does."""
    db.execute(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO NOTHING", (_NONCE, secrets.token_hex(32))
    )
    return str(nonce(db))


def use_nonce(db: sqlite3.Connection) -> None:
    """Use up the nonce; the next report brings another."""
    db.execute("DELETE FROM meta WHERE key = ?", (_NONCE,))


def _row(row: sqlite3.Row) -> Row:
    counter, content, verb, state, at, outcome = tuple(row)
    return Row(counter, content, verb, State(state), at, outcome)
