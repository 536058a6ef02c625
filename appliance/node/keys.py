"""API keys of the gateway: 256 random bits, shown once, kept as their SHA-256."""

import hashlib
import secrets
import sqlite3

from appliance.core.routes import ApiKey
from appliance.errors import NotFoundError, UsageError
from appliance.ledger import meta

_PREFIX = "ea-"


def create(db: sqlite3.Connection, key_id: str, tenant: str, at: str) -> str:
    """Make a key inside somebody's transaction; return its text, which is kept nowhere.

    Raises:
        UsageError: a key of this name exists.
    """
    if db.execute("SELECT 1 FROM api_keys WHERE id = ?", (key_id,)).fetchone():
        raise UsageError(
            f"there is a key {key_id!r} already",
            hint=f"take another name, or appliance gateway key revoke {key_id}",
        )
    text = _PREFIX + secrets.token_urlsafe(32)
    digest = hashlib.sha256(text.encode()).hexdigest()
    db.execute("INSERT INTO api_keys VALUES (?, ?, ?, ?)", (key_id, tenant, digest, at))
    meta.set_key_made(db)
    return text


def revoke(db: sqlite3.Connection, key_id: str) -> None:
    """Forget a key.

    Raises:
        NotFoundError: there is none of this name.
    """
    if db.execute("DELETE FROM api_keys WHERE id = ?", (key_id,)).rowcount == 0:
        raise NotFoundError(f"there is no key {key_id!r}", hint="appliance gateway key list")


def all_keys(db: sqlite3.Connection) -> tuple[ApiKey, ...]:
    """Return every key, by name."""
    rows = db.execute("SELECT id, tenant, sha256 FROM api_keys ORDER BY id")
    return tuple(ApiKey(*row) for row in rows)
