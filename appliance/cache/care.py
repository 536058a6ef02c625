"""The care of one node's store, for those who ask: what is here, who holds it, what it takes."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from appliance.cache import index, pins, sweep
from appliance.cache.collect import Collector
from appliance.cache.health import Health
from appliance.cache.inventory import Circumstances, Inventory
from appliance.cache.pins import SitePin
from appliance.cache.roots import Root
from appliance.cache.scrub import Progress, Scrub, verify_now
from appliance.cache.store import ModelStore
from appliance.core.ids import Digest
from appliance.errors import NotFoundError
from appliance.kit.files import free_bytes
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream
from appliance.settings import CacheSettings


@dataclass(frozen=True, slots=True)
class Usage:
    """What the folders of the state take, and what the Site allows; None is no limit."""

    store_bytes: int
    incoming_bytes: int
    quarantine_bytes: int
    models_bytes: int
    budget_bytes: int | None
    floor_bytes: int
    free_bytes: int


class CacheCare:
    """Everything that looks after the store. Blocking: give it a thread of its own."""

    def __init__(
        self, state: Path, store: ModelStore, ledger: Ledger,
        circumstances: Callable[[], Circumstances], settings: CacheSettings,
    ) -> None:  # fmt: skip
        self.inventory = Inventory(state, store, ledger, circumstances, settings)
        self.health = Health(self.inventory)
        self.collector = Collector(self.inventory)
        self.scrub = Scrub(self.inventory, self.health)

    def listing(self) -> list[dict[str, Any]]:
        """Return everything that is held, with its size, its pins and its last use, as JSON."""
        self.inventory.learn()
        present = self.inventory.store.sizes()
        states = self.inventory.ledger.read(index.rows)
        found = []
        for held in sorted(self.inventory.held(present), key=lambda h: h.reference):
            lost = {d: states[d].state for d in held.blobs if d in states and not states[d].is_ok}
            found.append(
                {
                    "reference": held.reference,
                    "manifest": held.manifest,
                    "bytes": sum(held.blobs.values()),
                    "pins": [asdict(pin) for pin in held.pins],
                    "last_use": held.last_use,
                    "lost": lost,
                }
            )
        return found

    def usage(self) -> Usage:
        """Return what takes how much; a file that has two names counts once, as the store's."""
        inventory, now = self.inventory, self.inventory.circumstances()
        own = [link.lstat() for link in inventory.store.links()]
        quarantine = inventory.state / "quarantine"
        return Usage(
            store_bytes=sum(inventory.store.sizes().values()),
            incoming_bytes=sweep.tree_bytes(inventory.state / "incoming"),
            quarantine_bytes=sweep.tree_bytes(quarantine) if quarantine.exists() else 0,
            models_bytes=sum(found.st_size for found in own if found.st_nlink == 1),
            budget_bytes=now.budget.store_bytes,
            floor_bytes=now.budget.floor_bytes,
            free_bytes=free_bytes(inventory.state),
        )

    def verify(self, name: str | None, tell: Progress) -> dict[str, Any]:
        """Look at all blobs of what ``name`` names, or of all there are, at full speed.

        What of it is ``wanted`` was lost earlier, or is not whole now.

        Raises:
            NotFoundError: nothing here has that name.
        """
        self.health.look()
        inventory = self.inventory
        asked = None if name is None else self._needed(name)
        here = set(inventory.store.sizes())
        digests = sorted(here if asked is None else asked & here)
        found = verify_now(inventory, self.health, digests, tell)
        bad = {digest: verdict.why for digest, verdict in found.items() if verdict.blake3 is None}
        return {
            "verified": len(found) - len(bad),
            "bad": bad,
            "wanted": [
                wanted.to_wire()
                for wanted in self.health.wanted()
                if asked is None or wanted.digest in asked
            ],
        }

    def pin(self, name: str, why: str, by: str) -> list[str]:
        """Have what ``name`` names stay until somebody lets it go; return what that is.

        Raises:
            NotFoundError: nothing here has that name.
        """
        at = self.inventory.circumstances().at
        found = self._named(name)
        for root in found:
            body = {"by": by, "variant": root.reference, "manifest": root.manifest, "why": why}
            effect = partial(pins.set_pin, pin=SitePin(root.manifest, why, by, at))
            self.inventory.ledger.record(effect, Fact(Stream.AUDIT, "pin", at, body)).result()
        return [root.reference for root in found]

    def unpin(self, name: str, by: str) -> list[str]:
        """Let go of what ``name`` names; return what that is.

        Raises:
            NotFoundError: nothing here has that name, or nobody pinned it.
        """
        at = self.inventory.circumstances().at
        pinned = self.inventory.ledger.read(pins.site_pins)
        named = self._named(name)
        found = [root for root in named if root.manifest in pinned] or named
        for root in found:
            body = {"by": by, "variant": root.reference, "manifest": root.manifest}
            effect = partial(pins.unset_pin, manifest=root.manifest, name=root.reference)
            self.inventory.ledger.record(effect, Fact(Stream.AUDIT, "unpin", at, body)).result()
        return [root.reference for root in found]

    def _needed(self, name: str) -> set[Digest]:
        needs = self.inventory.ledger.read(index.needs)
        return {digest for root in self._named(name) for digest in needs.get(root.manifest, ())}

    def _named(self, name: str) -> list[Root]:
        found = [root for root in self.inventory.roots() if name in _names(root)]
        if not found:
            raise NotFoundError(f"nothing in the store is {name!r}", hint="appliance store ls")
        return found


def _names(root: Root) -> set[str]:
    """Return what people may call it: a model, a model with its version, one variant, a digest."""
    names = {root.reference, root.manifest}
    if (variant := root.variant) is not None:
        names |= {variant.model, f"{variant.model}@{variant.version}",
                  f"{variant.model}:{variant.version}"}  # fmt: skip
    return names
