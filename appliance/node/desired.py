"""What is wanted, in the ledger: the fleet's newest generation and local words over it."""

import json
import sqlite3
from dataclasses import dataclass

from appliance.core import reading, wire
from appliance.core.documents import Document, ModelDeployment, Site
from appliance.core.state import DesiredState
from appliance.errors import NotFoundError
from appliance.planner.desired import merge

_DEPLOYMENT = ModelDeployment.kind_name


@dataclass(frozen=True, slots=True)
class FleetWord:
    """The last generation that was accepted; 0 and empty before the first."""

    director_epoch: int = 0
    generation: int = 0
    hash: str = ""
    documents: tuple[Document, ...] = ()


def fleet(db: sqlite3.Connection) -> FleetWord:
    """Return the fleet's word."""
    row = db.execute(
        "SELECT director_epoch, generation, hash, documents FROM fleet WHERE only = 1"
    ).fetchone()
    if row is None:
        return FleetWord()
    documents = tuple(reading.from_wire(d, "the ledger") for d in json.loads(row[3]))
    return FleetWord(row[0], row[1], row[2], documents)


def set_fleet(db: sqlite3.Connection, word: FleetWord) -> None:
    """Replace the fleet's word inside somebody's transaction."""
    documents = wire.dumps([d.to_wire() for d in word.documents]).decode()
    db.execute(
        "INSERT INTO fleet VALUES (1, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET director_epoch ="
        " excluded.director_epoch, generation = excluded.generation, hash = excluded.hash,"
        " documents = excluded.documents",
        (word.director_epoch, word.generation, word.hash, documents),
    )


def set_local(
    db: sqlite3.Connection, kind: str, name: str, document: Document | None, by: str, at: str
) -> None:
    """Note a local word; without a document it takes the fleet's object away."""
    text = None if document is None else wire.dumps(document.to_wire()).decode()
    db.execute(
        "INSERT INTO local VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " document = excluded.document, by = excluded.by, at = excluded.at",
        (kind, name, text, by, at),
    )


def forget_local(db: sqlite3.Connection, kind: str, name: str) -> bool:
    """Drop a local word; return whether there was one."""
    found = db.execute("DELETE FROM local WHERE kind = ? AND name = ?", (kind, name))
    return found.rowcount > 0


def local(db: sqlite3.Connection, kind: str) -> dict[str, Document | None]:
    """Return the local words of one kind, by name."""
    rows = db.execute("SELECT name, document FROM local WHERE kind = ? ORDER BY name", (kind,))
    return {
        name: None if text is None else reading.from_wire(json.loads(text), "the ledger")
        for name, text in rows
    }


def in_force(db: sqlite3.Connection) -> DesiredState:
    """Return the deployments that are in force, whoever asked for them."""
    word = fleet(db)
    theirs = [d for d in word.documents if isinstance(d, ModelDeployment)]
    mine = {
        name: document if isinstance(document, ModelDeployment) else None
        for name, document in local(db, _DEPLOYMENT).items()
    }
    return merge(theirs, mine, word.generation or None)


def apply_locally(db: sqlite3.Connection, document: Document, by: str, at: str) -> str:
    """Put a local document in force; return what that did: created, changed or unchanged."""
    known = local(db, document.kind)
    before = known.get(document.name)
    if before is not None and before.to_wire() == document.to_wire():
        return "unchanged"
    theirs = [d for d in fleet(db).documents if d.kind == document.kind]
    existed = before is not None or any(
        d.name == document.name and document.name not in known for d in theirs
    )
    set_local(db, document.kind, document.name, document, by, at)
    return "changed" if existed else "created"


def delete_locally(db: sqlite3.Connection, name: str, by: str, at: str) -> str:
    """Take a deployment, or a local Site, out of force here; return in words what that did.

    Raises:
        NotFoundError: nothing of this name is in force.
    """
    state = in_force(db)
    if name not in {d.document.name for d in state.deployments}:
        if forget_local(db, Site.kind_name, name):
            return "removed"
        raise NotFoundError(f"no deployment {name!r} is in force", hint="appliance get lists them")
    if _fleet_asks(db, name):
        set_local(db, _DEPLOYMENT, name, None, by, at)
        return "removed here; the fleet still asks for it (appliance release gives it back)"
    forget_local(db, _DEPLOYMENT, name)
    return "removed"


def release(db: sqlite3.Connection, name: str) -> str:
    """Drop the local word on a deployment; return in words what holds now.

    Raises:
        NotFoundError: there is no local word on it.
    """
    if not forget_local(db, _DEPLOYMENT, name):
        raise NotFoundError(f"nobody here changed {name!r}", hint="appliance get shows who did")
    if _fleet_asks(db, name):
        return "released; the fleet's word holds again"
    return "released; the fleet does not ask for it, so it ends"


def _fleet_asks(db: sqlite3.Connection, name: str) -> bool:
    return any(d.kind == _DEPLOYMENT and d.name == name for d in fleet(db).documents)
