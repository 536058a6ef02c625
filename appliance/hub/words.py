"""What each generation of a node said, so that going back is always said out loud.

A node refuses a newer generation with the documents of an older one unless the word names it
(``core/rollback.py``). So whatever brings an older set back, the hub stamps it when it seals.
Functions here work inside somebody's transaction on a connection they are given.
"""

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from appliance.core import wire
from appliance.core.rollback import MOST_WHY, digest_of, texts_of
from appliance.errors import UsageError
from appliance.hub import store

_AGAIN = "the documents of that generation were asked for again"


def sealing(
    db: sqlite3.Connection, node: str, generation: int, documents: Sequence[dict[str, Any]]
) -> dict[str, Any] | None:
    """Remember what a generation says; return the rollback that it must name, if it is one."""
    digest = digest_of(texts_of(documents))
    db.execute(
        "INSERT INTO document_sets VALUES (?, ?) ON CONFLICT DO NOTHING",
        (digest, wire.dumps(list(documents)).decode()),
    )
    known = history(db, node)
    db.execute("INSERT OR REPLACE INTO words VALUES (?, ?, ?)", (node, generation, digest))
    said = db.execute(
        "SELECT back_to, why FROM rollbacks WHERE node = ? AND digest = ?", (node, digest)
    ).fetchone()
    if said is not None and said[0] < generation:
        return {"to": int(said[0]), "why": str(said[1])}
    others = [number for number, d in known.items() if d != digest and number < generation]
    if generation - 1 not in known:
        others.append(generation - 1)  # a restored hub has lost it: it may have said anything
    before = [n for n, d in known.items() if d == digest and n < max(others, default=0)]
    return {"to": max(before), "why": _AGAIN} if before else None


def history(db: sqlite3.Connection, node: str) -> dict[int, str]:
    """Return the digests of the documents of each generation that was sealed for a node."""
    rows = db.execute(
        "SELECT generation, digest FROM words WHERE node = ? ORDER BY generation", (node,)
    )
    return {int(number): str(digest) for number, digest in rows}


def roll_back(db: sqlite3.Connection, node: str, to: int, why: str, *, keep: bool = False) -> int:
    """Ask a node for what an older generation said; return the generation that says so.

    Args:
        db: The hub's database.
        node: Its name.
        to: The generation to return to.
        why: For whoever wonders later.
        keep: What is asked for now is what that generation said; this hub does not know it any
            more, because it was restored from a backup. The node refuses it unless that is so.

    Raises:
        NotFoundError: the node was never admitted.
        RevokedError: it was revoked.
        UsageError: nothing older is named, or there is no reason.
    """
    store.standing(db, node)
    if not 0 < len(why.strip()) <= MOST_WHY or not why.isprintable():
        raise UsageError(f"say why, in 1 to {MOST_WHY} characters that can be shown")
    newest = store.generation(db, node) or 0
    if not 0 < to <= newest:
        raise UsageError(f"{to} is not an older generation of {node}; the newest is {newest}")
    digest = digest_of(texts_of(store.documents(db, node)))
    if not keep:
        known = history(db, node).get(to)
        if known is None:
            raise UsageError(
                f"generation {to} was never said to {node}, or before this hub was restored",
                hint="ask for its documents with hub apply; if the node then refuses them as older,"
                " add --keep",
            )
        digest = known
        _put_back(db, node, digest)
    db.execute("INSERT OR REPLACE INTO rollbacks VALUES (?, ?, ?, ?)", (node, digest, to, why))
    return store.next_generation(db, node)


def _put_back(db: sqlite3.Connection, node: str, digest: str) -> None:
    row = db.execute("SELECT documents FROM document_sets WHERE digest = ?", (digest,)).fetchone()
    db.execute("DELETE FROM documents WHERE node = ?", (node,))
    db.executemany(
        "INSERT INTO documents VALUES (?, ?, ?, ?)",
        (
            (node, d["kind"], d["metadata"]["name"], wire.dumps(d).decode())
            for d in json.loads(row[0])
        ),
    )
