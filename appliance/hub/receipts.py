"""Receipts at the hub: what nodes signed of themselves, whichever road it came.

They may come in any order and again. Two contents under one number are both kept and shown: they
mean that a node was cloned, or put back to an earlier day. A receipt whose nonce waits is answered
with a signed time, which only this node takes, and only once.
"""

import datetime
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from appliance.core import wire
from appliance.core.ids import NodeId
from appliance.errors import EquivocationError, MalformedError, RefusedError
from appliance.hub import heads, store
from appliance.hub.identity import HubIdentity
from appliance.hub.store import NodeRow
from appliance.kit.clock import rfc3339
from appliance.ledger.chain import Head
from appliance.sync.batch import Batch
from appliance.trust import floor, receipt
from appliance.trust.envelope import Addressee, Slot, seal, whole
from appliance.trust.receipt import Receipt

_TIME_LIFETIME = floor.SPAN
"""An answer that is old raises the floor less, never wrongly; so a slow stick does not spoil it."""

_MOST_CONTENTS = 2
"""So many contents of one number are proof enough."""

_MOST_PIECES = 1000


@dataclass(frozen=True, slots=True)
class Chain:
    """The receipts of one node's ledger, as far as they came in.

    ``gaps`` are numbers that have not come yet, first and last; ``forks`` those where two histories
    part.
    """

    node: str
    epoch: str
    receipts: int
    upto: int
    head: str
    issued: str
    came: int
    gaps: tuple[tuple[int, int], ...]
    forks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One receipt as the hub keeps it; ``id`` grows in the order in which they came."""

    id: int
    epoch: str
    seq: int
    hash: str
    previous: str
    kind: str
    issued: str
    audit_seq: int
    audit_hash: str
    at: str


def take(db: sqlite3.Connection, row: NodeRow, found: Receipt, envelope: bytes, at: str) -> str:
    """Keep a verified receipt; return ``new``, ``known`` or ``equivocation``."""
    where = (row.node, found.epoch, found.seq)
    known = [
        r[0]
        for r in db.execute(
            "SELECT hash FROM receipts WHERE node = ? AND epoch = ? AND seq = ?", where
        )
    ]
    if found.hash in known:
        return "known"
    if len(known) < _MOST_CONTENTS:
        said = found.payload
        db.execute(
            "INSERT INTO receipts (node, epoch, seq, hash, previous, kind, issued, audit_seq,"
            " audit_hash, at, envelope) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*where, found.hash, found.previous, said["kind"], said["issued"], *found.audit, at,
             envelope),
        )  # fmt: skip
    heads.witness(db, (row.node, found.epoch), Head(*found.audit), at)
    if not known:
        return "new"
    error = EquivocationError(f"two different receipts call themselves {found.seq}")
    store.refuse(db, (at, row.node, "receipts", error.code, error.what))
    return error.code


def take_all(
    db: sqlite3.Connection, row: NodeRow, org: str, envelopes: Iterable[bytes], at: str
) -> list[dict[str, Any]]:
    """Verify and keep receipts; return what became of each. One that is refused stops no other."""
    results = []
    for data in envelopes:
        try:
            found = receipt.open_receipt(data, {row.key}, org, row.node)
        except RefusedError as error:
            store.refuse(db, (at, row.node, "receipts", error.code, error.what))
            results.append({"result": "refused", **error.to_wire()})
            continue
        result = take(db, row, found, data, at)
        results.append({"result": result, "epoch": found.epoch, "seq": found.seq})
    _mark(db, row.node)
    return results


def take_batch(db: sqlite3.Connection, row: NodeRow, org: str, batch: Batch, at: str) -> None:
    """Keep the receipts that a batch of their stream completes, in the batch's own transaction."""
    where = (row.node, batch.epoch, batch.stream)
    complete = []
    for seq, record in enumerate(batch.records, start=batch.first):
        try:
            body = _piece(record)
            if body["part"] == body["of"]:
                complete.append(_joined(db, where, seq, body))
        except MalformedError as error:
            store.refuse(db, (at, row.node, "receipts", error.code, error.what))
    take_all(db, row, org, complete, at)


def _joined(
    db: sqlite3.Connection, where: tuple[str, str, str], last: int, body: dict[str, Any]
) -> bytes:
    """Return the envelope whose last piece is the record ``last``."""
    count = body["of"]
    pieces = [_piece(r) for r in store.records(db, where[0], where[1:], last - count, count)]
    if [(p["seq"], p["part"]) for p in pieces] != [(body["seq"], n + 1) for n in range(count)]:
        raise MalformedError("the pieces of a receipt do not follow each other")
    return "".join(piece["text"] for piece in pieces).encode()


def _piece(record: dict[str, Any]) -> dict[str, Any]:
    body = record.get("body")
    if not isinstance(body, dict) or not isinstance(body.get("text"), str):
        raise MalformedError("a record of the receipts is no piece of one")
    if not 1 <= whole(body, "part") <= whole(body, "of") <= _MOST_PIECES or not whole(body, "seq"):
        raise MalformedError("a piece of a receipt does not say which of how many it is")
    return body


def rows(db: sqlite3.Connection, name: str) -> list[Row]:
    """Return a node's receipts by ledger and number."""
    found = db.execute(
        "SELECT id, epoch, seq, hash, previous, kind, issued, audit_seq, audit_hash, at"
        " FROM receipts WHERE node = ? ORDER BY epoch, seq, id",
        (name,),
    )
    return [Row(*row) for row in found]


def chains(db: sqlite3.Connection, name: str) -> list[Chain]:
    """Return a node's chains, the newest at the end.

    That is the one signed last, and of two that a node without a clock signed, the one heard last.
    """
    found = rows(db, name)
    epochs = {row.epoch for row in found}
    made = [chain(name, [row for row in found if row.epoch == epoch]) for epoch in epochs]
    return sorted(made, key=lambda c: (c.issued, c.came))


def chain(node: str, found: Sequence[Row]) -> Chain:
    """Judge the receipts of one ledger, in the order of their numbers. Pure."""
    last = found[-1]
    gaps, expected = [], 1
    for row in found:
        if row.seq > expected:
            gaps.append((expected, row.seq - 1))
        expected = row.seq + 1
    return Chain(
        node=node,
        epoch=last.epoch,
        receipts=len(found),
        upto=last.seq,
        head=last.hash,
        issued=last.issued,
        came=max(row.id for row in found),
        gaps=tuple(gaps),
        forks=tuple(sorted(_forks(found))),
    )


def _forks(found: Sequence[Row]) -> set[int]:
    """Return the numbers at which these receipts cannot all be of one history."""
    hashes: dict[int, set[str]] = {}
    audits: dict[int, str] = {}
    forks, highest = set(), 0
    for row in found:
        before = hashes.get(row.seq - 1)
        if row.seq in hashes or (before is not None and row.previous not in before):
            forks.add(row.seq)
        if audits.setdefault(row.audit_seq, row.audit_hash) != row.audit_hash:
            forks.add(row.seq)
        if row.audit_seq < highest:
            forks.add(row.seq)
        highest = max(highest, row.audit_seq)
        hashes.setdefault(row.seq, set()).add(row.hash)
    return forks


def suspects(db: sqlite3.Connection) -> dict[str, str]:
    """Return the nodes of which two histories are known, and why."""
    return dict(db.execute("SELECT node, why FROM suspects").fetchall())


def _mark(db: sqlite3.Connection, name: str) -> None:
    forks = [(found.epoch, seq) for found in chains(db, name) for seq in found.forks]
    if forks:
        epoch, seq = forks[0]
        why = f"two histories since receipt {seq} of its ledger {epoch}"
        db.execute("INSERT INTO suspects VALUES (?, ?) ON CONFLICT DO NOTHING", (name, why))


def listed(db: sqlite3.Connection, name: str | None = None) -> list[dict[str, Any]]:
    """Return the chains of one node or of all, as plain JSON data."""
    names = [n.node for n in store.nodes(db)] if name is None else [name]
    return [asdict(found) for node in names for found in chains(db, node)]


def waiting_nonce(db: sqlite3.Connection, row: NodeRow) -> tuple[str, str] | None:
    """Return ledger and nonce of the newest receipt, when it asks for the time."""
    found = chains(db, row.node)
    if not found:
        return None
    newest = found[-1]
    (envelope,) = db.execute(
        "SELECT envelope FROM receipts WHERE node = ? AND epoch = ? AND hash = ?",
        (row.node, newest.epoch, newest.head),
    ).fetchone()
    nonce = receipt.payload_of(envelope)["nonce"]
    return None if nonce is None else (newest.epoch, nonce)


def signed_time(
    db: sqlite3.Connection, row: NodeRow, identity: HubIdentity, now: datetime.datetime
) -> bytes | None:
    """Return the time as an answer to what a node asks, if it asks."""
    found = waiting_nonce(db, row)
    if found is None:
        return None
    epoch, nonce = found
    to = Addressee(identity.org, NodeId(row.node), row.key, epoch)
    body = {"nonce": nonce, "time": rfc3339(now)}
    return seal(Slot.TIME, to, body, identity.sync, issued=now, lifetime=_TIME_LIFETIME)


def body_of(envelopes: object) -> list[bytes]:
    """Return the envelopes of a request as bytes.

    Raises:
        MalformedError: it holds none.
    """
    if not isinstance(envelopes, list) or not all(isinstance(e, dict) for e in envelopes):
        raise MalformedError("the request holds no list of receipts")
    return [wire.dumps(e) for e in envelopes]
