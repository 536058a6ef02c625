"""The Site document in force, and the disk budgets that follow from it."""

import datetime
import json
import sqlite3

from appliance.cache import artefacts
from appliance.core import reading
from appliance.core.documents import Disk, Site
from appliance.core.state import Origin
from appliance.ledger import mirror
from appliance.node import clustered, desired
from appliance.planner.retain import DiskBudget


def in_force(db: sqlite3.Connection) -> Site | None:
    """Return what local staff applied last, else the fleet's word, else what a bundle brought.

    Under Kubernetes what stands there counts for what was said, and what somebody made there with
    kubectl comes after the first of these.
    """
    row = db.execute(
        "SELECT document FROM local WHERE kind = ? AND document IS NOT NULL"
        " ORDER BY at DESC, name LIMIT 1",
        (Site.kind_name,),
    ).fetchone()
    if row is not None:
        mine = desired.stored(json.loads(row[0]), Origin.LOCAL)
        return _standing(db, mine) if isinstance(mine, Site) else None
    if (theirs := _of_the_cluster(db)) is not None:
        return theirs
    said = (d for d in desired.fleet(db).documents if isinstance(d, Site))
    found = min(said, key=lambda site: site.name, default=None)
    return _standing(db, found) if found is not None else _from_bundle(db)


def _standing(db: sqlite3.Connection, said: Site) -> Site:
    """Return a Site as it stands in the cluster, edited perhaps; as it was said if it does not."""
    row = mirror.rows(db, Site.kind_name).get((Site.kind_name, said.name))
    found = None if row is None else clustered.document_of(row)
    return found if isinstance(found, Site) else said


def _of_the_cluster(db: sqlite3.Connection) -> Site | None:
    rows = mirror.rows(db, Site.kind_name).values()
    made = (clustered.document_of(r) for r in rows if r.owner is Origin.CLUSTER and r.spec)
    return next((d for d in made if isinstance(d, Site)), None)


def _from_bundle(db: sqlite3.Connection) -> Site | None:
    held = artefacts.newest(db, "files/site/")
    if held is None or not held.documents:
        return None
    return reading.parse_one(held.documents[0], held.path, Site)


def disk(db: sqlite3.Connection) -> Disk | None:
    """Return the disk budgets of the Site in force; None when nobody set any."""
    site = in_force(db)
    return None if site is None else site.spec.disk


def disk_budget(db: sqlite3.Connection) -> DiskBudget:
    """Return what models may take and what must stay free here; without a Site there is neither."""
    found = disk(db)
    if found is None:
        return DiskBudget()
    return DiskBudget(
        store_bytes=None if found.store is None else found.store.size,
        floor_bytes=0 if found.floor is None else found.floor.size,
    )


def audit_retention(db: sqlite3.Connection) -> datetime.timedelta | None:
    """Return how long acknowledged audit records stay here; None when nobody said."""
    found = in_force(db)
    if found is None or found.spec.retention is None or found.spec.retention.audit is None:
        return None
    return datetime.timedelta(seconds=found.spec.retention.audit.seconds)
