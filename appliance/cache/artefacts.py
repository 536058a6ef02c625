"""Queries over what is held besides models; of each line the newest two versions."""

import sqlite3

from appliance.core import wire
from appliance.core.artefact import HeldArtefact

_KEPT = 2
"""How many versions of one thing stay: the newest, and the one to go back to."""


def add(db: sqlite3.Connection, held: HeldArtefact, at: str) -> bool:
    """Add an artefact inside somebody's transaction; return False when it was there already.

    Either way it is the newest of its line now, and the oldest versions beyond those that are kept
    go. Their blobs are collected.
    """
    row = db.execute("SELECT manifest FROM artefacts WHERE path = ?", (held.path,)).fetchone()
    body = wire.dumps(held.to_wire()).decode()
    db.execute(
        "INSERT OR REPLACE INTO artefacts VALUES (?, ?, ?, ?, ?)",
        (held.path, held.manifest, held.line, body, at),
    )
    db.execute(
        "DELETE FROM artefacts WHERE line = ? AND path NOT IN (SELECT path FROM artefacts"
        " WHERE line = ? ORDER BY rowid DESC LIMIT ?)",
        (held.line, held.line, _KEPT),
    )
    return row is None or row[0] != held.manifest


def everything(db: sqlite3.Connection) -> list[HeldArtefact]:
    """Return all that is held, in the order of paths."""
    return [_held(row) for row in db.execute("SELECT path, body FROM artefacts ORDER BY path")]


def newest(db: sqlite3.Connection, prefix: str) -> HeldArtefact | None:
    """Return what came last below a path; None when nothing did."""
    row = db.execute(
        "SELECT path, body FROM artefacts WHERE substr(path, 1, ?) = ? ORDER BY rowid DESC LIMIT 1",
        (len(prefix), prefix),
    ).fetchone()
    return None if row is None else _held(row)


def _held(row: tuple[str, str]) -> HeldArtefact:
    path, body = row
    return HeldArtefact.from_wire(wire.loads(body.encode(), what=f"the row of {path}"))
