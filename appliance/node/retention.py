"""Who holds which variant on this node: engines, documents, earlier choices, news, and people."""

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from appliance.cache import catalog, pins
from appliance.cache.inventory import Circumstances
from appliance.cache.pins import Choice
from appliance.core.documents import ModelDeployment
from appliance.core.ids import Digest
from appliance.core.model import Variant
from appliance.core.state import DeploymentStatus
from appliance.kit.clock import Clock, rfc3339
from appliance.ledger import meta
from appliance.ledger.db import Ledger
from appliance.node import desired, site
from appliance.planner.retain import Pin, PinKind
from appliance.planner.select import select
from appliance.runtime import record
from appliance.settings import CacheSettings
from appliance.trust import floor

Pins = dict[Digest, tuple[Pin, ...]]


@dataclass(frozen=True, slots=True)
class Retaining:
    """Answers who holds what, whether a controller runs here or not.

    Time is the node's own, never before what was signed: a clock that starts in 1970 makes nothing
    look young or old that is not.
    """

    state: Path
    ledger: Ledger
    clock: Clock
    settings: CacheSettings

    def circumstances(self) -> Circumstances:
        """Return what the care of the store goes by now."""
        now = floor.now(self.ledger.read(meta.floor), self.clock.utc()).at
        running = self.running()
        find = partial(_pins, running=running, now=now, staged_days=self.settings.staged_days)
        return Circumstances(self.ledger.read(find), self.ledger.read(site.disk_budget), now)

    def running(self) -> dict[Digest, list[str]]:
        """Return the manifests that engines run from now, with their deployments."""
        found: dict[Digest, list[str]] = {}
        for engine in record.running(self.state):
            deployments = found.setdefault(engine.replica.variant.manifest, [])
            if engine.replica.deployment not in deployments:
                deployments.append(engine.replica.deployment)
        return found

    def note(self, statuses: Iterable[DeploymentStatus]) -> None:
        """Write down what each deployment was given, and what it served before."""
        now = self.circumstances().now
        known = self.ledger.read(pins.choices)
        state = self.ledger.read(desired.in_force)
        in_force = {d.document.name for d in state.deployments}
        in_force |= {d.name for d in state.unreadable}
        new: dict[str, Choice | None] = {name: None for name in known if name not in in_force}
        for status in statuses:
            if status.variant is not None and status.name in in_force:
                serves = status.is_ready and status.replicas > 0
                new[status.name] = pins.next_choice(
                    known.get(status.name), status.variant.manifest, serves=serves
                )
        changes = {name: choice for name, choice in new.items() if choice != known.get(name)}
        used = pins.stale_uses(self.ledger.read(pins.uses), self.running(), now)
        if changes or used:
            effect = partial(_noted, changes=changes, used=used, at=rfc3339(now))
            self.ledger.record(effect).result()


def _noted(
    db: sqlite3.Connection, changes: Mapping[str, Choice | None], used: list[Digest], at: str
) -> None:
    for name, choice in changes.items():
        if choice is None:
            pins.forget_choice(db, name)
        else:
            pins.set_choice(db, name, choice)
    pins.note_uses(db, used, at)


def _pins(
    db: sqlite3.Connection, running: Mapping[Digest, list[str]], now: datetime, staged_days: float
) -> Pins:
    in_force = [d.document for d in desired.in_force(db).deployments]
    catalogue, whole = catalog.everything(db), catalog.variants(db)
    choices = pins.choices(db)
    found = [(m, Pin(PinKind.RUNNING, name)) for m, names in running.items() for name in names]
    for deployment in in_force:
        choice = choices.get(deployment.name)
        for variants in (catalogue, whole):
            wanted = _desired(deployment, variants, choice)
            found += [(m, Pin(PinKind.DESIRED, deployment.name)) for m in wanted]
        before = () if choice is None else choice.before
        found += [(m, Pin(PinKind.PREVIOUS, deployment.name)) for m in before]
    for manifest, use in pins.uses(db).items():
        if pins.is_staged(use, now, staged_days):
            found.append((manifest, Pin(PinKind.STAGED, f"here since {use.since[:10]}")))
    for manifest, pin in pins.site_pins(db).items():
        found.append((manifest, Pin(PinKind.SITE, f"{pin.why} ({pin.by})")))
    return {m: tuple(sorted({p for n, p in found if n == m})) for m in {m for m, _ in found}}


def _desired(
    deployment: ModelDeployment, catalogue: list[Variant], choice: Choice | None
) -> list[Digest]:
    """Return what a deployment selects: its choice, or all that it may choose from until it did."""
    candidates = [variant.manifest for variant in select(deployment, catalogue).candidates]
    if choice is not None and choice.chosen in candidates:
        return [choice.chosen]
    return candidates
