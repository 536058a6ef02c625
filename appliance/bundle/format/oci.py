"""What all OCI manifests have in common: descriptors, media types, and strictness in reading them.

Follows the OCI image specification 1.1. Reading is step 10 of `TRUST.md`: the digest of the raw
bytes was found to be the signed one before anything here parses them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.core import wire
from appliance.core.ids import Digest, digest
from appliance.errors import MalformedError

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
IMAGE_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"
"""The config of an artefact that needs none."""
TITLE = "org.opencontainers.image.title"
VERSION = "org.opencontainers.image.version"
VENDOR = "org.opencontainers.image.vendor"
LICENCES = "org.opencontainers.image.licenses"
REF_NAME = "org.opencontainers.image.ref.name"
MAX_MANIFEST_BYTES = 4 << 20
MAX_LAYERS = 1024


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One blob that a manifest covers."""

    digest: Digest
    size: int
    media_type: str

    @classmethod
    def of(cls, data: bytes, media_type: str) -> "Descriptor":
        """Return the descriptor of bytes at hand."""
        return cls(Digest("sha256:" + hashlib.sha256(data).hexdigest()), len(data), media_type)

    def to_wire(self, **more: object) -> dict[str, Any]:
        """Return it as a manifest has it, with ``more`` of its fields."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size, **more}


def manifest(
    artifact_type: str,
    config: Descriptor,
    layers: Sequence[Mapping[str, Any]],
    annotations: Mapping[str, str],
    subject: Descriptor | None = None,
) -> bytes:
    """Return an image manifest as canonical JSON; with ``subject`` it refers to another."""
    found: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": artifact_type,
        "config": config.to_wire(),
        "layers": list(layers),
        "annotations": dict(annotations),
    }
    if subject is not None:
        found["subject"] = subject.to_wire()
    return wire.dumps(found)


def index(manifests: Sequence[Mapping[str, Any]], annotations: Mapping[str, str]) -> bytes:
    """Return an image index as canonical JSON."""
    return wire.dumps(
        {
            "schemaVersion": 2,
            "mediaType": INDEX_TYPE,
            "manifests": list(manifests),
            "annotations": dict(annotations),
        }
    )


def read_manifest(path: str, data: bytes) -> dict[str, Any]:
    """Return an image manifest that has the form of one; ``path`` names it in errors.

    Raises:
        MalformedError: it has not.
    """
    found = wire.loads(data, what=f"the manifest of {path}")
    if "manifests" in found or found.get("mediaType") != MANIFEST_TYPE:
        raise MalformedError(f"{path} is not an OCI image manifest")
    layers = found.get("layers")
    if not isinstance(layers, list) or not 1 <= len(layers) <= MAX_LAYERS:
        raise MalformedError(f"{path} has not 1 to {MAX_LAYERS} layers")
    return found


def descriptor(found: object, path: str, *media_types: str, cap: int | None = None) -> Descriptor:
    """Return a descriptor of one of ``media_types``, of a blob that must be in the bundle.

    Raises:
        MalformedError: it is not one, or of a blob of more than ``cap`` bytes.
    """
    kind = found.get("mediaType") if isinstance(found, dict) else None
    if not isinstance(found, dict) or kind not in media_types:
        raise MalformedError(f"{path}: a blob is not of type {' or '.join(media_types)}")
    if "urls" in found or "data" in found:
        raise MalformedError(f"{path}: a blob must be in the bundle, not at an address or inline")
    size = found.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise MalformedError(f"{path}: a blob has no size")
    if cap is not None and size > cap:
        raise MalformedError(f"{path}: a blob of type {kind} has {size} bytes, more than {cap}")
    try:
        return Descriptor(digest(str(found.get("digest"))), size, str(kind))
    except ValueError as error:
        raise MalformedError(f"{path}: {error}") from error


def annotations(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the annotations of a manifest or descriptor; what is no mapping holds none."""
    notes = found.get("annotations")
    return notes if isinstance(notes, dict) else {}
