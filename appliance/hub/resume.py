"""What a hub makes of nodes that remember more than it does: it was put back to an earlier day.

A node says in each signed report which generation it follows and what was acknowledged to it. The
hub goes on above the first. What it acknowledged once and has lost it writes down as a gap: the
nodes have let go of it. A stick that still carries some of it fills the gap again.
"""

import sqlite3
from collections.abc import Mapping
from typing import Any

from appliance.core import wire
from appliance.trust import dsse

WHY = "the hub lost them"


def of_this_director(report: dict[str, Any], epoch: int) -> dict[str, Any]:
    """Return a report without the numbers that a director of an earlier epoch reached. Pure.

    Its key may have been stolen, and all numbers used up; nodes count anew with the next epoch.
    """
    found = dict(report)
    for part, name, none in (("applied", "generation", None), ("commands", "counter", 0)):
        said = report.get(part)
        if isinstance(said, dict) and 0 < _count(said.get("directorEpoch")) < epoch:
            found[part] = {**said, name: none}
    return found


def begin(db: sqlite3.Connection) -> int:
    """Hold the word to every node until it has reported; return how many nodes there are.

    Call it once, in the transaction of a restore.
    """
    return db.execute("INSERT INTO resuming SELECT node FROM nodes WHERE true"
                      " ON CONFLICT DO NOTHING").rowcount  # fmt: skip


def is_held(db: sqlite3.Connection, name: str) -> bool:
    """Whether nothing may be asked of a node yet: this hub may be older than what it follows."""
    row = db.execute("SELECT 1 FROM resuming WHERE node = ?", (name,)).fetchone()
    return row is not None


def release(db: sqlite3.Connection, name: str) -> None:
    """Let the word to a node go out: it was asked for by somebody who knows what holds today."""
    db.execute("DELETE FROM resuming WHERE node = ?", (name,))


def heard(db: sqlite3.Connection, name: str, report: Mapping[str, Any], at: str) -> None:
    """Catch up with a node's newest report, in the transaction that notes it."""
    applied, streams = report.get("applied"), report.get("streams")
    if isinstance(applied, dict):
        _generation(db, name, applied)
    for stream, said in (streams if isinstance(streams, dict) else {}).items():
        if isinstance(said, dict):
            _position(db, (name, str(report.get("dbEpoch")), str(stream)), said, at)


def _generation(db: sqlite3.Connection, name: str, applied: Mapping[str, Any]) -> None:
    follows = _count(applied.get("generation"))
    row = db.execute(
        "SELECT generation, envelope FROM generations WHERE node = ?", (name,)
    ).fetchone()
    if not follows:
        release(db, name)  # it follows nobody's word yet, so there is none to contradict
        return
    own, envelope = (0, None) if row is None else (int(row[0]), row[1])
    same = follows == own and envelope is not None
    ours = same and _is_ours(bytes(envelope or b""), applied)
    if follows > own or (follows == own and is_held(db, name) and not ours):
        _raise(db, name, follows)
        db.execute("INSERT INTO resuming VALUES (?) ON CONFLICT DO NOTHING", (name,))
    elif same and not ours:
        _raise(db, name, own + 1)  # no number may ever stand for two contents
    else:
        release(db, name)


def _is_ours(envelope: bytes, applied: Mapping[str, Any]) -> bool:
    """Whether the generation that a node follows is the one of that number here."""
    told = applied.get("hash")
    return told is None or told == dsse.payload_hash(envelope)


def _raise(db: sqlite3.Connection, name: str, generation: int) -> None:
    db.execute(
        "INSERT INTO generations VALUES (?, ?, NULL, NULL, NULL) ON CONFLICT DO UPDATE SET"
        " generation = excluded.generation, db_epoch = NULL, envelope = NULL, sealed_at = NULL",
        (name, generation),
    )


def _position(
    db: sqlite3.Connection, where: tuple[str, str, str], said: Mapping[str, Any], at: str
) -> None:
    upto, digest = _count(said.get("acknowledged")), said.get("hash")
    if not upto or not isinstance(digest, str):
        return
    row = db.execute(
        "SELECT upto FROM positions WHERE node = ? AND epoch = ? AND stream = ?", where
    ).fetchone()
    known = 0 if row is None else int(row[0])
    if upto <= known:
        return
    _put_gap(db, where, (known + 1, upto), at)
    db.execute(
        "INSERT INTO positions VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET upto = excluded.upto, hash = excluded.hash",
        (*where, upto, digest),
    )


def _put_gap(
    db: sqlite3.Connection, where: tuple[str, str, str], run: tuple[int, int], at: str
) -> None:
    """Write down that a run of numbers, first and last, is not here."""
    first, last = run
    count = last - first + 1
    if count < 1:
        return
    record: dict[str, Any] = {"at": at, "kind": "gap", "body": {"why": WHY, "records": count}}
    if count > 1:
        record["span"] = count
    db.execute(
        "INSERT INTO batches (node, epoch, stream, first, count, hash, at)"
        " VALUES (?, ?, ?, ?, ?, '', ?)",
        (*where, first, count, at),
    )
    db.execute(
        "INSERT INTO records (node, epoch, stream, seq, record, span) VALUES (?, ?, ?, ?, ?, ?)",
        (*where, first, wire.dumps(record).decode(), count),
    )


def fill(
    db: sqlite3.Connection, where: tuple[str, str, str], run: tuple[int, int], at: str
) -> bool:
    """Cut a run of numbers out of the gap that it lies in; return False when it lies in none.

    Whoever calls writes the batch of these numbers there in the same transaction. Its signature was
    verified; that it links to the one before it cannot be seen any more.

    Args:
        db: The hub's database, inside a transaction.
        where: Node, epoch and stream.
        run: First and last number of the batch.
        at: The time, UTC.
    """
    gap = db.execute(
        "SELECT first, first + count - 1 FROM batches WHERE node = ? AND epoch = ? AND stream = ?"
        " AND hash = '' AND first <= ? ORDER BY first DESC LIMIT 1",
        (*where, run[0]),
    ).fetchone()
    if gap is None or run[1] > int(gap[1]):
        return False
    first, last = int(gap[0]), int(gap[1])
    for table, column in (("batches", "first"), ("records", "seq")):
        db.execute(
            f"DELETE FROM {table} WHERE node = ? AND epoch = ? AND stream = ? AND {column} = ?",  # noqa: S608 - our own text
            (*where, first),
        )
    _put_gap(db, where, (first, run[0] - 1), at)
    _put_gap(db, where, (run[1] + 1, last), at)
    return True


def _count(value: object) -> int:
    """Return a number above 0; 0 for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
