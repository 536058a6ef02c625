"""Custom resources as last seen, in the ledger: ``get`` works offline, and nothing is lost twice.

That there is a ``datastore`` row says that this node works under Kubernetes.
"""

import json
import sqlite3
from collections.abc import Iterable

from appliance.core import wire
from appliance.core.mirror import Asked, Datastore, Key, Mirrored
from appliance.core.state import Origin


def enter(db: sqlite3.Connection) -> None:
    """Note inside somebody's transaction that this node works under Kubernetes."""
    if datastore(db) is None:
        set_datastore(db, Datastore("", "", "", 0))


def leave(db: sqlite3.Connection) -> None:
    """Note that it does not, or no longer: what a cluster held counts for nothing here."""
    for table in ("mirror", "datastore", "asked"):
        db.execute(f"DELETE FROM {table}")  # noqa: S608 - constants


def datastore(db: sqlite3.Connection) -> Datastore | None:
    """Return the datastore that was seen last; None: this node is not under Kubernetes."""
    row = db.execute(
        "SELECT cluster, namespace, definitions, version, epoch FROM datastore WHERE only = 1"
    ).fetchone()
    return None if row is None else Datastore(*row)


def set_datastore(db: sqlite3.Connection, now: Datastore) -> None:
    """Note which datastore is seen now."""
    db.execute(
        "INSERT OR REPLACE INTO datastore VALUES (1, ?, ?, ?, ?, ?)",
        (now.cluster, now.namespace, now.definitions, now.version, now.epoch),
    )


def rows(db: sqlite3.Connection, kind: str = "") -> dict[Key, Mirrored]:
    """Return all that is remembered, or all of one kind."""
    found = db.execute(
        "SELECT kind, name, owner, uid, epoch, projected, spec, labels, annotations FROM mirror"
        " WHERE ? IN ('', kind) ORDER BY kind, name",
        (kind,),
    )
    return {(r[0], r[1]): _row(r) for r in found}


def keep(db: sqlite3.Connection, row: Mirrored) -> None:
    """Remember a custom resource as it is given."""
    texts = [wire.dumps(d).decode() for d in (row.spec, row.labels, row.annotations)]
    db.execute(
        "INSERT OR REPLACE INTO mirror VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (row.kind, row.name, row.owner, row.uid, row.epoch, int(row.projected), *texts),
    )


def drop(db: sqlite3.Connection, keys: Iterable[Key]) -> None:
    """Forget custom resources."""
    db.executemany("DELETE FROM mirror WHERE kind = ? AND name = ?", list(keys))


def asked(db: sqlite3.Connection) -> dict[Key, Asked]:
    """Return what the cluster has not heard yet."""
    found = db.execute("SELECT kind, name, verb, uid FROM asked ORDER BY kind, name")
    return {(r[0], r[1]): Asked(*r) for r in found}


def ask(db: sqlite3.Connection, wish: Asked) -> None:
    """Note what the cluster is to hear; it takes the place of an earlier wish."""
    db.execute(
        "INSERT OR REPLACE INTO asked VALUES (?, ?, ?, ?)",
        (wish.kind, wish.name, wish.verb, wish.uid),
    )


def heard(db: sqlite3.Connection, wish: Asked) -> None:
    """Forget a wish that came true, unless another has taken its place."""
    db.execute(
        "DELETE FROM asked WHERE kind = ? AND name = ? AND verb = ? AND uid = ?",
        (wish.kind, wish.name, wish.verb, wish.uid),
    )


def _row(found: sqlite3.Row | tuple[object, ...]) -> Mirrored:
    kind, name, owner, uid, epoch, projected, *texts = found
    spec, labels, annotations = (json.loads(str(text)) for text in texts)
    return Mirrored(
        str(kind), str(name), Origin(str(owner)), str(uid), int(str(epoch)), bool(projected),
        spec, labels, annotations,
    )  # fmt: skip
