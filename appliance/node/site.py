"""The Site document in force, and the disk budgets that follow from it."""

import json
import sqlite3

from appliance.cache import artefacts
from appliance.core import reading
from appliance.core.documents import Disk, Site
from appliance.node import desired
from appliance.planner.retain import DiskBudget


def in_force(db: sqlite3.Connection) -> Site | None:
    """Return what local staff applied last, else the fleet's word, else what a bundle brought."""
    row = db.execute(
        "SELECT document FROM local WHERE kind = ? AND document IS NOT NULL"
        " ORDER BY at DESC, name LIMIT 1",
        (Site.kind_name,),
    ).fetchone()
    if row is not None:
        mine = reading.from_wire(json.loads(row[0]), "the ledger")
        return mine if isinstance(mine, Site) else None
    theirs = (d for d in desired.fleet(db).documents if isinstance(d, Site))
    found = min(theirs, key=lambda site: site.name, default=None)
    return found if found is not None else _from_bundle(db)


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
