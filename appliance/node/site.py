"""The Site document in force."""

import json
import sqlite3

from appliance.core import reading
from appliance.core.documents import Site
from appliance.node import desired


def in_force(db: sqlite3.Connection) -> Site | None:
    """Return what local staff applied last, else what the fleet says of this place, else None."""
    row = db.execute(
        "SELECT document FROM local WHERE kind = ? AND document IS NOT NULL"
        " ORDER BY at DESC, name LIMIT 1",
        (Site.kind_name,),
    ).fetchone()
    if row is not None:
        found = reading.from_wire(json.loads(row[0]), "the ledger")
        return found if isinstance(found, Site) else None
    theirs = (d for d in desired.fleet(db).documents if isinstance(d, Site))
    return min(theirs, key=lambda site: site.name, default=None)
