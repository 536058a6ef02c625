"""Who holds which variant, as the ledger knows it: people, deployments and the time of its import.

Functions here work inside somebody's transaction or query on a connection they are given.
"""

import datetime
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from appliance.core.ids import Digest
from appliance.errors import NotFoundError
from appliance.kit.clock import parse_rfc3339, rfc3339

_USE_IS_NOTED_S = 3600.0
"""A use that is less newer than the one that is known is not worth a write."""


@dataclass(frozen=True, slots=True)
class SitePin:
    """Somebody's word that a variant must stay."""

    manifest: Digest
    why: str
    by: str
    at: str


@dataclass(frozen=True, slots=True)
class Choice:
    """What a deployment was given, what it serves, and what it served before."""

    chosen: Digest
    serving: Digest | None = None
    previous: Digest | None = None

    @property
    def before(self) -> tuple[Digest, ...]:
        """What it could go back to. While a new choice does not serve yet, that is two."""
        known = {self.serving, self.previous} - {self.chosen, None}
        return tuple(sorted(m for m in known if m is not None))


@dataclass(frozen=True, slots=True)
class Use:
    """Since when a variant is here, and when an engine last ran from it."""

    since: str
    used_at: str | None


def set_pin(db: sqlite3.Connection, pin: SitePin) -> None:
    """Pin a variant, or give its pin another reason."""
    db.execute(
        "INSERT INTO site_pins VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET why = excluded.why,"
        " by = excluded.by, at = excluded.at",
        (pin.manifest, pin.why, pin.by, pin.at),
    )


def unset_pin(db: sqlite3.Connection, manifest: Digest, name: str) -> None:
    """Let go of a variant.

    Raises:
        NotFoundError: nobody here pinned it.
    """
    if not db.execute("DELETE FROM site_pins WHERE manifest = ?", (manifest,)).rowcount:
        raise NotFoundError(f"nobody here pinned {name}", hint="appliance store ls shows pins")


def site_pins(db: sqlite3.Connection) -> dict[Digest, SitePin]:
    """Return what people pinned."""
    found = db.execute("SELECT manifest, why, by, at FROM site_pins")
    return {Digest(row[0]): SitePin(Digest(row[0]), *row[1:]) for row in found}


def choices(db: sqlite3.Connection) -> dict[str, Choice]:
    """Return what was chosen for each deployment."""
    found = db.execute("SELECT deployment, chosen, serving, previous FROM choices")
    return {row[0]: Choice(*row[1:]) for row in found}


def next_choice(known: Choice | None, chosen: Digest, *, serves: bool) -> Choice:
    """Return what holds once a deployment was given ``chosen``, and serves it or not yet."""
    serving = None if known is None else known.serving
    previous = None if known is None else known.previous
    if serves and serving != chosen:
        serving, previous = chosen, serving
    return Choice(chosen, serving, previous)


def set_choice(db: sqlite3.Connection, deployment: str, choice: Choice) -> None:
    """Replace what is known of a deployment."""
    db.execute(
        "INSERT INTO choices VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " chosen = excluded.chosen, serving = excluded.serving, previous = excluded.previous",
        (deployment, choice.chosen, choice.serving, choice.previous),
    )


def forget_choice(db: sqlite3.Connection, deployment: str) -> None:
    """Forget a deployment that is not in force any more."""
    db.execute("DELETE FROM choices WHERE deployment = ?", (deployment,))


def uses(db: sqlite3.Connection) -> dict[Digest, Use]:
    """Return how each manifest was used."""
    found = db.execute("SELECT manifest, since, used_at FROM uses")
    return {Digest(row[0]): Use(row[1], row[2]) for row in found}


def stale_uses(
    known: dict[Digest, Use], running: Iterable[Digest], now: datetime.datetime
) -> list[Digest]:
    """Return which of the running manifests are not known as used within the last hour."""
    return [
        manifest
        for manifest in running
        if manifest in known and not _is_fresh(known[manifest].used_at, now)
    ]


def note_uses(db: sqlite3.Connection, manifests: Iterable[Digest], at: str) -> None:
    """Note that engines run from these."""
    db.executemany("UPDATE uses SET used_at = ? WHERE manifest = ?", [(at, m) for m in manifests])


def _is_fresh(used_at: str | None, now: datetime.datetime) -> bool:
    if used_at is None:
        return False
    return abs((now - parse_rfc3339(used_at)).total_seconds()) < _USE_IS_NOTED_S


def is_staged(use: Use, now: datetime.datetime, days: float) -> bool:
    """Whether a variant came lately and no engine has run from it yet."""
    return use.used_at is None and use.since > rfc3339(now - datetime.timedelta(days=days))
