"""ModelPack manifests: a model as an OCI artifact with raw layers.

Follows the CNCF ModelPack model-spec v1: https://github.com/modelpack/model-spec. Weights are one
raw layer, so the layer's digest is the file's digest and nothing is unpacked. What the spec has no
field for (GGUF sizing facts) is an annotation under our own name.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from appliance.core import wire
from appliance.core.documents import BundleModel
from appliance.core.gguf import GgufHeader
from appliance.core.ids import Digest, digest
from appliance.core.model import Variant
from appliance.errors import MalformedError

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
WEIGHT_TYPE = "application/vnd.cncf.model.weight.v1.raw"
FILEPATH = "org.cncf.model.filepath"
OURS = "dev.edge-appliance.model"
MAX_MANIFEST_BYTES = 4 << 20

_FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
"""A file's or a folder's name: nothing hidden, nothing that leads elsewhere, no name too long."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One blob that a manifest covers."""

    digest: Digest
    size: int
    media_type: str


@dataclass(frozen=True, slots=True)
class Pack:
    """A manifest that was read: the variant it describes, and its blobs, itself the first."""

    variant: Variant
    blobs: tuple[Descriptor, ...]


def build(
    model: BundleModel, variant: str, file: str, weights: Descriptor, header: GgufHeader
) -> tuple[bytes, bytes]:
    """Return the manifest and the config of one variant, as canonical JSON."""
    config = wire.dumps(
        {
            "descriptor": {
                "name": model.name,
                "version": model.version,
                "vendor": model.publisher,
                "licenses": [model.licence],
            },
            "config": {
                "architecture": "transformer",
                "format": "gguf",
                "quantization": variant,
                "capabilities": {
                    "inputTypes": ["text"],
                    "outputTypes": ["embedding" if "embeddings" in model.capabilities else "text"],
                },
            },
            "modelfs": {"type": "layers", "diffIds": [weights.digest]},
        }
    )
    facts = {
        f"{OURS}.capabilities": ",".join(model.capabilities),
        f"{OURS}.context": header.context_length,
        f"{OURS}.kv-bytes-per-token": header.kv_bytes_per_token,
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": {
            "mediaType": CONFIG_TYPE,
            "digest": "sha256:" + hashlib.sha256(config).hexdigest(),
            "size": len(config),
        },
        "layers": [
            {
                "mediaType": WEIGHT_TYPE,
                "digest": weights.digest,
                "size": weights.size,
                "annotations": {FILEPATH: file},
            }
        ],
        "annotations": {
            "org.opencontainers.image.title": model.name,
            "org.opencontainers.image.version": model.version,
            "org.opencontainers.image.vendor": model.publisher,
            "org.opencontainers.image.licenses": model.licence,
            **{name: str(value) for name, value in facts.items() if value is not None},
        },
    }
    return wire.dumps(manifest), config


def read(path: str, manifest_digest: Digest, data: bytes) -> Pack:
    """Step 10: read a manifest whose bytes were already found to have the signed digest.

    Args:
        path: The signed path, ``models/PUBLISHER/NAME/VERSION/VARIANT``. It names the model; what
            the manifest says of itself is for people.
        manifest_digest: The signed digest.
        data: The manifest.

    Raises:
        MalformedError: not a ModelPack manifest that this release takes.
    """
    parts = path.split("/")
    if len(parts) != 5 or parts[0] != "models" or not all(_FILE.fullmatch(p) for p in parts):
        raise MalformedError(f"{path} is not models/PUBLISHER/NAME/VERSION/VARIANT")
    manifest = wire.loads(data, what=f"the manifest of {path}")
    if "manifests" in manifest or manifest.get("mediaType") != MANIFEST_TYPE:
        raise MalformedError(f"{path} is not an OCI image manifest")
    if manifest.get("artifactType") != ARTIFACT_TYPE:
        raise MalformedError(f"{path} is not a ModelPack artifact")
    layers = manifest.get("layers")
    if not isinstance(layers, list) or len(layers) != 1:
        raise MalformedError(f"{path} does not have exactly one layer of weights")
    config = _descriptor(manifest.get("config"), CONFIG_TYPE, path)
    weights = _descriptor(layers[0], WEIGHT_TYPE, path)
    file = _annotations(layers[0]).get(FILEPATH)
    if not isinstance(file, str) or not _FILE.fullmatch(file):
        raise MalformedError(f"{path}: {file!r} is not a plain file name")
    notes = _annotations(manifest)
    variant = Variant(
        model=parts[2],
        version=parts[3],
        name=parts[4],
        publisher=parts[1],
        licence=str(notes.get("org.opencontainers.image.licenses", "not stated")),
        manifest=manifest_digest,
        weights=weights.digest,
        weights_bytes=weights.size,
        file=file,
        format="gguf",
        capabilities=tuple(str(notes.get(f"{OURS}.capabilities", "")).split(",")),
        context_max=_number(notes.get(f"{OURS}.context")),
        kv_bytes_per_token=_number(notes.get(f"{OURS}.kv-bytes-per-token")),
    )
    manifest_itself = Descriptor(manifest_digest, len(data), MANIFEST_TYPE)
    return Pack(variant, (manifest_itself, config, weights))


def _descriptor(found: object, media_type: str, path: str) -> Descriptor:
    if not isinstance(found, dict) or found.get("mediaType") != media_type:
        raise MalformedError(f"{path}: a blob is not of type {media_type}")
    if "urls" in found or "data" in found:
        raise MalformedError(f"{path}: a blob must be in the bundle, not at an address or inline")
    size = found.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise MalformedError(f"{path}: a blob has no size")
    try:
        return Descriptor(digest(str(found.get("digest"))), size, media_type)
    except ValueError as error:
        raise MalformedError(f"{path}: {error}") from error


def _annotations(found: dict[str, Any]) -> dict[str, Any]:
    notes = found.get("annotations")
    return notes if isinstance(notes, dict) else {}


def _number(text: object) -> int | None:
    return int(text) if isinstance(text, str) and re.fullmatch(r"[0-9]{1,12}", text) else None
