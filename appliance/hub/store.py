"""``hub.db``: queries and effects. One writer thread, group commit."""

import json
import sqlite3
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.core import wire
from appliance.core.documents import Document
from appliance.errors import NotFoundError, RevokedError, UsageError
from appliance.hub import resume
from appliance.hub.ingest import ingest

__all__ = ["ingest"]

MOST_DOCUMENT_BYTES = 44 << 10
"""What a generation may hold, so that its envelope stays below 64 KiB."""


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node as the hub knows it; ``heard_at``: when it last reported, in the hub's own time."""

    node: str
    key: str
    admitted_at: str
    db_epoch: str | None
    link: dict[str, Any] | None
    reported: dict[str, Any] | None
    report: int | None
    heard_at: str | None
    site: str | None = None
    revoked_at: str | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """One generation of what the fleet asks of a node."""

    generation: int
    db_epoch: str
    documents: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Sender:
    """Whose signature a node's batches need, and whether they are wanted still."""

    key: str
    revoked_at: str | None


@dataclass(frozen=True, slots=True)
class Committed:
    """How far the streams of a node's present ledger were committed, as it is told."""

    node: str
    key: str
    db_epoch: str
    streams: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Position:
    """How far one stream of one node was committed."""

    epoch: str
    stream: str
    upto: int
    hash: str


def admit(db: sqlite3.Connection, node: str, key: str, at: str) -> None:
    """Know a node by its key from now on; admitting it again with the same key is harmless.

    Raises:
        UsageError: it is known by another key.
    """
    found = db.execute("SELECT key FROM nodes WHERE node = ?", (node,)).fetchone()
    if found is not None and found[0] != key:
        raise UsageError(
            f"{node} is known by another key", hint="give the new machine a name of its own"
        )
    if found is None:
        db.execute("INSERT INTO nodes (node, key, admitted_at) VALUES (?, ?, ?)", (node, key, at))


def nodes(db: sqlite3.Connection) -> list[NodeRow]:
    """Return all nodes, by name."""
    return [_node(row) for row in db.execute("SELECT * FROM nodes ORDER BY node")]


def names(db: sqlite3.Connection) -> list[str]:
    """Return the names of all nodes that were not revoked."""
    rows = db.execute("SELECT node FROM nodes WHERE revoked_at IS NULL ORDER BY node")
    return [row[0] for row in rows.fetchall()]


def node(db: sqlite3.Connection, name: str) -> NodeRow:
    """Return one node.

    Raises:
        NotFoundError: it was never admitted.
    """
    row = db.execute("SELECT * FROM nodes WHERE node = ?", (name,)).fetchone()
    if row is None:
        raise NotFoundError(f"no node {name!r} was admitted", hint="appliance hub admit")
    return _node(row)


def standing(db: sqlite3.Connection, name: str) -> NodeRow:
    """Return a node of which something may be asked, and to which something may be said.

    Raises:
        NotFoundError: it was never admitted.
        RevokedError: it was revoked.
    """
    row = node(db, name)
    if row.revoked_at is not None:
        raise RevokedError(
            f"{row.node} was revoked at {row.revoked_at}: nothing is said to it any more",
            hint=f"for another machine under its name: appliance hub token {row.node}",
        )
    return row


def _node(row: sqlite3.Row) -> NodeRow:
    found = dict(row)
    for name in ("link", "reported"):
        found[name] = None if found[name] is None else json.loads(found[name])
    return NodeRow(**found)


def senders(db: sqlite3.Connection, names: Collection[str]) -> dict[str, Sender]:
    """Return those of the nodes that were admitted."""
    (text,) = db.execute(
        "SELECT json_group_array(json_array(node, key, revoked_at)) FROM nodes"
        " WHERE node IN (SELECT value FROM json_each(?))",
        (json.dumps(list(names)),),
    ).fetchone()
    return {name: Sender(key, revoked_at) for name, key, revoked_at in json.loads(text)}


def committed(db: sqlite3.Connection, names: Collection[str]) -> list[Committed]:
    """Return what is to be acknowledged; nodes without an epoch, or revoked, are left out."""
    (text,) = db.execute(
        "SELECT json_group_array(json_array(node, key, db_epoch, json(streams))) FROM (SELECT"
        " n.node, n.key, n.db_epoch, json_group_object(p.stream,"
        " json_object('epoch', p.epoch, 'upto', p.upto, 'hash', p.hash)) AS streams"
        " FROM nodes AS n JOIN positions AS p ON p.node = n.node AND p.epoch = n.db_epoch"
        " WHERE n.revoked_at IS NULL AND n.node IN (SELECT value FROM json_each(?))"
        " GROUP BY n.node)",
        (json.dumps(list(names)),),
    ).fetchone()
    return [Committed(*row) for row in json.loads(text)]


def set_reported(
    db: sqlite3.Connection, name: str, payload: dict[str, Any], number: int, at: str
) -> bool:
    """Note a node's signed report; return False for one that is not newer than the last.

    A ledger that another has replaced does not come back, so its reports are old for ever.
    """
    epoch, text = str(payload["dbEpoch"]), wire.dumps(payload).decode()
    changed = db.execute(
        "UPDATE nodes SET db_epoch = ?, reported = ?, report = ?, heard_at = ? WHERE node = ? AND"
        " CASE WHEN db_epoch IS ? THEN report < ?"
        " ELSE NOT EXISTS (SELECT 1 FROM epochs WHERE node = ? AND epoch = ?) END",
        (epoch, text, number, at, name, epoch, number, name, epoch),
    )
    db.execute("INSERT INTO epochs VALUES (?, ?) ON CONFLICT DO NOTHING", (name, epoch))
    if changed.rowcount > 0:
        resume.heard(db, name, payload, at)
    return changed.rowcount > 0


def set_link(db: sqlite3.Connection, name: str, link: dict[str, Any]) -> None:
    """Note what the broker says of a node's connection; unsigned, so evidence of nothing."""
    db.execute("UPDATE nodes SET link = ? WHERE node = ?", (wire.dumps(link).decode(), name))


def positions(db: sqlite3.Connection, name: str) -> list[Position]:
    """Return how far each stream of a node was committed."""
    rows = db.execute(
        "SELECT epoch, stream, upto, hash FROM positions WHERE node = ? ORDER BY epoch, stream",
        (name,),
    )
    return [Position(*row) for row in rows]


def records(
    db: sqlite3.Connection, name: str, where: tuple[str, str], after: int, most: int
) -> list[dict[str, Any]]:
    """Return records of one epoch and stream, in the order of their numbers."""
    rows = db.execute(
        "SELECT epoch, seq, record, span FROM records WHERE node = ? AND epoch = ? AND stream = ?"
        " AND seq > ? ORDER BY seq LIMIT ?",
        (name, *where, after, most),
    )
    return [
        {**json.loads(r[2]), "epoch": r[0], "seq": r[1], **({"span": r[3]} if r[3] > 1 else {})}
        for r in rows
    ]


def batches(db: sqlite3.Connection, name: str) -> list[dict[str, Any]]:
    """Return every batch of a node."""
    rows = db.execute(
        "SELECT epoch, stream, first, count, hash, at FROM batches WHERE node = ?"
        " ORDER BY epoch, stream, first",
        (name,),
    )
    return [dict(row) for row in rows]


def refuse(db: sqlite3.Connection, refusal: tuple[str, str, str, str, str]) -> None:
    """Note what was refused: time, node, topic, code and why; the newest thousand are kept."""
    db.execute("INSERT INTO refusals (at, node, topic, code, why) VALUES (?, ?, ?, ?, ?)", refusal)
    db.execute("DELETE FROM refusals WHERE id <= (SELECT max(id) FROM refusals) - 1000")


def refusals(db: sqlite3.Connection, name: str) -> list[dict[str, Any]]:
    """Return what was refused from one node, newest first."""
    rows = db.execute(
        "SELECT at, topic, code, why FROM refusals WHERE node = ? ORDER BY id DESC LIMIT 100",
        (name,),
    )
    return [dict(row) for row in rows]


def documents(db: sqlite3.Connection, name: str) -> list[dict[str, Any]]:
    """Return what the fleet asks of a node."""
    rows = db.execute("SELECT document FROM documents WHERE node = ? ORDER BY kind, name", (name,))
    return [json.loads(row[0]) for row in rows]


def put_documents(db: sqlite3.Connection, name: str, found: Sequence[Document]) -> int:
    """Ask something of a node; return the generation that says so.

    Raises:
        NotFoundError: the node was never admitted.
        RevokedError: it was revoked.
        UsageError: all of it would not fit into one envelope.
    """
    standing(db, name)
    for document in found:
        db.execute(
            "INSERT INTO documents VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET document = excluded.document",
            (name, document.kind, document.name, wire.dumps(document.to_wire()).decode()),
        )
    size = len(wire.dumps(documents(db, name)))
    if size > MOST_DOCUMENT_BYTES:
        raise UsageError(
            f"{name} would be asked for {size} bytes of documents, more than one envelope holds "
            f"({MOST_DOCUMENT_BYTES})",
            hint="delete documents that are not needed any more",
        )
    return next_generation(db, name)


def delete_document(db: sqlite3.Connection, name: str, kind: str, document: str) -> int:
    """Ask no more for something; return the generation that says so.

    Raises:
        NotFoundError: it was not asked for.
        RevokedError: the node was revoked.
    """
    standing(db, name)
    gone = db.execute(
        "DELETE FROM documents WHERE node = ? AND kind = ? AND name = ?", (name, kind, document)
    )
    if gone.rowcount == 0:
        raise NotFoundError(f"{name} is not asked for {kind} {document}")
    return next_generation(db, name)


def next_generation(db: sqlite3.Connection, name: str) -> int:
    """Begin a new generation, whose envelope is still to be sealed."""
    resume.release(db, name)
    (generation,) = db.execute(
        "INSERT INTO generations VALUES (?, 1, NULL, NULL, NULL) ON CONFLICT DO UPDATE SET"
        " generation = generation + 1, db_epoch = NULL, envelope = NULL, sealed_at = NULL"
        " RETURNING generation",
        (name,),
    ).fetchone()
    return int(generation)


def generation(db: sqlite3.Connection, name: str) -> int | None:
    """Return the number of what was last asked of a node, if anything ever was."""
    row = db.execute("SELECT generation FROM generations WHERE node = ?", (name,)).fetchone()
    return None if row is None else int(row[0])


def kept(db: sqlite3.Connection, name: str, too_old: str) -> bytes | None:
    """Return the envelope that ``sealed`` would return without sealing anything."""
    row = db.execute(
        "SELECT g.envelope FROM generations AS g JOIN nodes AS n"
        " ON n.node = g.node AND n.db_epoch = g.db_epoch AND n.revoked_at IS NULL"
        " WHERE g.node = ? AND g.sealed_at >= ?"
        " AND NOT EXISTS (SELECT 1 FROM resuming WHERE node = g.node)",
        (name, too_old),
    ).fetchone()
    return None if row is None or row[0] is None else bytes(row[0])


def sealed(
    db: sqlite3.Connection, name: str, now: str, too_old: str, seal: Callable[[Ask], bytes]
) -> bytes | None:
    """Return the envelope of a node's generation: sealed once, then always the same bytes.

    One that was sealed before ``too_old`` makes place for a new generation, so that what a broker
    retains never expires; and so does one for another ledger, because no number may ever stand
    for two contents. None when nothing was asked, the node never said its epoch, or it was revoked.
    """
    row = db.execute(
        "SELECT generation, db_epoch, envelope, sealed_at FROM generations WHERE node = ?", (name,)
    ).fetchone()
    known = node(db, name)
    epoch = None if known.revoked_at is not None else known.db_epoch
    if row is None or epoch is None or resume.is_held(db, name):
        return None
    number, sealed_for, envelope, sealed_at = row
    if envelope is not None and sealed_for == epoch and sealed_at >= too_old:
        return bytes(envelope)
    if envelope is not None:
        number = next_generation(db, name)
    fresh = seal(Ask(number, epoch, documents(db, name)))
    db.execute(
        "UPDATE generations SET db_epoch = ?, envelope = ?, sealed_at = ? WHERE node = ?",
        (epoch, fresh, now, name),
    )
    return fresh
