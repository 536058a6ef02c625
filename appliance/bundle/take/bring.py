"""Reading a model that nobody signed: files, or a ModelPack in an OCI layout.

It is read as untrusted as any medium: regular files alone, never through a link, names and content
checked. What is copied lies in ``incoming/`` until somebody admits it; a refusal leaves nothing.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from appliance.bundle.format import content, modelpack
from appliance.bundle.format.oci import MANIFEST_TYPE, Descriptor
from appliance.bundle.make.images import Layout
from appliance.bundle.media.medium import FolderMedium
from appliance.bundle.media.queue import Step
from appliance.bundle.media.reader import blob_name
from appliance.bundle.take.intake import Housekeeping, Progress, require_room
from appliance.cache.blobs import BlobStore
from appliance.core.definitions import BundleModel, Capability
from appliance.core.ids import LOCAL, Digest
from appliance.core.model import ModelFile, Variant
from appliance.errors import ApplianceError, MalformedError, NotFoundError

_MOST_FILES = 1000
_QUANTIZATION = re.compile(
    r"(?:^|[-_.])(I?Q[0-9][0-9A-Z_]*|TQ[0-9]_[0-9]|MXFP4|BF16|FP?16|FP?32|FP8)(?=[-.]|$)",
    re.IGNORECASE,
)
_UNNAMED = "default"
_RAW = "a ModelPack must have raw layers, one a file: pack it again so, or add its files"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a model is to be called. Without ``variant``, its file's name says."""

    name: str
    version: str = "1.0.0"
    variant: str = ""
    licence: str = ""
    capabilities: tuple[Capability, ...] = ("chat", "completions")
    reference: str | None = None
    """Which manifest of a layout, when it holds several."""

    @property
    def path(self) -> str:
        """The path that the site signs it under."""
        return f"{LOCAL}/{self.name}/{self.version}/{self.variant}"


@dataclass(frozen=True, slots=True)
class Brought:
    """A model whose blobs lie in ``incoming/``, or in the store already.

    ``config`` is one that was made for it; a ModelPack has its own among its blobs.
    """

    variant: Variant
    manifest: bytes
    digests: tuple[Digest, ...]
    config: bytes | None = None


@dataclass
class Bringer:
    """Copies one model into a store's ``incoming/``."""

    blobs: BlobStore
    housekeeping: Housekeeping
    progress: Progress
    _received: list[Digest] = field(default_factory=list)
    _done: int = 0
    _total: int = 0

    def bring(self, source: Path, wish: Wish) -> Brought:
        """Copy a model.

        Raises:
            NotFoundError: there is nothing at ``source``.
            MalformedError: it is not GGUF or safetensors, such as a pickle; or not a ModelPack.
            CorruptError, IncompleteError: an OCI layout whose blobs are not what it says.
            NoSpaceError, StateUnusableError: as their names say.
        """
        with self._all_or_nothing():
            if is_layout(source):
                return self._layout(source, wish)
            if source.is_file():
                real = source.resolve()  # whoever names a link means what it leads to
                return self._files(FolderMedium(real.parent), {source.name: real.name}, wish)
            if not source.is_dir():
                raise NotFoundError(
                    f"there is no model at {source}",
                    hint="name a GGUF file, a folder with a model's files, or an OCI layout",
                )
            names = _names(source)
            return self._files(FolderMedium(source), {name: name for name in names}, wish)

    def _files(self, medium: FolderMedium, names: Mapping[str, str], wish: Wish) -> Brought:
        """Copy files, named by their paths in the model; make a manifest that covers them."""
        kinds = {path: content.kind_of(path) for path in names}
        for path, kind in kinds.items():
            content.check_name(path, kind)
            with medium.open(names[path]) as file:  # hours of copying come after this
                self.housekeeping.look(path, kind, file)
        sizes = {path: medium.size(name) or 0 for path, name in names.items()}
        self._total = sum(sizes.values())
        require_room(self.blobs, self.housekeeping, self._total, f"the model {wish.name}")
        files = []
        for path, kind in kinds.items():
            with medium.open(names[path]) as file:
                digest = self.blobs.take(file, sizes[path], self._told)
            self._received.append(digest)
            files.append(ModelFile(path, digest, sizes[path], kind))
        content.check_together(files)
        facts = content.facts(files, self.blobs.open_received, self.housekeeping.look)
        manifest, config = modelpack.build(_described(wish), wish.variant, files, facts)
        digest = Descriptor.of(manifest, MANIFEST_TYPE).digest
        variant = modelpack.read(wish.path, digest, manifest).variant
        return Brought(variant, manifest, tuple(dict.fromkeys(self._received)), config)

    def _layout(self, folder: Path, wish: Wish) -> Brought:
        """Copy a ModelPack as it is: its manifest stays the one that others know it by."""
        layout, medium = Layout(folder, wish.reference), FolderMedium(folder)
        manifest = layout.root()
        digest = Descriptor.of(manifest, MANIFEST_TYPE).digest
        try:
            pack = modelpack.read(wish.path, digest, manifest)
        except MalformedError as error:
            raise MalformedError(f"{folder}: {error.what}", hint=error.hint or _RAW) from error
        missing = [blob for blob in pack.blobs[1:] if not self.blobs.has(blob.digest)]
        self._total = sum(blob.size for blob in missing)
        require_room(self.blobs, self.housekeeping, self._total, f"the model {wish.name}")
        for blob in missing:
            self._received.append(blob.digest)
            opened = partial(medium.open, blob_name(blob.digest))
            self.blobs.fetch(opened, blob.digest, blob.size, self._told)
        found = content.facts(pack.variant.files, self.blobs.open_received, self.housekeeping.look)
        variant = replace(
            pack.variant,
            context_max=found.context_max,
            kv_bytes_per_token=found.kv_bytes_per_token,
            capabilities=wish.capabilities,
            licence=wish.licence or pack.variant.licence,
        )
        return Brought(variant, manifest, tuple(dict.fromkeys(self._received)))

    def _told(self, count: int) -> None:
        self._done += count
        self.progress(Step("copying", self._done, self._total))

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        try:
            yield
        except ApplianceError:
            self.blobs.discard(self._received)
            raise


def is_layout(source: Path) -> bool:
    """Whether there is an OCI layout."""
    return (source / "oci-layout").exists()


def guessed_variant(source: Path) -> str:
    """Return the quantization in a file's name, as in ``my-model-Q4_K_M.gguf``."""
    found = _QUANTIZATION.findall(source.stem if source.suffix == ".gguf" else "")
    return found[-1].upper() if found else _UNNAMED


def _names(folder: Path) -> list[str]:
    """Return all files of a folder by their paths below it; hidden ones count as not there."""
    if not folder.is_dir():
        raise NotFoundError(f"there is no file or folder at {folder}")
    found: list[str] = []
    for above, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(above).relative_to(folder)
        found += [(below / name).as_posix() for name in sorted(names) if not name.startswith(".")]
        if len(found) > _MOST_FILES:
            raise MalformedError(f"{folder} holds more than {_MOST_FILES} files: that is no model")
    return found


def _described(wish: Wish) -> BundleModel:
    return BundleModel.model_validate(
        {
            "name": wish.name,
            "version": wish.version,
            "publisher": LOCAL,
            "licence": wish.licence or "NOASSERTION",
            "capabilities": wish.capabilities,
            "variants": [{"name": wish.variant, "source": {"file": "brought"}}],
        }
    )
