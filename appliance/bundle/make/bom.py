"""Bills of materials: CycloneDX 1.6 (ECMA-424) for models, and for everything else. Pure.

Written by hand, not with cyclonedx-python-lib: that library has no model cards yet. The tests hold
what is written here to its copy of the official schema.
"""

import datetime
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from appliance import __version__
from appliance.bundle.format.artifact import NamedBlob
from appliance.bundle.format.content import Facts
from appliance.bundle.format.modelpack import Pack
from appliance.core import wire
from appliance.core.definitions import (
    BundleFiles,
    BundleImage,
    BundleModel,
    HuggingfaceSource,
    Source,
)
from appliance.core.ids import Digest, hex_of
from appliance.kit.clock import rfc3339

SPEC = "1.6"
_OURS = "edge-appliance"
_SPDX = frozenset({
    "0BSD", "AFL-3.0", "AGPL-3.0-only", "AGPL-3.0-or-later", "Apache-2.0", "BSD-2-Clause",
    "BSD-3-Clause", "BSL-1.0", "CC-BY-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CC-BY-SA-4.0",
    "CC0-1.0", "EPL-2.0", "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later",
    "ISC", "LGPL-2.1-only", "LGPL-2.1-or-later", "LGPL-3.0-only", "LGPL-3.0-or-later", "MIT",
    "MPL-2.0", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib",
})  # fmt: skip
"""Those that models and their engines come under; any other is shown as a name."""
_EXPRESSION = re.compile(r"\(*[A-Za-z0-9.+-]+\)*( (AND|OR|WITH) \(*[A-Za-z0-9.+-]+\)*)+")
_TYPES = {"k3s": "application", "controller": "application", "deb": "application",
          "wheel": "library", "profile": "data", "site": "data"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Release:
    """The bundle that a bill is of; ``index`` is the manifest of all that it holds."""

    name: str
    version: str
    index: Digest
    at: datetime.datetime


@dataclass(frozen=True, slots=True)
class ShippedModel:
    """A variant of a model as it goes into a bundle; ``origins`` are its files' sources by path."""

    model: BundleModel
    pack: Pack
    facts: Facts
    origins: Mapping[str, Source]
    revisions: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ShippedImage:
    """A container image as it goes into a bundle."""

    image: BundleImage
    manifest: Digest


@dataclass(frozen=True, slots=True)
class ShippedFiles:
    """Files of one kind as they go into a bundle."""

    part: BundleFiles
    manifest: Digest
    files: tuple[NamedBlob, ...]
    origins: Mapping[str, Source]


def mlbom(release: Release, models: Sequence[ShippedModel]) -> bytes:
    """Return the bill of a bundle's models."""
    return _bill(release, "mlbom", [_model(model) for model in models])


def sbom(release: Release, images: Sequence[ShippedImage], files: Sequence[ShippedFiles]) -> bytes:
    """Return the bill of a bundle's images, packages and other files."""
    return _bill(release, "sbom", [*map(_image, images), *map(_part, files)])


def _bill(release: Release, which: str, components: list[dict[str, Any]]) -> bytes:
    this = f"releases/{release.name}/{release.version}"
    serial = uuid.uuid5(uuid.NAMESPACE_URL, f"{this}/{which}/{release.index}")
    return wire.dumps(
        {
            "$schema": f"http://cyclonedx.org/schema/bom-{SPEC}.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": SPEC,
            "serialNumber": f"urn:uuid:{serial}",
            "version": 1,
            "metadata": {
                "timestamp": rfc3339(release.at),
                "tools": {
                    "components": [
                        {"type": "application", "name": "edge-ai-appliance", "version": __version__}
                    ]
                },
                "component": {
                    "type": "application",
                    "bom-ref": this,
                    "name": release.name,
                    "version": release.version,
                    "properties": _properties({"index": release.index}),
                },
            },
            "components": components,
            "dependencies": [{"ref": this, "dependsOn": [c["bom-ref"] for c in components]}],
        }
    )


def _model(shipped: ShippedModel) -> dict[str, Any]:
    model, variant = shipped.model, shipped.pack.variant
    first = shipped.origins.get(variant.file)
    found: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": variant.path,
        "group": model.publisher,
        "publisher": model.publisher,
        "name": model.name,
        "version": f"{model.version}-{variant.name}",
        "hashes": _hashes(variant.weights),
        "licenses": licences(model.licence),
        "modelCard": _card(shipped),
        "components": [
            _file(variant.path, NamedBlob(f.path, f.digest, f.size), shipped.origins.get(f.path))
            for f in variant.files
        ],
        "properties": _properties(
            {"variant": variant.name, "format": variant.format, "manifest": variant.manifest}
        ),
    }
    purl = None if first is None else _purl(first, shipped.revisions.get(variant.file))
    return found | _provenance(model) | ({} if purl is None else {"purl": purl})


def _card(shipped: ShippedModel) -> dict[str, Any]:
    model = shipped.model
    embeds = "embeddings" in model.capabilities
    parameters: dict[str, Any] = {
        "task": "feature-extraction" if embeds else "text-generation",
        "architectureFamily": "transformer",
        "inputs": [{"format": "text"}],
        "outputs": [{"format": "embedding" if embeds else "text"}],
    }
    if shipped.facts.architecture:
        parameters["modelArchitecture"] = shipped.facts.architecture
    card: dict[str, Any] = {"modelParameters": parameters}
    if model.parameters is not None:
        given = model.parameters.model_dump(mode="json", by_alias=True, exclude_unset=True)
        card["properties"] = _properties(
            {f"sampling:{name}": wire.dumps(value).decode() for name, value in given.items()}
        )
    return card


def _provenance(model: BundleModel) -> dict[str, Any]:
    known = model.provenance
    if known is None:
        return {}
    found: dict[str, Any] = {}
    if known.authors:
        found["authors"] = [{"name": name} for name in known.authors]
    if known.source is not None:
        comment = {} if known.commit is None else {"comment": f"revision {known.commit}"}
        found["externalReferences"] = [{"type": "distribution", "url": known.source, **comment}]
    if known.converted_from is not None:
        ancestor = {"type": "machine-learning-model", "name": known.converted_from}
        notes = f"converted by {known.converted_by}" if known.converted_by else "converted"
        found["pedigree"] = {"ancestors": [ancestor], "notes": notes}
    return found


def _image(shipped: ShippedImage) -> dict[str, Any]:
    image = shipped.image
    return {
        "type": "container",
        "bom-ref": image.path,
        "name": image.name,
        "version": image.version,
        "hashes": _hashes(shipped.manifest),
        "licenses": licences(image.licence),
        "purl": f"pkg:oci/{quote(image.name)}@{quote(shipped.manifest, safe='')}",
        "properties": _properties({"source": image.source.oci or "a local layout"}),
    }


def _part(shipped: ShippedFiles) -> dict[str, Any]:
    part = shipped.part
    found: dict[str, Any] = {
        "type": _TYPES[part.kind],
        "bom-ref": part.path,
        "name": part.name,
        "version": part.version,
        "licenses": licences(part.licence),
        "components": [
            _file(part.path, file, shipped.origins.get(file.name)) for file in shipped.files
        ],
        "properties": _properties({"kind": part.kind, "manifest": shipped.manifest}),
    }
    if len(shipped.files) == 1:
        found["hashes"] = _hashes(shipped.files[0].digest)
    return found


def _file(above: str, file: NamedBlob, origin: Source | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "file",
        "bom-ref": f"{above}#{file.name}",
        "name": file.name,
        "hashes": _hashes(file.digest),
        "properties": _properties({"bytes": str(file.size)}),
    }
    purl = None if origin is None else _purl(origin, None)
    return found if purl is None else {**found, "purl": purl}


def _purl(origin: Source, revision: str | None) -> str | None:
    """Return the package URL of where a file came from, if that has one."""
    if origin.pypi is not None:
        return f"pkg:pypi/{origin.pypi.package.lower()}@{quote(origin.pypi.version)}"
    if origin.huggingface is not None:
        return _hub_purl(origin.huggingface, revision)
    return None


def _hub_purl(repo: HuggingfaceSource, revision: str | None) -> str:
    return f"pkg:huggingface/{repo.repo}@{quote(revision or repo.revision, safe='')}"


def licences(text: str) -> list[dict[str, Any]]:
    """Return a licence as CycloneDX has it: an expression of SPDX, or a name of its own."""
    if text in _SPDX:
        return [{"license": {"id": text}}]
    if _EXPRESSION.fullmatch(text):
        return [{"expression": text}]
    return [{"license": {"name": text}}]


def _hashes(found: Digest) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": hex_of(found)}]


def _properties(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": f"{_OURS}:{name}", "value": value} for name, value in values.items()]
