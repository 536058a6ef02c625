"""Why a local word holds, and until when; one row beside the word it is about.

Functions here work inside somebody's transaction or query on a connection they are given.
"""

import sqlite3
from dataclasses import asdict, dataclass
from enum import StrEnum


class Mode(StrEnum):
    """What a local word does to the fleet's.

    ``hold``: the object stays as it was. ``pin``: its model does, the rest follows the fleet.
    ``override``: it is as somebody here wrote it.
    """

    HOLD = "hold"
    PIN = "pin"
    OVERRIDE = "override"


@dataclass(frozen=True, slots=True)
class Override:
    """A reason; ``until`` is UTC, RFC 3339, to the millisecond, or None for no end."""

    kind: str
    name: str
    mode: Mode
    reason: str
    until: str | None
    by: str
    at: str

    def told(self, differs: str) -> str:
        """Return the drift in words; ``differs`` says in which fields, and may be empty."""
        verbs = {Mode.HOLD: "held", Mode.PIN: "model pinned", Mode.OVERRIDE: "overridden"}
        end = "" if self.until is None else f" until {self.until}"
        why = f"{verbs[self.mode]} by {self.by}{end}: {self.reason}"
        return f"{differs}; {why}" if differs else why

    def to_wire(self) -> dict[str, str | None]:
        """Return plain JSON data."""
        return asdict(self)


def keep(db: sqlite3.Connection, found: Override) -> None:
    """Say why the word on an object holds; it replaces what was said before."""
    db.execute(
        "INSERT OR REPLACE INTO overrides VALUES (?, ?, ?, ?, ?, ?, ?)",
        (found.kind, found.name, found.mode, found.reason, found.until, found.by, found.at),
    )


def forget(db: sqlite3.Connection, kind: str, name: str) -> None:
    """Forget why, because the word is gone or another has taken its place."""
    db.execute("DELETE FROM overrides WHERE kind = ? AND name = ?", (kind, name))


def rows(db: sqlite3.Connection) -> dict[tuple[str, str], Override]:
    """Return all, by kind and name."""
    found = (
        Override(kind, name, Mode(mode), *rest)
        for kind, name, mode, *rest in db.execute("SELECT * FROM overrides ORDER BY kind, name")
    )
    return {(o.kind, o.name): o for o in found}
