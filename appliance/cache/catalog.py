"""Queries over the catalogue: one row for each variant that a signature vouched for."""

import sqlite3

from appliance.core import wire
from appliance.core.ids import Digest
from appliance.core.model import Variant


def add(db: sqlite3.Connection, variant: Variant, at: str) -> bool:
    """Add a variant inside somebody's transaction; return False when it was there already.

    A name, version and variant that come with another digest replace the old row: both were
    approved, and the newest signed list says which it is. So does a digest that comes under
    another name, or from another publisher: by the old one it would be listed no more.
    """
    row = db.execute(
        "SELECT manifest, body FROM variants WHERE model = ? AND version = ? AND name = ?",
        (variant.model, variant.version, variant.name),
    ).fetchone()
    if row is not None and row[0] == variant.manifest and _variant(row).path == variant.path:
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


def remove(db: sqlite3.Connection, manifest: Digest) -> None:
    """Take a variant out inside somebody's transaction; its blobs stay until they are collected."""
    db.execute("DELETE FROM variants WHERE manifest = ?", (manifest,))


_EVERYTHING = "SELECT manifest, body FROM variants ORDER BY model, version, name"
_WHOLE = (
    "SELECT manifest, body FROM variants WHERE manifest NOT IN"
    " (SELECT manifest FROM needs JOIN blobs USING (digest) WHERE state != 'ok')"
    " ORDER BY model, version, name"
)


def variants(db: sqlite3.Connection) -> list[Variant]:
    """Return what may be served, in order: the catalogue without what lost one of its blobs."""
    return [_variant(row) for row in db.execute(_WHOLE)]


def everything(db: sqlite3.Connection) -> list[Variant]:
    """Return the whole catalogue, in order, with what waits for a lost blob to be brought again."""
    return [_variant(row) for row in db.execute(_EVERYTHING)]


def digests(db: sqlite3.Connection) -> set[Digest]:
    """Return the manifests that may run."""
    return {variant.manifest for variant in variants(db)}


def _variant(row: tuple[str, str]) -> Variant:
    manifest, body = row
    return Variant.from_wire(wire.loads(body.encode(), what=f"catalogue row {manifest}"))
