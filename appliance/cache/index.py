"""What the ledger knows of the blobs in the store: who needs them, and how they were found last.

Functions here work inside somebody's transaction or query on a connection they are given. A blob
is judged against its SHA-256 alone; the BLAKE3 kept here is only a quicker way to see that nothing
has changed since.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from appliance.cache import roots
from appliance.core.ids import Digest


class BlobState(StrEnum):
    """How a blob was found last."""

    OK = "ok"
    DAMAGED = "damaged"
    MISSING = "missing"
    RETURNED = "returned"
    """There again under its name after it was lost, and not verified yet."""


@dataclass(frozen=True, slots=True)
class BlobRow:
    """One row. ``blake3`` is None until the SHA-256 was verified here."""

    digest: Digest
    size: int
    blake3: bytes | None
    verified_at: str | None
    state: BlobState

    @property
    def is_ok(self) -> bool:
        """Whether it may be used, as far as is known."""
        return self.state is BlobState.OK


@dataclass(frozen=True, slots=True)
class Wanted:
    """A blob that this node had, lost, and needs again."""

    digest: Digest
    size: int
    state: BlobState
    models: tuple[str, ...]

    def to_wire(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {"digest": self.digest, "size": self.size, "state": self.state,
                "models": list(self.models)}  # fmt: skip


def rows(db: sqlite3.Connection) -> dict[Digest, BlobRow]:
    """Return all rows."""
    found = db.execute("SELECT digest, size, blake3, verified_at, state FROM blobs ORDER BY digest")
    return {Digest(row[0]): _row(row) for row in found}


def row(db: sqlite3.Connection, digest: Digest) -> BlobRow | None:
    """Return one row."""
    found = db.execute(
        "SELECT digest, size, blake3, verified_at, state FROM blobs WHERE digest = ?", (digest,)
    ).fetchone()
    return None if found is None else _row(found)


def needs(db: sqlite3.Connection) -> dict[Digest, dict[Digest, int]]:
    """Return which blobs, of which size, each manifest needs; itself is one of them."""
    found: dict[Digest, dict[Digest, int]] = {}
    for manifest, digest, size in db.execute("SELECT manifest, digest, size FROM needs"):
        found.setdefault(Digest(manifest), {})[Digest(digest)] = size
    return found


def learn(
    db: sqlite3.Connection,
    found: Mapping[Digest, Mapping[Digest, int]],
    gone: Iterable[Digest],
    at: str,
) -> None:
    """Note what manifests need that were not known before; forget those that are gone."""
    forget(db, gone)
    for manifest, blobs in found.items():
        db.executemany(
            "INSERT INTO needs VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET size = excluded.size",
            [(manifest, digest, size) for digest, size in blobs.items()],
        )
        db.execute("INSERT INTO uses VALUES (?, ?, NULL) ON CONFLICT DO NOTHING", (manifest, at))


def forget(db: sqlite3.Connection, manifests: Iterable[Digest]) -> None:
    """Forget what manifests need that nobody lists or holds any more."""
    for manifest in manifests:
        db.execute("DELETE FROM needs WHERE manifest = ?", (manifest,))
        db.execute("DELETE FROM uses WHERE manifest = ?", (manifest,))


def admitted(db: sqlite3.Connection, blobs: Mapping[Digest, int]) -> None:
    """Note blobs that an import has just verified and renamed into the store.

    Call it in the transaction that writes the catalogue: what was lost is whole again with it.
    """
    for digest, size in blobs.items():
        db.execute(
            "INSERT INTO blobs VALUES (?, ?, NULL, NULL, 'ok') ON CONFLICT DO UPDATE SET"
            " size = excluded.size, blake3 = NULL, verified_at = NULL, state = 'ok'",
            (digest, size),
        )
        _reread(db, digest)


def appeared(
    db: sqlite3.Connection, new: Mapping[Digest, int], stale: Iterable[Digest] = ()
) -> None:
    """Note files that have no row yet or had one as lost; forget rows that stand for nothing."""
    drop(db, stale)
    db.executemany(
        "INSERT INTO blobs VALUES (?, ?, NULL, NULL, 'ok') ON CONFLICT DO UPDATE SET"
        " size = excluded.size, state = 'returned' WHERE state IN ('damaged', 'missing')",
        list(new.items()),
    )


def distrust(db: sqlite3.Connection) -> None:
    """Have every blob hashed before it is used again: this ledger is older than its store."""
    db.execute(
        "UPDATE blobs SET blake3 = NULL, verified_at = NULL, state = 'returned' WHERE state = 'ok'"
    )
    db.execute("DELETE FROM scrub")


def strangers(db: sqlite3.Connection, sizes: Mapping[Digest, int]) -> int:
    """Have blobs hashed before they are used that lie in the store and have no row here.

    An earlier ledger had put them there, or somebody did.

    Returns:
        How many there are.
    """
    found = db.executemany(
        "INSERT INTO blobs VALUES (?, ?, NULL, NULL, 'returned') ON CONFLICT DO NOTHING",
        list(sizes.items()),
    )
    return found.rowcount


def verified(db: sqlite3.Connection, digest: Digest, blake3: bytes, at: str) -> None:
    """Note that a blob is what its name says."""
    db.execute(
        "UPDATE blobs SET blake3 = ?, verified_at = ?, state = 'ok' WHERE digest = ?",
        (blake3, at, digest),
    )
    db.execute("DELETE FROM scrub WHERE digest = ?", (digest,))


def healed(db: sqlite3.Connection, digest: Digest, blake3: bytes, at: str) -> None:
    """Note that a blob that was lost is here again, and is what its name says."""
    verified(db, digest, blake3, at)
    _reread(db, digest)


def _reread(db: sqlite3.Connection, manifest: Digest) -> None:
    """Have what a manifest needs read again: what is known may date from when it was lost."""
    db.execute("DELETE FROM needs WHERE manifest = ?", (manifest,))


def lost(db: sqlite3.Connection, digest: Digest, size: int, state: BlobState) -> None:
    """Note that a blob is not in the store any more; nothing starts from it until it is."""
    db.execute(
        "INSERT INTO blobs VALUES (?, ?, NULL, NULL, ?) ON CONFLICT DO UPDATE SET"
        " blake3 = NULL, verified_at = NULL, state = excluded.state",
        (digest, size, state),
    )


def drop(db: sqlite3.Connection, digests: Iterable[Digest]) -> None:
    """Forget blobs that nobody needs and that are gone."""
    db.executemany("DELETE FROM blobs WHERE digest = ?", [(digest,) for digest in digests])


def due(db: sqlite3.Connection, before: str, now: str) -> BlobRow | None:
    """Return the blob to verify next: what returned, what has no index, then the oldest.

    A time in the future was written by a clock that was wrong.
    """
    found = db.execute(
        "SELECT digest, size, blake3, verified_at, state FROM blobs"
        " WHERE state = 'returned' OR (state = 'ok' AND"
        " (blake3 IS NULL OR verified_at < ? OR verified_at > ?))"
        " ORDER BY state = 'ok', blake3 IS NOT NULL, verified_at, digest LIMIT 1",
        (before, now),
    ).fetchone()
    return None if found is None else _row(found)


def begun(db: sqlite3.Connection) -> tuple[BlobRow | None, int]:
    """Return the blob that the scrub was in the middle of, and how many pieces it had done."""
    found = db.execute(
        "SELECT digest, size, blake3, verified_at, state, piece FROM scrub"
        " JOIN blobs USING (digest) WHERE blake3 IS NOT NULL AND state = 'ok'"
    ).fetchone()
    return (None, 0) if found is None else (_row(found[:5]), found[5])


def set_begun(db: sqlite3.Connection, digest: Digest, piece: int) -> None:
    """Write down how far the scrub is."""
    db.execute(
        "INSERT INTO scrub VALUES (1, ?, ?) ON CONFLICT DO UPDATE SET digest = excluded.digest,"
        " piece = excluded.piece",
        (digest, piece),
    )


def wanted(db: sqlite3.Connection) -> list[Wanted]:
    """Return what is to be brought again, with the models that wait for it."""
    names = {root.manifest: root.reference for root in roots.all_roots(db)}
    found: dict[Digest, tuple[int, BlobState, list[str]]] = {}
    for digest, size, state, manifest in db.execute(
        "SELECT digest, needs.size, state, manifest FROM needs JOIN blobs USING (digest)"
        " WHERE state != 'ok' ORDER BY digest, manifest"
    ):
        if Digest(manifest) in names:
            entry = found.setdefault(Digest(digest), (size, BlobState(state), []))
            entry[2].append(names[Digest(manifest)])
    return [Wanted(d, size, state, tuple(sorted(m))) for d, (size, state, m) in found.items()]


def _row(found: tuple[Any, ...]) -> BlobRow:
    digest, size, blake3, verified_at, state = found
    return BlobRow(Digest(digest), size, blake3, verified_at, BlobState(state))
