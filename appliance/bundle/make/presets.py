"""Bundle definitions of open models, by the memory of the card that they are for.

They name sources and hold no digest, for nobody should commit one that nobody fetched: each counts
as unverified until somebody runs ``bundle lock`` on it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import appliance
from appliance.bundle.make.locking import Definition, read_definition
from appliance.core.definitions import BundleModel
from appliance.errors import NotFoundError

SIZE_CLASS = "edge-appliance.dev/gpu-memory"
STATUS = "edge-appliance.dev/status"
NEXT_STEPS = """\
unverified: nobody has fetched it yet. Copy one, keep the models that you want, then:
  appliance bundle lock DEFINITION                 fetches and writes the digests it saw
  appliance bundle build DEFINITION -o FOLDER      makes the signed bundle"""


@dataclass(frozen=True, slots=True)
class Preset:
    """A definition to begin with. ``status`` is ``unverified``, or ``locked`` once it was."""

    path: Path
    size_class: str
    status: str
    models: tuple[BundleModel, ...]

    def to_wire(self) -> dict[str, Any]:
        """Return plain JSON data."""
        models = [model.model_dump(mode="json", by_alias=True, exclude_unset=True)
                  for model in self.models]  # fmt: skip
        return {"definition": str(self.path), "gpuMemory": self.size_class,
                "status": self.status, "models": models}  # fmt: skip


def presets(folder: Path | None = None) -> list[Preset]:
    """Return the presets in a folder, smallest first; those of this release without one.

    Raises:
        NotFoundError: there are none.
        BadDocumentError: one is not a definition.
    """
    folder = folder or _own()
    paths = [p for p in sorted(folder.glob("*.yaml")) if not p.name.endswith(".lock.yaml")]
    if not paths:
        raise NotFoundError(f"there are no presets in {folder}")
    return sorted(map(_preset, map(read_definition, paths)), key=lambda p: _number(p.size_class))


def _preset(definition: Definition) -> Preset:
    metadata = definition.document.metadata
    status = "locked" if definition.lock_path.exists() else metadata.annotations.get(STATUS, "")
    size_class = metadata.labels.get(SIZE_CLASS, "not stated")
    return Preset(definition.path, size_class, status, definition.document.spec.models)


def _number(size_class: str) -> int:
    digits = "".join(character for character in size_class if character.isdecimal())
    return int(digits or 0)


def _own() -> Path:
    """Return where this release has them: in the installed package, or beside its source."""
    package = Path(appliance.__file__).parent
    installed = package / "presets"
    return installed if installed.is_dir() else package.parent / "bundles" / "presets"
