"""The GPUs that were ever seen here, and which are fenced.

Functions here work inside somebody's transaction or query on a connection they are given.
"""

import sqlite3
from dataclasses import dataclass

from appliance.core.machine import Fence


@dataclass(frozen=True, slots=True)
class KnownGpu:
    """A GPU that was seen here once; without a ``fence`` it may be used."""

    uuid: str
    name: str | None
    seen_at: str
    fence: Fence | None = None


def known(db: sqlite3.Connection) -> dict[str, KnownGpu]:
    """Return every GPU that was ever seen here and not forgotten, by UUID."""
    found = db.execute(
        "SELECT uuid, name, seen_at, reason, message, fenced_by, fenced_at FROM gpus ORDER BY uuid"
    )
    return {
        row[0]: KnownGpu(row[0], row[1], row[2], None if row[3] is None else Fence(*row[3:]))
        for row in found
    }


def remember(db: sqlite3.Connection, uuid: str, name: str | None, at: str) -> None:
    """Note that a GPU was seen; a name that the driver does not say now stays as it was."""
    db.execute(
        "INSERT INTO gpus (uuid, name, seen_at) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET"
        " name = coalesce(excluded.name, name)",
        (uuid, name, at),
    )


def fence(db: sqlite3.Connection, uuid: str, why: Fence) -> bool:
    """Fence a GPU; return whether it was not fenced before. The first reason stays.

    One that fails before anybody noted that it is there is remembered by this.
    """
    return bool(
        db.execute(
            "INSERT INTO gpus (uuid, seen_at, reason, message, fenced_by, fenced_at)"
            " VALUES (?1, ?5, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET reason = ?2, message = ?3,"
            " fenced_by = ?4, fenced_at = ?5 WHERE reason IS NULL",
            (uuid, why.reason, why.message, why.by, why.at),
        ).rowcount
    )


def release(db: sqlite3.Connection, uuid: str) -> bool:
    """Let a GPU be used again; return whether it was fenced."""
    return bool(
        db.execute(
            "UPDATE gpus SET reason = NULL, message = NULL, fenced_by = NULL, fenced_at = NULL"
            " WHERE uuid = ? AND reason IS NOT NULL",
            (uuid,),
        ).rowcount
    )


def forget(db: sqlite3.Connection, uuid: str) -> None:
    """Forget a GPU that was taken out, so that nobody misses it."""
    db.execute("DELETE FROM gpus WHERE uuid = ?", (uuid,))
