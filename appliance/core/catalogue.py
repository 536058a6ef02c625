"""The document ``Model``: one entry of the catalogue, as people look at it.

The controller writes it from what bundles brought; nobody else does, and a change to it changes
nothing that runs. Its name is the model's, so that it has to be a DNS name too.
"""

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from appliance.core.documents import MODEL_NAME, VERSION
from appliance.core.model import Variant
from appliance.core.part import Document, Metadata, Part
from appliance.core.rules import ListMap

DNS_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_MOST = 2**53 - 1
_PATH_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]*"

Sha256 = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)]
Publisher = Annotated[
    str,
    Field(
        pattern=rf"^{MODEL_NAME}$",
        max_length=63,
        description="Who signed it; local is what a site signed for itself.",
    ),
]
Licence = Annotated[
    str,
    Field(
        min_length=1,
        max_length=256,
        description="The licence, as an SPDX expression such as Apache-2.0.",
    ),
]
Capabilities = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=64)], ...],
    Field(strict=False, max_length=32, description="What it can do, such as chat or embeddings."),
]


class ModelVariant(Part):
    version: Annotated[
        str,
        Field(pattern=rf"^{VERSION}$", max_length=64, description="The version of the model."),
    ]
    name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$",
            max_length=32,
            description="The variant, named after its quantization, such as Q4_K_M.",
        ),
    ]
    manifest: Annotated[Sha256, Field(description="The digest that was signed: all files by it.")]
    weights: Annotated[Sha256, Field(description="The digest of the file that engines open.")]
    weights_bytes: Annotated[
        int, Field(ge=1, le=_MOST, description="How many bytes all its weights are.")
    ]
    format: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$",
            max_length=32,
            description="The weights' format, such as gguf or safetensors.",
        ),
    ]
    file: Annotated[
        str,
        Field(
            pattern=rf"^{_PATH_PART}(/{_PATH_PART})*$",
            max_length=1024,
            description="The file that engines open, in the variant's folder.",
        ),
    ]
    context_max: Annotated[
        int | None,
        Field(ge=1, le=_MOST, description="How many tokens it was trained for, if it says so."),
    ] = None
    kv_bytes_per_token: Annotated[
        int | None,
        Field(ge=0, le=_MOST, description="Cache memory for each token, if it says so."),
    ] = None
    licence: Licence
    publisher: Publisher
    capabilities: Capabilities = ()


class ModelSpec(Part):
    summary: Annotated[
        str | None,
        Field(max_length=512, description="Versions and their variants in one line."),
    ] = None
    publisher: Annotated[
        Publisher | None, Field(description="Who signed all of it; absent where they differ.")
    ] = None
    licence: Annotated[
        Licence | None, Field(description="The licence of all of it; absent where they differ.")
    ] = None
    capabilities: Capabilities = ()
    provenance: Annotated[
        str | None,
        Field(max_length=1024, description="Where it came from: the bundle, and whose."),
    ] = None
    variants: Annotated[
        tuple[ModelVariant, ...],
        Field(
            strict=False,
            max_length=256,
            description="What the nodes hold or held of it, one entry a version and variant.",
        ),
        ListMap("version", "name"),
    ]


class ModelMetadata(Metadata):
    name: Annotated[
        str,
        Field(
            pattern=rf"^{DNS_LABEL}(\.{DNS_LABEL})*$",
            max_length=63,
            description=(
                "The model's name: 1 to 63 of a-z, 0-9, - and ., with a letter or digit at both "
                "ends and beside each dot."
            ),
        ),
    ]


class Model(Document):
    """A model in the catalogue: what there is of it, who signed it and which nodes hold it."""

    kind_name: ClassVar[str] = "Model"
    kind: Literal["Model"]
    metadata: ModelMetadata
    spec: Annotated[ModelSpec, Field(description="What the catalogue knows of the model.")]


def summary(variants: Iterable[Variant]) -> str:
    """Return the versions and their variants in one line, such as ``1.0.0 Q4_0 Q8_0, 1.1.0 Q4_0``.

    For the column that ``kubectl get models`` shows; at most as long as the field may be.
    """
    found: dict[str, list[str]] = {}
    for variant in variants:
        found.setdefault(variant.version, []).append(variant.name)
    line = ", ".join(f"{version} {' '.join(names)}" for version, names in found.items())
    return line if len(line) <= 512 else f"{line[:509]}..."
