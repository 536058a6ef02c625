"""Queries over the catalogue: one row for each variant that a signature vouched for."""

import sqlite3

from appliance.core import wire
from appliance.core.ids import Digest
from appliance.core.model import Variant


def add(db: sqlite3.Connection, variant: Variant, at: str) -> bool:
    """Add a variant inside somebody's transaction; return False when it was there already.

    A name, version and variant that come with another digest replace the old row: both were
    approved, and the newest signed list says which it is. So does a digest that comes under
    another name.
    """
    row = db.execute(
        "SELECT manifest FROM variants WHERE model = ? AND version = ? AND name = ?",
        (variant.model, variant.version, variant.name),
    ).fetchone()
    if row is not None and row[0] == variant.manifest:
        return False
    db.execute(
        "DELETE FROM variants WHERE manifest = ? OR (model = ? AND version = ? AND name = ?)",
        (variant.manifest, variant.model, variant.version, variant.name),
    )
    body = wire.dumps(variant.to_wire()).decode()
    db.execute(
        "INSERT INTO variants VALUES (?, ?, ?, ?, ?, ?)",
        (variant.manifest, variant.model, variant.version, variant.name, body, at),
    )
    return True


def variants(db: sqlite3.Connection) -> list[Variant]:
    """Return the whole catalogue, in order."""
    rows = db.execute("SELECT manifest, body FROM variants ORDER BY model, version, name")
    return [
        Variant.from_wire(wire.loads(body.encode(), what=f"catalogue row {manifest}"))
        for manifest, body in rows
    ]


def digests(db: sqlite3.Connection) -> set[Digest]:
    """Return the manifests that may run."""
    return {Digest(row[0]) for row in db.execute("SELECT manifest FROM variants")}
