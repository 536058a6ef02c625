"""What is wanted, in the ledger: the fleet's newest generation and local words over it.

Under Kubernetes what is in force is what stands in the cluster, by its mirror in the ledger; the
words are what ``node/projection.py`` makes objects of, and what local staff ask is kept until the
cluster has heard it.
"""

import json
import logging
import sqlite3
from dataclasses import dataclass, replace
from functools import cache

from appliance.core import reading, wire
from appliance.core.documents import Document, ModelDeployment, Site
from appliance.core.mirror import Asked, Mirrored
from appliance.core.state import DesiredState, Origin, Unreadable
from appliance.errors import BadDocumentError, NotFoundError, UsageError
from appliance.kube.words import owned
from appliance.ledger import mirror, overrides
from appliance.ledger.overrides import Mode
from appliance.node import clustered
from appliance.planner.desired import merge

log = logging.getLogger(__name__)

_DEPLOYMENT = ModelDeployment.kind_name
_PARTS = ("metadata", "spec")
_MOST_HEARD = 64
"""Generations that are remembered, to know an older one again."""


@dataclass(frozen=True, slots=True)
class FleetWord:
    """The last generation that was accepted; 0 and empty before the first.

    ``unreadable`` are those of its documents that this release does not allow any more.
    """

    director_epoch: int = 0
    generation: int = 0
    hash: str = ""
    documents: tuple[Document, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()


def fleet(db: sqlite3.Connection) -> FleetWord:
    """Return the fleet's word."""
    row = db.execute(
        "SELECT director_epoch, generation, hash, documents FROM fleet WHERE only = 1"
    ).fetchone()
    if row is None:
        return FleetWord()
    found = [stored(text, Origin.FLEET) for text in json.loads(row[3])]
    documents = tuple(d for d in found if not isinstance(d, Unreadable))
    broken = tuple(d for d in found if isinstance(d, Unreadable))
    return FleetWord(row[0], row[1], row[2], documents, broken)


def position(db: sqlite3.Connection) -> tuple[int, str]:
    """Return number and hash of the last generation, without reading what it says."""
    row = db.execute("SELECT generation, hash FROM fleet WHERE only = 1").fetchone()
    return (0, "") if row is None else (int(row[0]), str(row[1]))


def director_epoch(db: sqlite3.Connection) -> int:
    """Return the epoch of the director who said the last generation; 0 before the first."""
    row = db.execute("SELECT director_epoch FROM fleet WHERE only = 1").fetchone()
    return 0 if row is None else int(row[0])


def set_fleet(db: sqlite3.Connection, word: FleetWord, text: str | None = None) -> None:
    """Replace the fleet's word inside somebody's transaction; ``text`` is its documents' JSON."""
    documents = text or wire.dumps([d.to_wire() for d in word.documents]).decode()
    db.execute(
        "INSERT INTO fleet VALUES (1, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET director_epoch ="
        " excluded.director_epoch, generation = excluded.generation, hash = excluded.hash,"
        " documents = excluded.documents",
        (word.director_epoch, word.generation, word.hash, documents),
    )


def heard(db: sqlite3.Connection) -> dict[int, str]:
    """Return the digests of the generations that were in force here, by their numbers."""
    return dict(db.execute("SELECT generation, digest FROM generations").fetchall())


def hear(db: sqlite3.Connection, generation: int, digest: str) -> None:
    """Remember what a generation said, inside somebody's transaction; the newest are kept."""
    db.execute("INSERT OR REPLACE INTO generations VALUES (?, ?)", (generation, digest))
    db.execute(
        "DELETE FROM generations WHERE generation NOT IN"
        " (SELECT generation FROM generations ORDER BY generation DESC LIMIT ?)",
        (_MOST_HEARD,),
    )


def forget_heard(db: sqlite3.Connection) -> None:
    """Forget what generations said, inside somebody's transaction: another director counts anew."""
    db.execute("DELETE FROM generations")


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
    overrides.forget(db, kind, name)  # what was said before had another reason


def forget_local(db: sqlite3.Connection, kind: str, name: str) -> bool:
    """Drop a local word; return whether there was one."""
    found = db.execute("DELETE FROM local WHERE kind = ? AND name = ?", (kind, name))
    overrides.forget(db, kind, name)
    return found.rowcount > 0


def local(db: sqlite3.Connection, kind: str) -> dict[str, Document | None]:
    """Return the local words of one kind that can be read, by name."""
    found = _local(db, kind).items()
    return {name: d for name, d in found if not isinstance(d, Unreadable)}


def unreadable(db: sqlite3.Connection, kind: str) -> dict[str, Unreadable]:
    """Return the words of one kind that this release does not allow, by name.

    A local one counts in place of the fleet's, as it does when it can be read.
    """
    mine = _local(db, kind)
    found = {d.name: d for d in fleet(db).unreadable if d.kind == kind and d.name not in mine}
    return found | {name: d for name, d in mine.items() if isinstance(d, Unreadable)}


def stored(data: object, origin: Origin) -> Document | Unreadable:
    """Return a document of the ledger; it was checked by the rules of the release that took it."""
    try:
        return reading.from_wire(data, "the ledger")
    except BadDocumentError as error:
        found = data if isinstance(data, dict) else {}
        meta, spec = ((part if isinstance(part := found.get(k), dict) else {}) for k in _PARTS)
        kind, name = str(found.get("kind", "")), str(meta.get("name", ""))
        _warn(kind, name, error.what)
        return Unreadable(kind, name, origin, str(spec.get("model", "")), error.what)


@cache
def _warn(kind: str, name: str, why: str) -> None:
    log.warning("%s %s is kept out, as this release does not allow it: %s", kind, name, why)


def _local(db: sqlite3.Connection, kind: str) -> dict[str, Document | Unreadable | None]:
    rows = db.execute("SELECT name, document FROM local WHERE kind = ? ORDER BY name", (kind,))
    found = {
        name: None if text is None else stored(json.loads(text), Origin.LOCAL)
        for name, text in rows
    }
    pinned = [n for (k, n), o in overrides.rows(db).items() if k == kind and o.mode is Mode.PIN]
    theirs = {d.name: d for d in fleet(db).documents if d.kind == kind} if pinned else {}
    for name in pinned:
        follows = _follow(theirs.get(name), found.pop(name, None))
        if follows is not None:
            found[name] = follows
    return found


def _follow(theirs: Document | None, mine: Document | Unreadable | None) -> Document | None:
    """Return the fleet's document with the model that was pinned; None when it asks no more."""
    if not isinstance(theirs, ModelDeployment) or not isinstance(mine, ModelDeployment):
        return None
    spec = theirs.spec.model_copy(update={"model": mine.spec.model})
    return theirs.model_copy(update={"spec": spec})


def in_force(db: sqlite3.Connection) -> DesiredState:
    """Return the deployments that are in force, whoever asked for them."""
    word = fleet(db)
    theirs = [d for d in word.documents if isinstance(d, ModelDeployment)]
    mine = {
        name: document if isinstance(document, ModelDeployment) else None
        for name, document in local(db, _DEPLOYMENT).items()
    }
    broken = unreadable(db, _DEPLOYMENT)
    theirs = [d for d in theirs if d.name not in broken]
    generation = word.generation or None
    if mirror.datastore(db) is None:
        state = merge(theirs, mine, generation)
    else:
        rows, asked = mirror.rows(db, _DEPLOYMENT), mirror.asked(db)
        state = clustered.in_force({d.name: d for d in theirs}, mine, rows, asked, generation)
    why = overrides.rows(db)
    deployments = tuple(
        replace(d, drift=why[_DEPLOYMENT, d.document.name].told(d.drift))
        if (_DEPLOYMENT, d.document.name) in why
        else d
        for d in state.deployments
    )
    unread = tuple(broken[name] for name in sorted(broken))
    return replace(state, deployments=deployments, unreadable=unread)


def apply_locally(db: sqlite3.Connection, document: Document, by: str, at: str) -> str:
    """Put a local document in force; return what that did: created, changed or unchanged.

    Under Kubernetes it takes the place of what stands there under its name, whoever made it.
    """
    known = local(db, document.kind)
    before = known.get(document.name)
    row = _row(db, document.kind, document.name)
    same = before is not None and before.to_wire() == document.to_wire() and _stands(row, before)
    if same and (document.kind, document.name) not in overrides.rows(db):
        return "unchanged"
    theirs = [d for d in fleet(db).documents if d.kind == document.kind]
    existed = (
        before is not None
        or row is not None
        or document.name in unreadable(db, document.kind)
        or any(d.name == document.name and document.name not in known for d in theirs)
    )
    _not_another_nodes(row)
    set_local(db, document.kind, document.name, document, by, at)
    if mirror.datastore(db) is not None:
        mirror.ask(db, Asked(document.kind, document.name, "force"))
    return "changed" if existed else "created"


def delete_locally(db: sqlite3.Connection, name: str, by: str, at: str) -> str:
    """Take a deployment, or a local Site, out of force here; return in words what that did.

    Raises:
        NotFoundError: nothing of this name is in force.
        UsageError: another node of the site projects it.
    """
    state = in_force(db)
    known = {d.document.name for d in state.deployments} | {d.name for d in state.unreadable}
    if name not in known:
        if forget_local(db, Site.kind_name, name) or _ask_to_delete(db, Site.kind_name, name):
            return "removed"
        raise NotFoundError(f"no deployment {name!r} is in force", hint="appliance get lists them")
    made_here = _ask_to_delete(db, _DEPLOYMENT, name)
    if _fleet_asks(db, name):
        set_local(db, _DEPLOYMENT, name, None, by, at)
        return "removed here; the fleet still asks for it (appliance release gives it back)"
    forget_local(db, _DEPLOYMENT, name)
    return "removed; somebody had made it with kubectl" if made_here else "removed"


def release(db: sqlite3.Connection, name: str) -> str:
    """Drop the local word on a deployment; return in words what holds now.

    Under Kubernetes an edit with kubectl counts as one, and so does an object made with it.

    Raises:
        NotFoundError: there is no local word on it.
        UsageError: another node of the site projects it.
    """
    asks, row = _fleet_asks(db, name), _row(db, _DEPLOYMENT, name)
    edited = asks and any(
        d.document.name == name and (d.drift or d.origin is Origin.CLUSTER)
        for d in in_force(db).deployments
    ) and row is not None  # fmt: skip
    if not forget_local(db, _DEPLOYMENT, name) and not edited:
        _not_another_nodes(row)
        raise NotFoundError(f"nobody here changed {name!r}", hint="appliance get shows who did")
    if not asks:
        return "released; the fleet does not ask for it, so it ends"
    if mirror.datastore(db) is not None:
        mirror.ask(db, Asked(_DEPLOYMENT, name, "force"))
    return "released; the fleet's word holds again"


def _fleet_asks(db: sqlite3.Connection, name: str) -> bool:
    word = fleet(db)
    said = {(d.kind, d.name) for d in word.documents} | {(d.kind, d.name) for d in word.unreadable}
    return (_DEPLOYMENT, name) in said


# --- under Kubernetes: without it there is never a row -------------------------------------------


def _row(db: sqlite3.Connection, kind: str, name: str) -> Mirrored | None:
    return mirror.rows(db, kind).get((kind, name))


def _stands(row: Mirrored | None, document: Document) -> bool:
    """Return whether the object, if it is known, says what the document says."""
    if row is None:
        return True
    spec = document.to_wire()["spec"]
    same = owned.normal(row.kind, row.spec) == owned.normal(row.kind, spec)
    return same and row.owner is Origin.LOCAL


def _ask_to_delete(db: sqlite3.Connection, kind: str, name: str) -> bool:
    """Have the cluster delete what no word of ours made; return whether there is such a thing."""
    row = _row(db, kind, name)
    if row is None or row.projected:
        return False
    _not_another_nodes(row)
    mirror.ask(db, Asked(kind, name, "delete", row.uid))
    return True


def _not_another_nodes(row: Mirrored | None) -> None:
    if row is not None and not row.projected and row.owner is not Origin.CLUSTER:
        whose = row.annotations.get(owned.FROM)
        raise UsageError(
            f"node {whose} projects {row.name!r}",
            hint=f"say it to the appliance on {whose}, or with kubectl to the cluster",
        )
