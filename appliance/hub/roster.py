"""Whom the hub knows, in ``hub.db``: tokens, certificates, and keys that are gone for good."""

import datetime
import sqlite3
from dataclasses import dataclass
from typing import Any

from appliance.errors import ExpiredError, ReplayError, RevokedError, ScopeError, SignatureError
from appliance.hub import store
from appliance.hub.authority import RevokedSerial
from appliance.hub.store import NodeRow
from appliance.kit.clock import parse_rfc3339


@dataclass(frozen=True, slots=True)
class Token:
    """A token for enrolment as the hub keeps it; ``used_by`` is the node key that used it."""

    id: str
    node: str
    site: str
    public: str
    replaces: bool
    made_at: str
    expires_at: str
    used_by: str | None = None
    used_at: str | None = None


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was issued to a node's key, and for which key for TLS."""

    serial: str
    node: str
    node_key: str
    public: bytes
    nonce: str
    issued_at: str
    expires_at: str
    chain: bytes
    revoked_at: str | None = None


def add_token(db: sqlite3.Connection, token: Token) -> None:
    """Keep a new token. Those that ended are forgotten."""
    db.execute("DELETE FROM tokens WHERE expires_at < ?", (token.made_at,))
    db.execute(
        "INSERT INTO tokens (id, node, site, public, replaces, made_at, expires_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (token.id, token.node, token.site, token.public, int(token.replaces), token.made_at,
         token.expires_at),
    )  # fmt: skip


def token(db: sqlite3.Connection, token_id: str) -> Token:
    """Return a token.

    Raises:
        SignatureError: this hub made none like it, or has forgotten it.
    """
    row = db.execute("SELECT * FROM tokens WHERE id = ?", (token_id,)).fetchone()
    if row is None:
        raise SignatureError(
            "this hub knows no such token", hint="make another at the hub: appliance hub token NODE"
        )
    return Token(**{**dict(row), "replaces": bool(row["replaces"])})


def use_token(db: sqlite3.Connection, found: Token, node: str, key: str, at: str) -> None:
    """Use a token up, for one node key; the same one may come again, its answer may be lost.

    Raises:
        ScopeError: it is for another node.
        ExpiredError: its time is over.
        ReplayError: another key used it.
    """
    if found.node != node:
        raise ScopeError(f"the token is for another node than {node}")
    if at >= found.expires_at:
        raise ExpiredError(f"the token ended at {found.expires_at}", hint="make another at the hub")
    if found.used_by not in (None, key):
        raise ReplayError(
            "the token was used by another key",
            hint="if that was not you, revoke the node at the hub; else make another token",
        )
    db.execute("UPDATE tokens SET used_by = ?, used_at = ? WHERE id = ?", (key, at, found.id))


def admit(db: sqlite3.Connection, node: str, key: str, site: str, at: str) -> None:
    """Know a node by its key from now on, as a person said; the same key again is harmless.

    Raises:
        RevokedError: the key was revoked, and never comes back.
        ScopeError: the key is another node's.
        UsageError: the node is known by another key, which was not revoked.
    """
    check_key(db, key)
    _check_own(db, node, key)
    if (known := find(db, node)) is not None and known.key != key and known.revoked_at is not None:
        replace(db, node, key, at)
    store.admit(db, node, key, at)
    if site:
        db.execute("UPDATE nodes SET site = ? WHERE node = ?", (site, node))


def replace(db: sqlite3.Connection, node: str, key: str, at: str) -> int | None:
    """Have another machine take a node's name: the old key is gone, generations go on above.

    Returns:
        The generation in which the new machine is asked for all that the old one was.

    Raises:
        NotFoundError: there is no such node.
        RevokedError: the new key was revoked.
        ScopeError: the new key is another node's.
    """
    row = store.node(db, node)
    check_key(db, key)
    _check_own(db, node, key)
    if row.key == key:
        return store.generation(db, node)
    revoke(db, node, "replaced by another machine", at)
    db.execute(
        "UPDATE nodes SET key = ?, revoked_at = NULL, db_epoch = NULL, link = NULL,"
        " reported = NULL, report = NULL, heard_at = NULL WHERE node = ?",
        (key, node),
    )
    db.execute("DELETE FROM suspects WHERE node = ?", (node,))
    return _generation_above(db, row)


def revoke(db: sqlite3.Connection, node: str, why: str, at: str) -> NodeRow:
    """Accept nothing of a node any more: neither its key nor its certificates ever come back.

    Raises:
        NotFoundError: there is no such node.
    """
    row = store.node(db, node)
    db.execute(
        "INSERT INTO gone_keys VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", (row.key, node, why, at)
    )
    db.execute("UPDATE nodes SET revoked_at = coalesce(revoked_at, ?) WHERE node = ?", (at, node))
    db.execute(
        "UPDATE certificates SET revoked_at = ? WHERE node = ? AND revoked_at IS NULL", (at, node)
    )
    db.execute("DELETE FROM tokens WHERE node = ? AND used_by = ?", (node, row.key))
    return store.node(db, node)


def check_key(db: sqlite3.Connection, key: str) -> None:
    """See that a key was never revoked.

    Raises:
        RevokedError: it was.
    """
    row = db.execute("SELECT node, why, at FROM gone_keys WHERE key = ?", (key,)).fetchone()
    if row is not None:
        raise RevokedError(
            f"this key of {row[0]} was revoked at {row[2]}: {row[1]}",
            hint="a revoked key never comes back: wipe the machine and enrol it with a new one",
        )


def _check_own(db: sqlite3.Connection, node: str, key: str) -> None:
    """See that a key is no other node's: one machine has one name."""
    row = db.execute("SELECT node FROM nodes WHERE key = ? AND node != ?", (key, node)).fetchone()
    if row is not None:
        raise ScopeError(
            f"this key is that of {row[0]}",
            hint="a machine has one name; was identity/ copied? Make keys of its own there",
        )


def check_not_revoked(row: NodeRow) -> None:
    """See that a node may say anything.

    Raises:
        RevokedError: it may not.
    """
    if row.revoked_at is not None:
        raise RevokedError(f"{row.node} was revoked at {row.revoked_at}")


def find(db: sqlite3.Connection, node: str) -> NodeRow | None:
    """Return a node if it is known."""
    known = db.execute("SELECT 1 FROM nodes WHERE node = ?", (node,)).fetchone()
    return None if known is None else store.node(db, node)


def note_issued(db: sqlite3.Connection, issued: Issued) -> None:
    """Keep a certificate that was issued."""
    db.execute(
        "INSERT INTO certificates VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (issued.serial, issued.node, issued.node_key, issued.public, issued.nonce,
         issued.issued_at, issued.expires_at, issued.chain, issued.revoked_at),
    )  # fmt: skip


def issued(db: sqlite3.Connection, node: str, node_key: str) -> list[Issued]:
    """Return the certificates of a node's key that were not revoked, newest first."""
    rows = db.execute(
        "SELECT * FROM certificates WHERE node = ? AND node_key = ? AND revoked_at IS NULL"
        " ORDER BY issued_at DESC, rowid DESC",
        (node, node_key),
    )
    return [Issued(**dict(row)) for row in rows]


def shown(db: sqlite3.Connection, row: NodeRow) -> list[dict[str, Any]]:
    """Return the certificates of a node as plain JSON data, newest first."""
    return [
        {"serial": c.serial, "issued": c.issued_at, "expires": c.expires_at}
        for c in issued(db, row.node, row.key)
    ]


def revoked_serials(db: sqlite3.Connection, now: str) -> list[RevokedSerial]:
    """Return what a broker must not accept although it has not ended."""
    rows = db.execute(
        "SELECT serial, revoked_at FROM certificates WHERE revoked_at IS NOT NULL"
        " AND expires_at > ? ORDER BY revoked_at, serial",
        (now,),
    )
    return [RevokedSerial(serial, parse_rfc3339(at)) for serial, at in rows]


def ends_at(found: Issued) -> datetime.datetime:
    """Return when a certificate ends."""
    return parse_rfc3339(found.expires_at)


def _generation_above(db: sqlite3.Connection, row: NodeRow) -> int | None:
    """Begin a generation above all that the old machine was asked for, or said that it follows."""
    applied = ((row.reported or {}).get("applied") or {}).get("generation")
    floor = applied if isinstance(applied, int) and applied > 0 else 0
    asked = store.generation(db, row.node)
    if asked is None and not floor:
        return None
    if floor > (asked or 0):
        db.execute(
            "INSERT INTO generations (node, generation) VALUES (?, ?)"
            " ON CONFLICT DO UPDATE SET generation = excluded.generation",
            (row.node, floor),
        )
    return store.next_generation(db, row.node)
