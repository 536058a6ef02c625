"""The audit log of each node, held against what the node signed of it.

The hub links the records that come as the node did (``ledger/chain.py``). Every report and receipt
names a head; one that differs from the hub's own means two histories: a clone, or a ledger put back
to an earlier day. A head whose records do not come means that the log's end was cut.
"""

import hashlib
import json
import re
import sqlite3
from collections.abc import Sequence
from typing import Any

from appliance.core import coarsen, wire
from appliance.errors import MalformedError
from appliance.ledger.chain import GENESIS, Head
from appliance.trust.envelope import whole

_HASH = re.compile(r"[0-9a-f]{64}")
_MOST_WAITING = 200
"""Heads of one ledger that wait for their records; the newest are kept."""

Ledger = tuple[str, str]
"""Node and epoch."""


def named(payload: dict[str, Any]) -> Head | None:
    """Return the audit head in a report, if there is one. Pure.

    Raises:
        MalformedError: there is something else.
    """
    found = payload.get("audit")
    if found is None:
        return None
    if not isinstance(found, dict) or not _HASH.fullmatch(str(found.get("hash"))):
        raise MalformedError("the report does not say where the audit log ends")
    return Head(whole(found, "seq"), str(found["hash"]))


def after(head: Head, record: dict[str, Any]) -> Head:
    """Return the head when a record has followed; one that was left out says its hash. Pure."""
    body = record.get("body")
    omitted = body.get("omitted") if isinstance(body, dict) else None
    if not isinstance(omitted, dict) or not _HASH.fullmatch(str(omitted.get("sha256"))):
        return head.after(wire.dumps(record))
    linked = bytes.fromhex(head.hash) + bytes.fromhex(str(omitted["sha256"]))
    return Head(head.seq + 1, hashlib.sha256(linked).hexdigest())


def extend(
    db: sqlite3.Connection, of: Ledger, first: int, records: Sequence[dict[str, Any]], at: str
) -> None:
    """Link the audit records that were committed just now, and judge the heads that waited."""
    head = _at(db, of, first - 1)
    if head is None:  # nobody knows how this log began, so it vouches for nothing
        last = first + len(records) - 1
        db.execute("DELETE FROM witnesses WHERE node = ? AND epoch = ? AND seq <= ?", (*of, last))
        return
    waiting = dict(
        db.execute("SELECT seq, hash FROM witnesses WHERE node = ? AND epoch = ?", of).fetchall()
    )
    for record in records:
        head = after(head, record)
        if waiting.get(head.seq, head.hash) != head.hash:
            _suspect(db, of, f"two audit logs of {head.seq} records")
    db.execute("INSERT INTO heads VALUES (?, ?, ?, ?, ?)", (*of, head.seq, head.hash, at))
    db.execute("DELETE FROM witnesses WHERE node = ? AND epoch = ? AND seq <= ?", (*of, head.seq))


def witness(db: sqlite3.Connection, of: Ledger, said: Head, at: str) -> None:
    """Hold a head that a node signed against its audit log, now or when its records come."""
    if said.seq == 0:
        return
    if said.seq <= _newest(db, of):
        own = _at(db, of, said.seq)
        if own is not None and own.hash != said.hash:
            _suspect(db, of, f"two audit logs of {said.seq} records")
        return
    db.execute(
        "INSERT INTO witnesses VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (*of, said.seq, said.hash, at),
    )
    (known,) = db.execute(
        "SELECT hash FROM witnesses WHERE node = ? AND epoch = ? AND seq = ?", (*of, said.seq)
    ).fetchone()
    if known != said.hash:
        _suspect(db, of, f"two audit logs of {said.seq} records")
    db.execute(
        "DELETE FROM witnesses WHERE node = ? AND epoch = ? AND seq < (SELECT min(seq) FROM (SELECT"
        " seq FROM witnesses WHERE node = ? AND epoch = ? ORDER BY seq DESC LIMIT ?))",
        (*of, *of, _MOST_WAITING),
    )


def reported(
    db: sqlite3.Connection, of: Ledger, said: Head | None, before: dict[str, Any], at: str
) -> None:
    """Take the head of a new report; ``before`` is the payload of the one before it."""
    if said is None:
        return
    last = named(before) if before.get("dbEpoch") == of[1] else None
    if last is not None and said.seq < last.seq:
        _suspect(db, of, f"its audit log had {last.seq} records and has {said.seq} now")
    witness(db, of, said, at)


def suspect(db: sqlite3.Connection, node: str, why: str) -> None:
    """Note that two histories of a node are known; what was noted first stays."""
    db.execute("INSERT INTO suspects VALUES (?, ?) ON CONFLICT DO NOTHING", (node, why))


def missing(db: sqlite3.Connection) -> dict[str, str]:
    """Return the nodes that signed for audit records which have not come, and what is missing."""
    rows = db.execute(
        "SELECT w.node, max(w.seq), coalesce(max(p.upto), 0), min(w.at) FROM witnesses AS w"
        " JOIN nodes AS n ON n.node = w.node AND n.db_epoch = w.epoch"
        " LEFT JOIN positions AS p ON p.node = w.node AND p.epoch = w.epoch AND p.stream = 'audit'"
        " GROUP BY w.node"
    )
    return {
        node: f"audit: {came} of {seq} records came, the rest is missing since {at}"
        for node, seq, came, at in rows
    }


def _newest(db: sqlite3.Connection, of: Ledger) -> int:
    query = "SELECT coalesce(max(seq), 0) FROM heads WHERE node = ? AND epoch = ?"
    return int(db.execute(query, of).fetchone()[0])


def _at(db: sqlite3.Connection, of: Ledger, seq: int) -> Head | None:
    """Return the hub's own head after ``seq`` records, if it is known how the log began."""
    row = db.execute(
        "SELECT seq, hash FROM heads WHERE node = ? AND epoch = ? AND seq <= ?"
        " ORDER BY seq DESC LIMIT 1",
        (*of, seq),
    ).fetchone()
    head = Head(0, GENESIS) if row is None else Head(int(row[0]), str(row[1]))
    rows = db.execute(
        "SELECT record FROM records WHERE node = ? AND epoch = ? AND stream = 'audit'"
        " AND seq > ? AND seq <= ? ORDER BY seq",
        (*of, head.seq, seq),
    )
    for (text,) in rows:
        record = json.loads(text)
        if record.get("kind") == coarsen.GAP:
            return None  # this hub lost what was here, when it was put back to an earlier day
        head = after(head, record)
    return head if head.seq == seq else None


def _suspect(db: sqlite3.Connection, of: Ledger, why: str) -> None:
    suspect(db, of[0], f"{why} in its ledger {of[1]}")
