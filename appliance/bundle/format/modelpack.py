"""ModelPack manifests: a model as an OCI artifact with raw layers.

Follows the CNCF ModelPack model-spec v1: https://github.com/modelpack/model-spec. Each file is one
raw layer, so the layer's digest is the file's digest and nothing is unpacked. What the spec has no
field for (sizing facts, sampling) is an annotation under our own name.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from appliance.bundle.format import content, oci
from appliance.bundle.format.content import Facts, Look
from appliance.bundle.format.oci import MANIFEST_TYPE, MAX_MANIFEST_BYTES, Descriptor
from appliance.core import wire
from appliance.core.definitions import BundleModel
from appliance.core.ids import LOCAL, Digest
from appliance.core.model import FileKind, ModelFile, Variant
from appliance.errors import MalformedError

__all__ = [
    "ARTIFACT_TYPE", "CONFIG_TYPE", "FILEPATH", "LAYER_TYPES", "MANIFEST_TYPE",
    "MAX_MANIFEST_BYTES", "OURS", "WEIGHT_TYPE", "Descriptor", "Pack", "build", "check", "read",
]  # fmt: skip

ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
WEIGHT_TYPE = "application/vnd.cncf.model.weight.v1.raw"
LAYER_TYPES = {
    FileKind.WEIGHT: WEIGHT_TYPE,
    FileKind.CONFIG: "application/vnd.cncf.model.weight.config.v1.raw",
    FileKind.DOC: "application/vnd.cncf.model.doc.v1.raw",
}
FILEPATH = "org.cncf.model.filepath"
OURS = "dev.edge-appliance.model"

_KINDS = {media_type: kind for kind, media_type in LAYER_TYPES.items()}


@dataclass(frozen=True, slots=True)
class Pack:
    """A manifest that was read: the variant it describes, and its blobs, itself the first."""

    variant: Variant
    blobs: tuple[Descriptor, ...]


def build(
    model: BundleModel, variant: str, files: Sequence[ModelFile], facts: Facts
) -> tuple[bytes, bytes]:
    """Return the manifest and the config of one variant, as canonical JSON.

    Layers are in the order of their kind and path, and nothing in it is of the time or machine it
    was made on: the same files give the same digest everywhere.
    """
    order = list(FileKind)
    sorted_files = sorted(files, key=lambda file: (order.index(file.kind), file.path))
    config = wire.dumps(
        {
            "descriptor": _described(model),
            "config": {
                "architecture": "transformer",
                "format": facts.format,
                "quantization": variant,
                "capabilities": {
                    "inputTypes": ["text"],
                    "outputTypes": ["embedding" if "embeddings" in model.capabilities else "text"],
                },
            },
            "modelfs": {"type": "layers", "diffIds": [file.digest for file in sorted_files]},
        }
    )
    layers = [
        Descriptor(file.digest, file.size, LAYER_TYPES[file.kind]).to_wire(
            annotations={FILEPATH: file.path}
        )
        for file in sorted_files
    ]
    described = Descriptor.of(config, CONFIG_TYPE)
    return oci.manifest(ARTIFACT_TYPE, described, layers, _noted(model, facts)), config


def _described(model: BundleModel) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": model.name,
        "version": model.version,
        "vendor": model.publisher,
        "licenses": [model.licence],
    }
    if model.provenance is not None:
        known = model.provenance
        more = {
            "authors": list(known.authors) or None,
            "family": known.family,
            "sourceURL": known.source,
            "revision": known.commit,
        }
        found |= {name: value for name, value in more.items() if value is not None}
    return found


def _noted(model: BundleModel, facts: Facts) -> dict[str, str]:
    known = model.provenance
    more = {
        f"{OURS}.capabilities": ",".join(model.capabilities),
        f"{OURS}.context": facts.context_max,
        f"{OURS}.kv-bytes-per-token": facts.kv_bytes_per_token,
        f"{OURS}.converted-by": known and known.converted_by,
        f"{OURS}.converted-from": known and known.converted_from,
    }
    if model.parameters is not None:
        given = model.parameters.model_dump(mode="json", by_alias=True, exclude_unset=True)
        more[f"{OURS}.parameters"] = wire.dumps(given).decode()
    return {
        oci.TITLE: model.name,
        oci.VERSION: model.version,
        oci.VENDOR: model.publisher,
        oci.LICENCES: model.licence,
        **{name: str(value) for name, value in more.items() if value is not None},
    }


def read(path: str, manifest_digest: Digest, data: bytes) -> Pack:
    """Step 10: read a manifest whose bytes were already found to have the signed digest.

    Args:
        path: The signed path, ``models/PUBLISHER/NAME/VERSION/VARIANT``, or what a site signed
            itself, ``local/NAME/VERSION/VARIANT``. It names the model; what the manifest says of
            itself is for people.
        manifest_digest: The signed digest.
        data: The manifest.

    Raises:
        MalformedError: not a ModelPack manifest that this release takes.
    """
    publisher, model, version, name = _names(path)
    manifest = oci.read_manifest(path, data)
    if manifest.get("artifactType") != ARTIFACT_TYPE:
        raise MalformedError(f"{path} is not a ModelPack artifact")
    config = oci.descriptor(manifest.get("config"), path, CONFIG_TYPE, cap=MAX_MANIFEST_BYTES)
    files = [_file(layer, path) for layer in manifest["layers"]]
    content.check_together(files)
    first, notes = content.primary(files), oci.annotations(manifest)
    variant = Variant(
        model=model,
        version=version,
        name=name,
        publisher=publisher,
        licence=str(notes.get(oci.LICENCES, "not stated")),
        manifest=manifest_digest,
        weights=first.digest,
        weights_bytes=sum(file.size for file in files if file.kind is FileKind.WEIGHT),
        file=first.path,
        format=first.path.rpartition(".")[2].lower(),
        capabilities=tuple(str(notes.get(f"{OURS}.capabilities", "")).split(",")),
        context_max=_number(notes.get(f"{OURS}.context")),
        kv_bytes_per_token=_number(notes.get(f"{OURS}.kv-bytes-per-token")),
        files=tuple(files),
    )
    itself = Descriptor(manifest_digest, len(data), MANIFEST_TYPE)
    layers = (Descriptor(file.digest, file.size, LAYER_TYPES[file.kind]) for file in files)
    return Pack(variant, tuple(dict.fromkeys((itself, config, *layers))))


def check(pack: Pack, opened: Callable[[Digest], BinaryIO], look: Look = content.look) -> None:
    """Step 13: look into the files, and hold the manifest to what they say.

    Args:
        pack: What the manifest says.
        opened: Opens a blob that was received or is in the store.
        look: What looks into each file.

    Raises:
        MalformedError: a file is not what its name says, or the manifest describes another.
    """
    variant = pack.variant
    found = content.facts(variant.files, opened, look)
    stated = (variant.context_max, variant.kv_bytes_per_token)
    if stated != (found.context_max, found.kv_bytes_per_token):
        raise MalformedError(f"the manifest of {variant.reference} describes another weight file")


def _names(path: str) -> tuple[str, str, str, str]:
    parts = path.split("/")
    if parts[0] == LOCAL:
        parts = ["models", *parts]
    elif parts[1:2] == [LOCAL]:
        raise MalformedError(f"{path} takes the name that is kept for a site's own models")
    if len(parts) != 5 or parts[0] != "models" or not all(content.NAME.fullmatch(p) for p in parts):
        raise MalformedError(f"{path} is not models/PUBLISHER/NAME/VERSION/VARIANT")
    return parts[1], parts[2], parts[3], parts[4]


def _file(layer: object, path: str) -> ModelFile:
    blob = oci.descriptor(layer, path, *_KINDS)
    kind = _KINDS[blob.media_type]
    if blob.size > content.CAPS.get(kind, blob.size):
        raise MalformedError(f"{path}: a {kind} file has {blob.size} bytes")
    assert isinstance(layer, dict)
    try:
        name = content.check_name(oci.annotations(layer).get(FILEPATH), kind)
    except MalformedError as error:
        raise MalformedError(f"{path}: {error.what}", hint=error.hint) from error
    return ModelFile(name, blob.digest, blob.size, kind)


def _number(text: object) -> int | None:
    return int(text) if isinstance(text, str) and re.fullmatch(r"[0-9]{1,12}", text) else None
