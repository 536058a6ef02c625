"""Models as the catalogue holds them, and replicas as drivers run them."""

import functools
import hashlib
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any

from appliance.core import wire
from appliance.core.ids import LOCAL, Digest


class FileKind(StrEnum):
    """What a file of a model is for."""

    WEIGHT = "weight"
    CONFIG = "config"
    DOC = "doc"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file of a model, by its path in the folder that an engine opens."""

    path: str
    digest: Digest
    size: int
    kind: FileKind

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> "ModelFile":
        """Return what was written as plain JSON data."""
        return cls(data["path"], data["digest"], data["size"], FileKind(data["kind"]))


@dataclass(frozen=True, slots=True)
class Variant:
    """One quantization of one version of a model: a row of the catalogue.

    ``weights`` and ``file`` are those that an engine is told to open; ``weights_bytes`` counts all
    files of weights. ``files`` are all files, ``()`` in rows that an earlier release wrote.
    ``context_max`` and ``kv_bytes_per_token`` come from the headers; ``None`` means that these do
    not say.
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
    files: tuple[ModelFile, ...] = ()

    def __hash__(self) -> int:
        """Return a hash of what tells variants apart; there may be many files, and many asks."""
        return hash((self.manifest, self.version, self.name))

    @property
    def reference(self) -> str:
        """The name in the store's OCI index, which skopeo and oras read."""
        return f"{self.model}:{self.version}-{self.name}"

    @property
    def path(self) -> str:
        """The path under which it was signed; what a site signed itself has no publisher in it."""
        whose = LOCAL if self.publisher == LOCAL else f"models/{self.publisher}"
        return f"{whose}/{self.model}/{self.version}/{self.name}"

    @property
    def all_files(self) -> tuple[ModelFile, ...]:
        """All files; of a row that an earlier release wrote, the one that it knew."""
        if self.files:
            return self.files
        return (ModelFile(self.file, self.weights, self.weights_bytes, FileKind.WEIGHT),)

    def to_wire(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return _without_no_files(asdict(self))

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> "Variant":
        """Return what ``to_wire`` wrote; fields of a later release are ignored."""
        known = {k: data[k] for k in cls.__dataclass_fields__ if k in data}
        known["capabilities"] = tuple(known["capabilities"])
        known["files"] = tuple(ModelFile.from_wire(file) for file in known.get("files", ()))
        return cls(**known)


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
    """One engine that should run. Equal replicas are interchangeable.

    ``nodes`` are the machines of a cluster that may run it, empty where there is only this one:
    where it may start, not what it is, so that it never counts in ``revision``. ``gpus`` are whole
    GPUs, ``mig`` the profile of a slice of one.
    """

    id: str
    deployment: str
    variant: Variant
    engine: str
    context: int
    slots: int
    memory_limit_bytes: int
    gpus: int = 0
    mig: str = ""
    priority: str = "standard"
    nodes: tuple[str, ...] = ()

    def __hash__(self) -> int:
        """Return a hash of what mostly tells replicas apart."""
        return hash((self.id, self.variant.manifest, self.context, self.nodes))

    @property
    def revision(self) -> str:
        """12 hex digits that change whenever the engine would have to be started anew."""
        return _revision(replace(self, nodes=()) if self.nodes else self)

    def to_wire(self) -> dict[str, Any]:
        """Return plain JSON data, without what has its default: earlier releases lack it."""
        defaults = {f.name: f.default for f in fields(self)}
        whole = {k: v for k, v in asdict(self).items() if v != defaults[k]}
        return {**whole, "variant": self.variant.to_wire()}

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> "Replica":
        """Return what ``to_wire`` wrote."""
        known = {k: data[k] for k in cls.__dataclass_fields__ if k in data}
        known["nodes"] = tuple(known.get("nodes", ()))
        return cls(**{**known, "variant": Variant.from_wire(data["variant"])})


@functools.lru_cache(8192)
def _revision(replica: Replica) -> str:
    """Return the digest of all that an engine is started with; a pass asks for thousands."""
    return hashlib.sha256(wire.dumps(replica.to_wire())).hexdigest()[:12]


def _without_no_files(data: dict[str, Any]) -> dict[str, Any]:
    """Leave out what rows of an earlier release lack: their replicas keep their revision."""
    if not data["files"]:
        del data["files"]
    return data
