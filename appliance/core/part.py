"""What every document is made of: strict parts with rules, and the metadata of all kinds."""

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from appliance.core import rules
from appliance.core.ids import NAME_ALLOWED, NAME_PATTERN
from appliance.core.rules import Rule

API_VERSION = "edge-appliance.dev/v1alpha1"

_WORD = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_LABEL_KEY = re.compile(rf"([a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_WORD}")
_LABEL_VALUE = re.compile(rf"({_WORD})?")
_WORD_ALLOWED = "up to 63 of a-z, A-Z, 0-9, -, _ and ., beginning and ending with a letter or digit"


class Part(BaseModel):
    """Part of a document: strict, frozen, in camelCase. ``RULES`` are what holds between fields."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        alias_generator=to_camel,
    )
    RULES: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _keeps_the_rules(self) -> Self:
        rules.check(self.RULES, self)
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        found = handler(schema)
        if cls.RULES:
            stated = [rule.to_schema() for rule in cls.RULES]
            handler.resolve_ref_schema(found)[rules.KEYWORD] = stated
        return found


def _keys(found: dict[str, str]) -> dict[str, str]:
    for key in found:
        if not _LABEL_KEY.fullmatch(key):
            raise ValueError(
                f"{key[:80]!r} is not a key; allowed: {_WORD_ALLOWED}, after a DNS name and / "
                "where it is somebody's own"
            )
    return found


def _values(found: dict[str, str]) -> dict[str, str]:
    for key, value in found.items():
        if not _LABEL_VALUE.fullmatch(value):
            raise ValueError(f"{key} is {value[:80]!r}; allowed: {_WORD_ALLOWED}")
    return found


class Metadata(Part):
    name: Annotated[
        str, Field(pattern=NAME_PATTERN, description=f"The object's name: {NAME_ALLOWED}.")
    ]
    namespace: Annotated[
        str | None,
        Field(
            pattern=NAME_PATTERN,
            description="The namespace in Kubernetes; without Kubernetes it changes nothing.",
        ),
    ] = None
    labels: Annotated[
        dict[str, str],
        AfterValidator(_keys),
        AfterValidator(_values),
        Field(description="Words to select by; they change nothing by themselves."),
    ] = {}
    annotations: Annotated[
        dict[str, str],
        AfterValidator(_keys),
        Field(description="Notes for people and tools; nothing here reads them."),
    ] = {}


class Document(Part):
    """What all kinds have in common."""

    kind_name: ClassVar[str]
    api_version: Annotated[
        Literal["edge-appliance.dev/v1alpha1"], Field(description="The schema this follows.")
    ]
    kind: str
    metadata: Metadata

    @property
    def name(self) -> str:
        return self.metadata.name

    def to_wire(self) -> dict[str, Any]:
        """Return the document as it was written, without the defaults."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)
