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
    """Link the audit records that were committed just now, and judge the heads that waited.

    Behind a gap the chain goes on from the first head that the node signed there.
    """
    _settle(db, of, first - 1, at)
    head, said = _at(db, of, first - 1), _said(db, of, first)
    for seq, record in enumerate(records, start=first):
        head = None if head is None else after(head, record)
        for digest in sorted(said.get(seq, ())):
            if head is None:
                head = Head(seq, digest)
                _keep(db, of, head, at)
            elif digest != head.hash:
                _two(db, of, seq)
    if head is not None:
        _keep(db, of, head, at)
    last = first + len(records) - 1
    db.execute("DELETE FROM witnesses WHERE node = ? AND epoch = ? AND seq <= ?", (*of, last))


def witness(db: sqlite3.Connection, of: Ledger, said: Head, at: str) -> None:
    """Hold a head that a node signed against its audit log, now or when its records come."""
    if said.seq == 0:
        return
    came = _came(db, of)
    _settle(db, of, came, at)
    if said.seq <= came:
        _judge(db, of, said, at)
        return
    db.execute(
        "INSERT INTO witnesses VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (*of, said.seq, said.hash, at),
    )
    (known,) = db.execute(
        "SELECT hash FROM witnesses WHERE node = ? AND epoch = ? AND seq = ?", (*of, said.seq)
    ).fetchone()
    if known != said.hash:
        _two(db, of, said.seq)
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
        " WHERE w.seq > coalesce(p.upto, 0) GROUP BY w.node"
    )
    return {
        node: f"audit: {came} of {seq} records came, the rest is missing since {at}"
        for node, seq, came, at in rows
    }


def _came(db: sqlite3.Connection, of: Ledger) -> int:
    """Return how many audit records came, with those that this hub lost again."""
    row = db.execute(
        "SELECT upto FROM positions WHERE node = ? AND epoch = ? AND stream = 'audit'", of
    ).fetchone()
    return 0 if row is None else int(row[0])


def _settle(db: sqlite3.Connection, of: Ledger, upto: int, at: str) -> None:
    """Judge the heads that wait for records which came otherwise, or never will."""
    waiting = db.execute(
        "DELETE FROM witnesses WHERE node = ? AND epoch = ? AND seq <= ? RETURNING seq, hash",
        (*of, upto),
    ).fetchall()
    for seq, digest in sorted((int(seq), str(digest)) for seq, digest in waiting):
        _judge(db, of, Head(seq, digest), at)


def _judge(db: sqlite3.Connection, of: Ledger, said: Head, at: str) -> None:
    """Hold a head against the hub's own; where a gap hides that, it is where the chain goes on."""
    own = _at(db, of, said.seq)
    if own is None:
        _keep(db, of, said, at)
    elif own.hash != said.hash:
        _two(db, of, said.seq)


def _keep(db: sqlite3.Connection, of: Ledger, head: Head, at: str) -> None:
    """Note a head to go on from, and see that the one after it, if there is one, follows."""
    db.execute(
        "INSERT INTO heads VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (*of, head.seq, head.hash, at),
    )
    row = db.execute(
        "SELECT seq, hash FROM heads WHERE node = ? AND epoch = ? AND seq > ? ORDER BY seq LIMIT 1",
        (*of, head.seq),
    ).fetchone()
    linked = None if row is None else _linked(db, of, head, int(row[0]))
    if linked is not None and linked.hash != row[1]:
        _two(db, of, linked.seq)


def _said(db: sqlite3.Connection, of: Ledger, first: int) -> dict[int, set[str]]:
    """Return what is known of the heads from a number on."""
    found: dict[int, set[str]] = {}
    query = "SELECT seq, hash FROM {} WHERE node = ? AND epoch = ? AND seq >= ?"
    for table in ("witnesses", "heads"):
        for seq, digest in db.execute(query.format(table), (*of, first)):
            found.setdefault(int(seq), set()).add(str(digest))
    return found


def _at(db: sqlite3.Connection, of: Ledger, seq: int) -> Head | None:
    """Return the hub's own head after ``seq`` records, if no gap is before it."""
    row = db.execute(
        "SELECT seq, hash FROM heads WHERE node = ? AND epoch = ? AND seq <= ?"
        " ORDER BY seq DESC LIMIT 1",
        (*of, seq),
    ).fetchone()
    head = Head(0, GENESIS) if row is None else Head(int(row[0]), str(row[1]))
    return _linked(db, of, head, seq)


def _linked(db: sqlite3.Connection, of: Ledger, head: Head, seq: int) -> Head | None:
    """Return the head after ``seq`` records, going on from one before; None across a gap."""
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


def _two(db: sqlite3.Connection, of: Ledger, seq: int) -> None:
    _suspect(db, of, f"two audit logs of {seq} records")


def _suspect(db: sqlite3.Connection, of: Ledger, why: str) -> None:
    suspect(db, of[0], f"{why} in its ledger {of[1]}")
