"""Laying a bundle out: blobs, manifests, one index of them all, and the bills that refer to it."""

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from appliance.bundle.format import artifact, content, modelpack, oci
from appliance.bundle.format.artifact import NamedBlob
from appliance.bundle.format.oci import INDEX_TYPE, MANIFEST_TYPE, Descriptor
from appliance.bundle.make import bom
from appliance.bundle.make.bom import Release, ShippedFiles, ShippedImage, ShippedModel
from appliance.bundle.make.fetched import Fetched
from appliance.bundle.make.images import FetchedImage
from appliance.bundle.make.locking import check_part, model_files
from appliance.bundle.make.sources import describe
from appliance.cache.blobs import BlobStore
from appliance.core.definitions import BundleFiles, BundleImage, BundleModel, VariantSource
from appliance.core.ids import Digest
from appliance.core.model import ModelFile
from appliance.trust.repository import NewTarget

Progress = Callable[[str, int, int], None]
"""Told what is being copied, the bytes done and the bytes in all."""


@dataclass
class Writer:
    """Lays out one bundle's folder; ``fetched`` are its files by description of their source."""

    blobs: BlobStore
    fetched: Mapping[str, Fetched]
    total: int
    progress: Progress
    targets: list[NewTarget] = field(default_factory=list)
    entries: list[dict[str, object]] = field(default_factory=list)
    models: list[ShippedModel] = field(default_factory=list)
    images: list[ShippedImage] = field(default_factory=list)
    files: list[ShippedFiles] = field(default_factory=list)
    _done: int = 0

    def add_model(self, model: BundleModel, variant: VariantSource) -> None:
        """Lay out one variant of a model.

        Raises:
            MalformedError: a file is not what a node would take.
        """
        files, origins, revisions = [], {}, {}
        for named in model_files(model, variant):
            found = self.fetched[describe(named.source)]
            path = named.path or found.name
            kind = content.kind_of(path)
            self._copy(found.path, found.digest, found.size, f"{model.name} {variant.name}")
            content.check_name(path, kind)
            files.append(ModelFile(path, found.digest, found.size, kind))
            origins[path], revisions[path] = named.source, found.revision
        content.check_together(files)
        facts = content.facts(files, self._open)
        manifest, config = modelpack.build(model, variant.name, files, facts)
        self.blobs.add(config)
        path = model.path(variant.name)
        itself = Descriptor.of(manifest, MANIFEST_TYPE)
        pack = modelpack.read(path, itself.digest, manifest)
        self._list(path, manifest, modelpack.ARTIFACT_TYPE, pack.variant.reference)
        self.models.append(ShippedModel(model, pack, facts, origins, revisions))

    def add_image(self, image: BundleImage, found: FetchedImage) -> None:
        """Lay out a container image."""
        for blob in found.blobs[1:]:
            self._copy(found.paths[blob.digest], blob.digest, blob.size, image.name)
        reference = f"images/{image.name}:{image.version}"
        artifact.read(image.path, found.digest, found.manifest)
        self._list(image.path, found.manifest, None, reference)
        self.images.append(ShippedImage(image, found.digest))

    def add_files(self, part: BundleFiles) -> None:
        """Lay out files of one kind.

        Raises:
            MalformedError, BadDocumentError: one is not of that kind.
        """
        files, origins = [], {}
        for named in part.files:
            found = self.fetched[describe(named.source)]
            check_part(part, named, found)
            name = (named.path or found.name).rpartition("/")[2]
            self._copy(found.path, found.digest, found.size, part.name)
            files.append(NamedBlob(name, found.digest, found.size))
            origins[name] = named.source
        self.blobs.add(oci.EMPTY)
        manifest = artifact.files_manifest(part, files)
        itself = Descriptor.of(manifest, MANIFEST_TYPE)
        artifact.read(part.path, itself.digest, manifest)
        reference = f"files/{part.kind}/{part.name}:{part.version}"
        self._list(part.path, manifest, artifact.artifact_type(part.kind), reference)
        self.files.append(ShippedFiles(part, itself.digest, tuple(files), origins))

    def finish(self, name: str, version: str, now: datetime.datetime) -> Digest:
        """Write the index of all that is here, and the bills of materials that refer to it.

        Returns:
            The index's digest.
        """
        notes = {oci.TITLE: name, oci.VERSION: version}
        data = oci.index(self.entries, notes)
        subject = Descriptor.of(data, INDEX_TYPE)
        self.blobs.add(data)
        release = Release(name, version, subject.digest, now)
        if self.models:
            self._bill("mlbom", bom.mlbom(release, self.models), release, subject)
        if self.images or self.files:
            self._bill("sbom", bom.sbom(release, self.images, self.files), release, subject)
        reference = {oci.REF_NAME: f"releases/{name}:{version}"}
        self.entries.append(subject.to_wire(annotations=reference))
        self.blobs.write_index(self.entries)
        return subject.digest

    def _bill(self, which: str, data: bytes, release: Release, subject: Descriptor) -> None:
        self.blobs.add(oci.EMPTY)
        self.blobs.add(data)
        manifest = artifact.bom_manifest(data, f"{release.name}-{which}", subject)
        path = f"boms/{release.name}/{release.version}/{which}"
        artifact.read(path, Descriptor.of(manifest, MANIFEST_TYPE).digest, manifest)
        reference = f"boms/{release.name}:{release.version}-{which}"
        self._list(path, manifest, artifact.BOM_TYPE, reference)

    def _list(self, path: str, manifest: bytes, artifact_type: str | None, reference: str) -> None:
        digest = self.blobs.add(manifest)
        self.targets.append(NewTarget(path, digest, len(manifest), MANIFEST_TYPE))
        more = {} if artifact_type is None else {"artifactType": artifact_type}
        entry = Descriptor.of(manifest, MANIFEST_TYPE).to_wire(
            annotations={oci.REF_NAME: reference}, **more
        )
        self.entries.append(entry)

    def _copy(self, source: Path, digest: Digest, size: int, what: str) -> None:
        def told(count: int) -> None:
            self._done += count
            self.progress(what, self._done, self.total)

        if self.blobs.has(digest):
            told(size)
            return
        with source.open("rb") as file:
            self.blobs.receive(file, digest, size, told)
        self.blobs.admit([digest])

    def _open(self, digest: Digest) -> BinaryIO:
        return self.blobs.path(digest).open("rb")
