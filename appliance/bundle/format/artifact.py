"""Manifests of what is no model: container images, files of a kind, bills of materials.

Writing is for where bundles are built, reading is step 10 on a node: as strict as for models.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, get_args

from appliance.bundle.format import content, oci
from appliance.bundle.format.oci import EMPTY_TYPE, INDEX_TYPE, MANIFEST_TYPE, Descriptor
from appliance.core import reading
from appliance.core.artefact import HeldArtefact, HeldFile
from appliance.core.definitions import BundleFiles, FileKind
from appliance.core.documents import Site
from appliance.core.ids import Digest
from appliance.errors import BadDocumentError, MalformedError

FILE_TYPE = "application/vnd.edge-appliance.file.v1"
BOM_TYPE = "application/vnd.cyclonedx+json"
IMAGE_LAYER_TYPES = tuple(
    f"application/vnd.oci.image.layer.v1.tar{packed}" for packed in ("", "+gzip", "+zstd")
)
MAX_BOM_BYTES = 64 << 20
_MAX_SITE_BYTES = 1 << 20
KINDS: tuple[str, ...] = get_args(FileKind)
BOMS = ("mlbom", "sbom")


@dataclass(frozen=True, slots=True)
class NamedBlob:
    """A file of an artefact."""

    name: str
    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class Artefact:
    """A manifest that was read: what it is called, its files if they have names, and its blobs.

    ``family`` is ``images``, ``files`` or ``boms``; ``kind`` that of files, or which bill. Of
    ``blobs`` the manifest itself is the first. ``subject`` is what a bill refers to.
    """

    path: str
    family: str
    kind: str | None
    name: str
    version: str
    licence: str
    manifest: Digest
    files: tuple[NamedBlob, ...]
    blobs: tuple[Descriptor, ...]
    subject: Digest | None = None


def artifact_type(kind: str) -> str:
    """Return the type of an artefact of files."""
    return f"application/vnd.edge-appliance.files.{kind}.v1"


def files_manifest(part: BundleFiles, files: Sequence[NamedBlob]) -> bytes:
    """Return the manifest of files of one kind."""
    layers = [
        Descriptor(file.digest, file.size, FILE_TYPE).to_wire(annotations={oci.TITLE: file.name})
        for file in files
    ]
    notes = {oci.TITLE: part.name, oci.VERSION: part.version, oci.LICENCES: part.licence}
    return oci.manifest(artifact_type(part.kind), _empty(), layers, notes)


def bom_manifest(bom: bytes, title: str, subject: Descriptor) -> bytes:
    """Return the manifest of a bill of materials, which refers to ``subject``."""
    layer = Descriptor.of(bom, BOM_TYPE).to_wire(annotations={oci.TITLE: f"{title}.cdx.json"})
    return oci.manifest(BOM_TYPE, _empty(), [layer], {oci.TITLE: title}, subject)


def read(path: str, manifest_digest: Digest, data: bytes) -> Artefact:
    """Step 10: read a manifest whose bytes were already found to have the signed digest.

    Args:
        path: The signed path: ``images/NAME/VERSION``, ``files/KIND/NAME/VERSION`` or
            ``boms/BUNDLE/VERSION/WHICH``. What the manifest says of itself is for people.
        manifest_digest: The signed digest.
        data: The manifest.

    Raises:
        MalformedError: it is not one of these.
    """
    family, kind, name, version = _names(path)
    found = oci.read_manifest(path, data)
    itself = Descriptor(manifest_digest, len(data), MANIFEST_TYPE)
    files: tuple[NamedBlob, ...] = ()
    cap, subject = oci.MAX_MANIFEST_BYTES, None
    if family == "images":
        config = oci.descriptor(found.get("config"), path, oci.IMAGE_CONFIG_TYPE, cap=cap)
        layers = [oci.descriptor(one, path, *IMAGE_LAYER_TYPES) for one in found["layers"]]
    else:
        config = oci.descriptor(found.get("config"), path, EMPTY_TYPE, cap=cap)
        wanted = BOM_TYPE if family == "boms" else artifact_type(str(kind))
        if found.get("artifactType") != wanted:
            raise MalformedError(f"{path} is not of type {wanted}")
        if family == "boms":
            layers = [
                oci.descriptor(one, path, BOM_TYPE, cap=MAX_BOM_BYTES) for one in found["layers"]
            ]
            subject = oci.descriptor(found.get("subject"), path, INDEX_TYPE, cap=cap).digest
        else:
            layers = [oci.descriptor(one, path, FILE_TYPE) for one in found["layers"]]
        files = _files(path, found["layers"], layers)
    return Artefact(
        path=path,
        family=family,
        kind=kind,
        name=name,
        version=version,
        licence=str(oci.annotations(found).get(oci.LICENCES, "not stated")),
        manifest=manifest_digest,
        files=files,
        blobs=tuple(dict.fromkeys((itself, config, *layers))),
        subject=subject,
    )


def _names(path: str) -> tuple[str, str | None, str, str]:
    """Return family, kind, name and version."""
    parts = path.split("/")
    if all(content.NAME.fullmatch(part) for part in parts):
        match parts:
            case ["images", name, version]:
                return "images", None, name, version
            case ["files", kind, name, version] if kind in KINDS:
                return "files", kind, name, version
            case ["boms", name, version, which] if which in BOMS:
                return "boms", which, name, version
    raise MalformedError(f"{path} is the path of no image, file or bill of materials")


def _files(
    path: str, found: Sequence[dict[str, object]], layers: Sequence[Descriptor]
) -> tuple[NamedBlob, ...]:
    files = []
    for layer, blob in zip(found, layers, strict=True):
        name = oci.annotations(layer).get(oci.TITLE)
        if not isinstance(name, str) or not content.NAME.fullmatch(name):
            raise MalformedError(f"{path}: {str(name)[:80]!r} is not a plain file name")
        files.append(NamedBlob(name, blob.digest, blob.size))
    if len({file.name.lower() for file in files}) != len(files):
        raise MalformedError(f"{path}: two files have one name")
    return tuple(files)


def _empty() -> Descriptor:
    return Descriptor.of(oci.EMPTY, EMPTY_TYPE)


def held(found: Artefact, opened: Callable[[Digest], BinaryIO]) -> HeldArtefact:
    """Step 13: look into what the node itself acts on; return what is kept of an artefact.

    Args:
        found: The artefact.
        opened: Opens one of its blobs, which are proven by now.

    Raises:
        MalformedError: a site document is not one.
    """
    documents = [_site(found, file, opened) for file in found.files if found.kind == "site"]
    line = found.path.rpartition("/")[0] if found.family != "boms" else f"boms/{found.name}"
    return HeldArtefact(
        path=found.path,
        line=line if found.family != "boms" else f"{line}/{found.kind}",
        manifest=found.manifest,
        manifest_bytes=found.blobs[0].size,
        files=tuple(HeldFile(file.name, file.digest, file.size) for file in found.files),
        blobs={blob.digest: blob.size for blob in found.blobs},
        documents=tuple(documents),
    )


def _site(found: Artefact, file: NamedBlob, opened: Callable[[Digest], BinaryIO]) -> str:
    if file.size > _MAX_SITE_BYTES:
        raise MalformedError(f"{found.path}: {file.name} is larger than {_MAX_SITE_BYTES} bytes")
    with opened(file.digest) as blob:
        data = blob.read()
    try:
        text = data.decode()
        reading.parse_one(text, f"{found.path}: {file.name}", Site)
    except (UnicodeDecodeError, BadDocumentError) as error:
        raise MalformedError(f"{found.path}: {file.name} is no Site: {error}") from error
    return text
