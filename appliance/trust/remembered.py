"""What the ledger remembers of trust: the floor under the clock, and how far epochs have come.

All of it but the answers to nonces can be had again from ``tuf/``, which is written first.
"""

import hashlib
import sqlite3

from appliance.ledger import meta
from appliance.ledger.db import Ledger
from appliance.trust import floor, metadata
from appliance.trust.store import TrustStore


def rederive(trust: TrustStore, ledger: Ledger) -> None:
    """Steps 3 and 8, and on start: bring what the ledger remembers up to ``tuf/``.

    Rows of keys that are trusted no more go, all others stay or rise, and so do epochs. Nothing is
    written when nothing changes.

    Raises:
        StateUnusableError: the stored metadata is damaged.
        NoSpaceError: it cannot be written down.
    """
    chain, roles, director = trust.roots(), trust.roles(), trust.director()
    if not chain:
        return
    keys = set(metadata.key_uses(chain[-1]))
    keys |= {(key, True) for key in (director.sync_keys if director else ())}
    times = metadata.signed_times(chain[-1], chain, roles)
    said = [said for said in (director, trust.hub(), trust.revoked()) if said and said.org]
    mark = "" if roles is None else hashlib.sha256(roles.timestamp).hexdigest()

    def bring_up(db: sqlite3.Connection) -> None:
        rows = meta.floor_rows(db)
        for row in set(rows) - set(floor.kept(rows, keys)):
            meta.drop_floor_row(db, row)
        for time in times:
            meta.add_floor_row(db, time.key, time.at, online=time.online)
        for document in said:
            meta.set_org(db, document.org)
            meta.raise_epoch(db, document.kind, document.epoch)
        meta.set_metadata_hash(db, mark)

    ledger.record(bring_up).result()
