"""What is in the store, and who needs it: the facts that the rest of the care goes by.

Everything is read afresh, from the folders and from the ledger.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from appliance.cache import index, pins, roots
from appliance.cache.roots import Root
from appliance.cache.store import ModelStore
from appliance.core import ids, wire
from appliance.core.ids import Digest
from appliance.core.model import Variant
from appliance.errors import ApplianceError
from appliance.kit.clock import rfc3339
from appliance.ledger.db import Ledger
from appliance.planner.retain import DiskBudget, Held, Pin, PinKind
from appliance.settings import CacheSettings

_MOST_MANIFEST_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the node around the store says: who holds what, what is allowed, and the time."""

    pins: Mapping[Digest, tuple[Pin, ...]]
    budget: DiskBudget
    now: datetime

    @property
    def at(self) -> str:
        """The time for a record."""
        return rfc3339(self.now)


@dataclass(frozen=True, slots=True)
class Inventory:
    """The store and the ledger of one node."""

    state: Path
    store: ModelStore
    ledger: Ledger
    circumstances: Callable[[], Circumstances]
    settings: CacheSettings

    def roots(self) -> list[Root]:
        """Return everything that makes blobs belong to somebody."""
        return self.ledger.read(roots.all_roots)

    def variants(self) -> list[Variant]:
        """Return the whole catalogue, with what lost a blob."""
        return [root.variant for root in self.roots() if root.variant is not None]

    def needed(self) -> dict[Digest, int]:
        """Return every blob that somebody needs, with its size."""
        return {d: n for blobs in self.ledger.read(index.needs).values() for d, n in blobs.items()}

    def learn(self) -> None:
        """Read what new manifests need, and forget what nobody lists or holds any more."""
        known, found = self.ledger.read(index.needs), {}
        now = self.circumstances()
        listed = {root.manifest: root for root in self.roots()}
        for manifest, root in listed.items():
            if manifest not in known:
                found[manifest] = self._named_by(root)
        # To be run for the first time is no reason to stay for what cannot be run any more.
        held = {m for m, why in now.pins.items() if any(p.kind is not PinKind.STAGED for p in why)}
        gone = known.keys() - listed.keys() - held
        if found or gone:
            effect = partial(index.learn, found=found, gone=sorted(gone), at=now.at)
            self.ledger.record(effect).result()

    def _named_by(self, root: Root) -> dict[Digest, int]:
        return {**root.own_blobs, **blobs_named(self.store.blobs.path(root.manifest))}

    def held(self, present: Mapping[Digest, int]) -> list[Held]:
        """Return who needs what of ``present``, with the reasons why each must stay.

        What runs although the catalogue has another manifest of that name by now is among them.
        """
        found = self.ledger.read(index.needs)
        listed = {root.manifest: root for root in self.roots()}
        for manifest, root in listed.items():
            if manifest not in found:  # it came or was healed just now, and is not learnt yet
                found[manifest] = self._named_by(root)
        held_by, used = self.circumstances().pins, self.ledger.read(pins.uses)
        variants = []
        for manifest, blobs in found.items():
            root = listed.get(manifest, Root(manifest, f"replaced {manifest[:19]}"))
            why = held_by.get(manifest, ())
            if root.stays:
                why = (*why, Pin(PinKind.DESIRED, root.stays))
            use = used.get(manifest)
            variants.append(
                Held(
                    manifest,
                    root.reference if root.variant is None else root.variant.model,
                    "" if root.variant is None else root.variant.version,
                    root.reference,
                    {digest: present.get(digest, 0) for digest in blobs},
                    "" if use is None else use.used_at or use.since,
                    why,
                )
            )
        return variants


def blobs_named(path: Path) -> dict[Digest, int]:
    """Return the blobs that an OCI manifest names, itself with them; nothing if it is unreadable.

    It was checked when it came in, so what does not parse now is damaged, and the scrub finds it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_MANIFEST_BYTES)
        found = wire.loads(data, what=str(path))
        parts = [found.get("config"), *found.get("layers", ()), *found.get("manifests", ())]
        named = dict(_descriptor(part) for part in parts if part is not None)
    except (OSError, ApplianceError, ValueError, TypeError, KeyError, json.JSONDecodeError):
        return {}
    return {Digest(f"sha256:{path.name}"): len(data), **named}


def _descriptor(part: dict[str, Any]) -> tuple[Digest, int]:
    return ids.digest(part["digest"]), int(part["size"])
