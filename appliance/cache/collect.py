"""Makes room: first what belongs to nobody, then, while budget or floor are broken, variants.

Whatever removes something holds the import lock, because an import relies on blobs that are here
already. The ledger is written first: a crash then leaves files that nobody lists, which the next
collection takes, and never a row whose files are gone.
"""

import logging
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from appliance.cache import index, pins, roots, sweep
from appliance.cache.inventory import Circumstances, Inventory
from appliance.cache.sweep import Leftover
from appliance.core.ids import Digest
from appliance.errors import LockedError
from appliance.kit.files import free_bytes, locked
from appliance.ledger.streams import Fact, Stream
from appliance.planner.retain import (
    DiskUse,
    Eviction,
    Held,
    Pin,
    PinKind,
    Retention,
    free_up,
    retain,
)

log = logging.getLogger(__name__)
_MOST_TOLD = 50
_IMPORT = Digest("the import under way")


@dataclass(frozen=True, slots=True)
class Collected:
    """What would go now, or went: leftovers, then variants; and why the others stay."""

    leftovers: tuple[Leftover, ...]
    retention: Retention

    @property
    def freed_bytes(self) -> int:
        """The bytes of all that goes."""
        return sum(found.size for found in self.leftovers) + self.retention.freed_bytes


class Collector:
    """Removes from one node's store what may go."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._incoming = inventory.state / "incoming"

    def plan(self) -> Collected:
        """Return what ``collect`` would remove now, and why it would keep the rest."""
        self._inventory.learn()
        return self._plan(all_unowned=True)

    def collect(self, by: str, *, all_unowned: bool = True) -> Collected:
        """Remove it.

        Args:
            by: Who asked, for the audit stream.
            all_unowned: Also blobs that nobody needs since lately and no lack of space drives out;
                an import that was cut may still come back for them.

        Raises:
            LockedError: an import is under way.
        """
        with locked(self._incoming / sweep.LOCK, what="the import folder"):
            self._inventory.learn()
            found = self._plan(all_unowned=all_unowned)
            return self._carry_out(found, by)

    def tend(self) -> Collected | None:
        """Remove what is due without being asked; None while an import is under way."""
        try:
            return self.collect("the node", all_unowned=False)
        except LockedError:
            return None

    def make_room(self, lacking_bytes: int, keep: Collection[Digest]) -> int:
        """Let go of what nobody holds until so many bytes more are free.

        Call it with the import lock held. When all that may go is not enough, nothing goes: an
        import that cannot succeed must not cost models.

        Args:
            lacking_bytes: What must be freed before the import fits.
            keep: Every blob that the import relies on, whether it is here or still to come.

        Returns:
            The bytes that were freed; 0 when they would not be enough.
        """
        self._inventory.learn()
        present = self._inventory.store.sizes()
        held = self._inventory.held(present)
        held.append(_import_of(keep, present))
        unowned = self._unowned(held, present)
        freed = sum(found.size for found in unowned)
        found = Collected(tuple(unowned), _without_import(free_up(held, lacking_bytes - freed)))
        if found.retention.short_bytes:
            return 0
        return self._carry_out(found, "an import").freed_bytes

    def _plan(self, *, all_unowned: bool) -> Collected:
        inventory, now = self._inventory, self._inventory.circumstances()
        present = inventory.store.sizes()
        held = inventory.held(present)
        use = DiskUse(sum(present.values()), free_bytes(inventory.state))
        unowned = self._unowned(held, present)
        if not all_unowned and not use.shortfall(now.budget):
            unowned = sweep.older(unowned, inventory.settings.leftover_days, now.now)
        others = self._lying_about(now)
        freed = sum(found.size for found in unowned)
        free = use.free_bytes + freed + sum(found.size for found in others)
        answer = retain(held, DiskUse(use.used_bytes - freed, free), now.budget)
        return Collected((*unowned, *others), answer)

    def _unowned(self, held: Iterable[Held], present: Mapping[Digest, int]) -> list[Leftover]:
        owned = {digest for found in held for digest in found.blobs}
        return sweep.unowned(self._inventory.store, owned, present)

    def _lying_about(self, now: Circumstances) -> list[Leftover]:
        inventory, days = self._inventory, self._inventory.settings
        quarantine = inventory.state / "quarantine"
        expected = {
            link for variant in inventory.variants() for link in inventory.store.links_of(variant)
        }
        return [
            *sweep.old(self._incoming, days.leftover_days, now.now, "nobody resumed this import"),
            *sweep.old(quarantine, days.quarantine_days, now.now, "it was damaged, long ago"),
            *sweep.half_written(inventory.store, days.leftover_days, now.now),
            *sweep.stray_links(inventory.store, expected),
        ]

    def _carry_out(self, found: Collected, by: str) -> Collected:
        inventory, now = self._inventory, self._inventory.circumstances()
        gone = tuple(e for e in found.retention.evictions if self._evict(e, by, now))
        if found.leftovers:
            self._note(found.leftovers, by, now)
            sweep.remove(inventory.store, found.leftovers)
        if gone:
            inventory.store.publish_index(*inventory.ledger.read(roots.shown))
        done = Retention(gone, found.retention.kept, found.retention.short_bytes)
        return Collected(found.leftovers, done)

    def _evict(self, eviction: Eviction, by: str, now: Circumstances) -> bool:
        inventory = self._inventory
        links = [
            link
            for variant in inventory.variants()
            if variant.manifest == eviction.manifest
            for link in inventory.store.links_of(variant)
        ]
        body = {
            "by": by, "variant": eviction.reference, "manifest": eviction.manifest,
            "bytes": eviction.freed_bytes, "why": eviction.why,
        }  # fmt: skip
        try:
            freed = inventory.ledger.record(
                partial(_evicted, eviction=eviction), Fact(Stream.AUDIT, "evict", now.at, body)
            ).result()
        except LockedError as error:
            log.info("%s", error)
            return False
        log.info("%s leaves the store: %s", eviction.reference, eviction.why)
        for link in links:
            inventory.store.unlink(link)
        inventory.store.remove(freed)
        return True

    def _note(self, leftovers: tuple[Leftover, ...], by: str, now: Circumstances) -> None:
        names = [_name(found.path, self._inventory.state) for found in leftovers]
        body = {"by": by, "files": names[:_MOST_TOLD], "count": len(names),
                "bytes": sum(found.size for found in leftovers)}  # fmt: skip
        self._inventory.ledger.note(Fact(Stream.AUDIT, "collect", now.at, body)).result()


def _import_of(keep: Collection[Digest], present: Mapping[Digest, int]) -> Held:
    """Return an import under way as one who holds blobs."""
    blobs = {digest: present.get(digest, 0) for digest in keep}
    return Held(_IMPORT, _IMPORT, "", _IMPORT, blobs, "", (Pin(PinKind.STAGED, _IMPORT),))


def _without_import(found: Retention) -> Retention:
    kept = tuple(kept for kept in found.kept if kept.manifest != _IMPORT)
    return Retention(found.evictions, kept, found.short_bytes)


def _evicted(db: sqlite3.Connection, eviction: Eviction) -> list[Digest]:
    """Take a variant out of the catalogue; return its blobs that nobody needs then.

    Raises:
        LockedError: somebody pinned it since the decision was made.
    """
    if eviction.manifest in pins.site_pins(db):
        raise LockedError(f"{eviction.reference} stays: it was pinned just now")
    db.execute("DELETE FROM variants WHERE manifest = ?", (eviction.manifest,))
    index.forget(db, [eviction.manifest])
    needed = {digest for blobs in index.needs(db).values() for digest in blobs}
    freed = [digest for digest in eviction.frees if digest not in needed]
    index.drop(db, freed)
    return freed


def _name(path: Path, state: Path) -> str:
    return str(path.relative_to(state)) if path.is_relative_to(state) else str(path)
