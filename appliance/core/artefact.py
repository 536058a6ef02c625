"""What a node holds besides models: images, files of a kind, bills of materials."""

from dataclasses import dataclass, field
from typing import Any

from appliance.core.ids import Digest


@dataclass(frozen=True, slots=True)
class HeldFile:
    """A file of an artefact: its name, and the blob that is it."""

    name: str
    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class HeldArtefact:
    """One artefact that came in a bundle.

    ``path`` is the signed path and ``line`` what its versions have in common; ``blobs`` are all
    blobs that it needs, with their sizes, its manifest among them. ``documents`` is the text of
    what a node itself acts on: site documents.
    """

    path: str
    line: str
    manifest: Digest
    manifest_bytes: int
    files: tuple[HeldFile, ...]
    blobs: dict[Digest, int]
    documents: tuple[str, ...] = field(default=())

    def to_wire(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "path": self.path,
            "line": self.line,
            "manifest": self.manifest,
            "manifestBytes": self.manifest_bytes,
            "files": [[file.name, file.digest, file.size] for file in self.files],
            "blobs": {str(digest): size for digest, size in self.blobs.items()},
            "documents": list(self.documents),
        }

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> "HeldArtefact":
        """Return what ``to_wire`` wrote."""
        return cls(
            path=data["path"],
            line=data["line"],
            manifest=Digest(data["manifest"]),
            manifest_bytes=data["manifestBytes"],
            files=tuple(HeldFile(name, Digest(d), size) for name, d, size in data["files"]),
            blobs={Digest(digest): size for digest, size in data["blobs"].items()},
            documents=tuple(data.get("documents", ())),
        )
