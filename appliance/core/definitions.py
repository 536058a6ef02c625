"""What goes into a bundle, by source and version; and what ``bundle lock`` saw of it.

A definition holds no digest: nobody should commit one that nobody fetched. The lock holds nothing
else.
"""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from appliance.core.documents import MODEL_NAME, VERSION, Document, Part
from appliance.core.ids import LOCAL, NAME_PATTERN, digest

_PATH_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_FILE_PATTERN = rf"^{_PATH_PART}(/{_PATH_PART})*$"
_REPOSITORY = r"[a-z0-9]+([._-]+[a-z0-9]+)*"
_REFERENCE_PATTERN = (
    rf"^[A-Za-z0-9.-]+(:[0-9]{{1,5}})?(/{_REPOSITORY})+"
    r"(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?$"
)
_VARIANT_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$"

Name = Annotated[str, Field(pattern=rf"^{MODEL_NAME}$", description="Part of what is signed.")]
Version = Annotated[str, Field(pattern=rf"^{VERSION}$", description="The version, ours.")]
Licence = Annotated[
    str, Field(min_length=1, description="An SPDX licence expression such as Apache-2.0.")
]
DigestField = Annotated[str, AfterValidator(digest)]


class PypiSource(Part):
    package: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="The package's name.")
    ]
    version: Annotated[
        str, Field(pattern=r"^[0-9][0-9A-Za-z.!+_-]*$", description="Exactly this version.")
    ]
    file: Annotated[
        str | None,
        Field(
            pattern=_FILE_PATTERN,
            description="The file inside the package's wheel; without it, the wheel itself.",
        ),
    ] = None


class HuggingfaceSource(Part):
    repo: Annotated[
        str, Field(pattern=rf"^{_PATH_PART}/{_PATH_PART}$", description="OWNER/NAME on the hub.")
    ]
    revision: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$",
            description="A commit, or what names one; the lock holds the commit that was seen.",
        ),
    ] = "main"
    file: Annotated[str, Field(pattern=_FILE_PATTERN, description="The file's path in the repo.")]


class RegistrySource(Part):
    reference: Annotated[
        str,
        Field(
            pattern=_REFERENCE_PATTERN,
            description="HOST/REPOSITORY:TAG or HOST/REPOSITORY@sha256:... of an artefact.",
        ),
    ]
    file: Annotated[
        str, Field(pattern=_FILE_PATTERN, description="The file, by its title in the artefact.")
    ]


class Source(Part):
    pypi: Annotated[PypiSource | None, Field(description="A wheel, or a file inside it.")] = None
    file: Annotated[
        str | None, Field(min_length=1, description="A local file, relative to the definition.")
    ] = None
    huggingface: Annotated[
        HuggingfaceSource | None, Field(description="A file of a repository on Hugging Face.")
    ] = None
    oci: Annotated[
        RegistrySource | None, Field(description="A file of an artefact in an OCI registry.")
    ] = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "Source":
        _require_one(self, "pypi", "file", "huggingface", "oci")
        return self


class ImageSource(Part):
    oci: Annotated[
        str | None,
        Field(
            pattern=_REFERENCE_PATTERN,
            description="HOST/REPOSITORY:TAG or HOST/REPOSITORY@sha256:... in an OCI registry.",
        ),
    ] = None
    layout: Annotated[
        str | None,
        Field(min_length=1, description="A local OCI layout folder, relative to the definition."),
    ] = None
    reference: Annotated[
        str | None, Field(description="Which image of the layout, when it holds several.")
    ] = None
    platform: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9]+/[a-z0-9]+(/[a-z0-9]+)?$",
            description="Which one of an image for several platforms.",
        ),
    ] = "linux/amd64"

    @model_validator(mode="after")
    def _exactly_one(self) -> "ImageSource":
        _require_one(self, "oci", "layout")
        return self


class NamedFile(Part):
    source: Annotated[Source, Field(description="Where the file comes from.")]
    path: Annotated[
        str | None,
        Field(pattern=_FILE_PATTERN, description="What it is called here; else as at its source."),
    ] = None


class VariantSource(Part):
    name: Annotated[
        str,
        Field(
            pattern=_VARIANT_PATTERN,
            description="The variant, by its quantization such as Q4_K_M.",
        ),
    ]
    source: Annotated[
        Source | None, Field(description="Where the weights come from, when they are one file.")
    ] = None
    files: Annotated[
        tuple[NamedFile, ...],
        Field(strict=False, description="All files, when there are several: shards, tokenizer."),
    ] = ()

    @model_validator(mode="after")
    def _exactly_one(self) -> "VariantSource":
        if (self.source is None) == (not self.files):
            raise ValueError("a variant has exactly one of source, files")
        return self

    @property
    def named(self) -> tuple[NamedFile, ...]:
        """All files, whichever way they were written."""
        return self.files if self.source is None else (NamedFile(source=self.source),)


Capability = Literal["chat", "completions", "embeddings"]


class Provenance(Part):
    source: Annotated[
        str | None, Field(pattern=r"^https?://\S+$", description="Where the model is published.")
    ] = None
    commit: Annotated[
        str | None, Field(min_length=1, description="The revision there that it was made from.")
    ] = None
    authors: Annotated[tuple[str, ...], Field(strict=False, description="Who trained it.")] = ()
    family: Annotated[str | None, Field(description="Its lineage, such as llama.")] = None
    converted_by: Annotated[
        str | None, Field(description="Who made these files, and with what.")
    ] = None
    converted_from: Annotated[str | None, Field(description="What they were made from.")] = None


class Parameters(Part):
    temperature: Annotated[float | None, Field(ge=0, le=5, description="As for requests.")] = None
    top_p: Annotated[float | None, Field(ge=0, le=1, description="As for requests.")] = None
    top_k: Annotated[int | None, Field(ge=0, le=1_000_000, description="As for requests.")] = None
    min_p: Annotated[float | None, Field(ge=0, le=1, description="As for requests.")] = None
    repeat_penalty: Annotated[
        float | None, Field(ge=0, le=10, description="As for requests; 1 changes nothing.")
    ] = None
    stop: Annotated[
        tuple[str, ...], Field(strict=False, description="Texts that end an answer.")
    ] = ()


class BundleModel(Part):
    name: Annotated[
        str, Field(pattern=rf"^{MODEL_NAME}$", description="The name that deployments use.")
    ]
    version: Annotated[
        str, Field(pattern=rf"^{VERSION}$", description="The model's version, ours.")
    ]
    publisher: Annotated[
        str, Field(pattern=NAME_PATTERN, description="Who made it; part of what is signed.")
    ]
    licence: Licence
    licence_text: Annotated[
        Source | None, Field(description="The licence's text, to travel with the model.")
    ] = None
    card: Annotated[Source | None, Field(description="The model card.")] = None
    provenance: Annotated[
        Provenance | None, Field(description="Where it comes from, and who converted it.")
    ] = None
    parameters: Annotated[
        Parameters | None, Field(description="How to sample, as its makers recommend.")
    ] = None
    capabilities: Annotated[
        tuple[Capability, ...], Field(min_length=1, strict=False, description="What it can answer.")
    ] = ("chat", "completions")
    variants: Annotated[
        tuple[VariantSource, ...],
        Field(min_length=1, strict=False, description="The quantizations to ship."),
    ]

    def path(self, variant: str) -> str:
        """Return the path that a variant is signed under."""
        whose = LOCAL if self.publisher == LOCAL else f"models/{self.publisher}"
        return f"{whose}/{self.name}/{self.version}/{variant}"


class BundleImage(Part):
    name: Name
    version: Version
    licence: Licence = "NOASSERTION"
    source: Annotated[ImageSource, Field(description="Where the container image comes from.")]

    @property
    def path(self) -> str:
        """The path that it is signed under."""
        return f"images/{self.name}/{self.version}"


FileKind = Literal["k3s", "deb", "wheel", "controller", "profile", "site"]


class BundleFiles(Part):
    kind: Annotated[FileKind, Field(description="What nodes do with them.")]
    name: Name
    version: Version
    licence: Licence = "NOASSERTION"
    files: Annotated[
        tuple[NamedFile, ...], Field(min_length=1, strict=False, description="The files.")
    ]

    @property
    def path(self) -> str:
        """The path that they are signed under."""
        return f"files/{self.kind}/{self.name}/{self.version}"


class BundleDefinitionSpec(Part):
    version: Annotated[str, Field(pattern=rf"^{VERSION}$", description="The bundle's version.")]
    models: Annotated[
        tuple[BundleModel, ...], Field(strict=False, description="Models to ship.")
    ] = ()
    images: Annotated[
        tuple[BundleImage, ...], Field(strict=False, description="Container images to ship.")
    ] = ()
    files: Annotated[
        tuple[BundleFiles, ...],
        Field(strict=False, description="k3s, packages, engine profiles, site settings to ship."),
    ] = ()

    @model_validator(mode="after")
    def _something_and_nothing_twice(self) -> "BundleDefinitionSpec":
        paths = list(self.paths())
        if not paths:
            raise ValueError("a bundle ships something: give models, images or files")
        if twice := sorted({path for path in paths if paths.count(path) > 1}):
            raise ValueError(f"{twice[0]} stands twice")
        if any(model.publisher == LOCAL for model in self.models):
            raise ValueError(f"the publisher {LOCAL!r} is kept for what a site signs for itself")
        return self

    def paths(self) -> Iterator[str]:
        """Yield the paths of all that is shipped, in order."""
        for model in self.models:
            yield from (model.path(variant.name) for variant in model.variants)
        yield from (image.path for image in self.images)
        yield from (files.path for files in self.files)


class BundleDefinition(Document):
    """What goes into a bundle, by source and version."""

    kind_name: ClassVar[str] = "BundleDefinition"
    kind: Literal["BundleDefinition"]
    spec: BundleDefinitionSpec


class LockedSource(Part):
    source: Annotated[Source, Field(description="As in the definition.")]
    download: Annotated[
        DigestField | None, Field(description="Digest of the wheel that held the file.")
    ] = None
    revision: Annotated[
        str | None, Field(description="The commit or manifest that held the file.")
    ] = None
    name: Annotated[
        str | None, Field(pattern=_FILE_PATTERN, description="The file's name, if it says more.")
    ] = None
    digest: Annotated[DigestField, Field(description="Digest of the file itself.")]
    size: Annotated[int, Field(ge=1, description="Bytes of the file.")]


class LockedImage(Part):
    source: Annotated[ImageSource, Field(description="As in the definition.")]
    digest: Annotated[DigestField, Field(description="Digest of the image's manifest.")]
    size: Annotated[int, Field(ge=1, description="Bytes of the image, all of its blobs.")]


class BundleLockSpec(Part):
    sources: Annotated[tuple[LockedSource, ...], Field(strict=False, description="Files seen.")]
    images: Annotated[
        tuple[LockedImage, ...], Field(strict=False, description="Container images seen.")
    ] = ()


class BundleLock(Document):
    """What ``bundle lock`` saw: no digest gets here that nobody fetched."""

    kind_name: ClassVar[str] = "BundleLock"
    kind: Literal["BundleLock"]
    spec: BundleLockSpec


def _require_one(part: Part, *names: str) -> None:
    if sum(getattr(part, name) is not None for name in names) != 1:
        raise ValueError(f"a source is exactly one of {', '.join(names)}")
