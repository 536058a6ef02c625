"""A store with its ledger and its care, filled with small variants; the test sets the rest."""

import datetime
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from appliance.cache import catalog
from appliance.cache.care import CacheCare
from appliance.cache.inventory import Circumstances
from appliance.cache.store import ModelStore
from appliance.core import wire
from appliance.core.ids import Digest
from appliance.core.model import Variant
from appliance.kit.clock import SystemClock, rfc3339
from appliance.ledger import streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Stream
from appliance.node.retention import Retaining
from appliance.planner.retain import DiskBudget, Pin, PinKind
from appliance.settings import CacheSettings
from tests.helpers.models import variant
from tests.helpers.organisation import Node


def care_of(node: Node) -> CacheCare:
    """Return the care of a node's store, as wiring builds it."""
    settings = CacheSettings()
    retaining = Retaining(node.state, node.ledger, SystemClock(), settings)
    return CacheCare(node.state, node.store, node.ledger, retaining.circumstances, settings)


NOW = datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC)


@dataclass
class CaredStore:
    """What a node's store and ledger are, and what the node around them would say."""

    state: Path
    settings: CacheSettings = field(default_factory=CacheSettings)
    pins: dict[Digest, tuple[Pin, ...]] = field(default_factory=dict)
    budget: DiskBudget = field(default_factory=DiskBudget)
    now: datetime.datetime = NOW

    def __post_init__(self) -> None:
        self.store = ModelStore(self.state)
        self.store.init()
        self.open()

    def open(self) -> None:
        """Open the ledger and begin to care, as after a start."""
        self.ledger = Ledger(self.state / "node.db")
        self.care = CacheCare(
            self.state, self.store, self.ledger, self.circumstances, self.settings
        )

    def circumstances(self) -> Circumstances:
        return Circumstances(self.pins, self.budget, self.now)

    def bring(
        self, model: str, version: str = "1.0", data: bytes = b"", *, also: bytes = b""
    ) -> Variant:
        """Have an import bring a variant of which ``also`` is a layer beside its weights."""
        weights = data or f"weights of {model} {version}".encode() * 10
        layers = [weights, *([also] if also else [])]
        manifest = wire.dumps(
            {
                "config": self._descriptor(f"config of {model} {version}".encode()),
                "layers": [self._descriptor(layer) for layer in layers],
            }
        )
        found = variant(
            model,
            version,
            manifest=self.store.blobs.add(manifest),
            weights=self.store.blobs.add(weights),
            weights_bytes=len(weights),
        )
        at = rfc3339(self.now)
        self.ledger.record(lambda db: catalog.add(db, found, at)).result()
        self.store.weights(found)
        self.care.health.look()
        return found

    def pin(self, found: Variant, kind: PinKind = PinKind.DESIRED) -> None:
        self.pins[found.manifest] = (Pin(kind, "notes"),)

    def used_bytes(self) -> int:
        return sum(self.store.sizes().values())

    def models(self) -> list[str]:
        """Return what may be served."""
        return [f"{v.model}@{v.version}" for v in self.ledger.read(catalog.variants)]

    def scrub(self) -> int:
        """Scrub until nothing is due; return the bytes that were read."""
        count = 0
        while (stepped := self.care.scrub.step()).more:
            count += stepped.count
        return count

    def facts(self, stream: Stream) -> list[tuple[str, dict[str, Any]]]:
        found = self.ledger.read(lambda db: list(streams.waiting(db, stream, 1000)))
        return [(r.record["kind"], r.record["body"]) for r in found]

    def later(self, **span: float) -> None:
        self.now += datetime.timedelta(**span)

    def is_whole(self) -> bool:
        """Whether every blob of everything that may be served is here, under its own name."""
        here = self.store.sizes()
        return all(
            {v.manifest, v.weights} <= here.keys() and self.store.weights(v).exists()
            for v in self.ledger.read(catalog.variants)
        )

    def with_settings(self, **changes: Any) -> None:
        self.settings = replace(self.settings, **changes)
        self.ledger.close()
        self.open()

    def _descriptor(self, data: bytes) -> dict[str, Any]:
        return {"digest": self.store.blobs.add(data), "size": len(data)}
