"""Models as the catalogue holds them, and replicas as drivers run them."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from appliance.core import wire
from appliance.core.ids import Digest


@dataclass(frozen=True, slots=True)
class Variant:
    """One quantization of one version of a model: a row of the catalogue.

    ``context_max`` and ``kv_bytes_per_token`` come from the weight file's header; ``None`` means
    that the header does not say.
    """

    model: str
    version: str
    name: str
    publisher: str
    licence: str
    manifest: Digest
    weights: Digest
    weights_bytes: int
    file: str
    format: str
    capabilities: tuple[str, ...]
    context_max: int | None = None
    kv_bytes_per_token: int | None = None

    @property
    def reference(self) -> str:
        """The name in the store's OCI index, which skopeo and oras read."""
        return f"{self.model}:{self.version}-{self.name}"

    @property
    def path(self) -> str:
        """The path under which it was signed; what a site signed itself has no publisher in it."""
        whose = "local" if self.publisher == "local" else f"models/{self.publisher}"
        return f"{whose}/{self.model}/{self.version}/{self.name}"

    def to_wire(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> "Variant":
        """Return what ``to_wire`` wrote; fields of a later release are ignored."""
        known = {k: data[k] for k in cls.__dataclass_fields__ if k in data}
        return cls(**{**known, "capabilities": tuple(known["capabilities"])})


NOT_LISTED = "NotListed"
REVOKED = "Revoked"


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a variant in the catalogue must not be started; with ``stop`` it must not run either."""

    reason: str
    message: str
    stop: bool = False


@dataclass(frozen=True, slots=True)
class Replica:
    """One engine that should run. Equal replicas are interchangeable."""

    id: str
    deployment: str
    variant: Variant
    engine: str
    context: int
    slots: int
    memory_limit_bytes: int

    @property
    def revision(self) -> str:
        """12 hex digits that change whenever the engine would have to be started anew."""
        return hashlib.sha256(wire.dumps(self.to_wire())).hexdigest()[:12]

    def to_wire(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> "Replica":
        """Return what ``to_wire`` wrote."""
        known = {k: data[k] for k in cls.__dataclass_fields__ if k in data}
        return cls(**{**known, "variant": Variant.from_wire(data["variant"])})
