"""Values that documents write as text and code reads as numbers."""

import datetime
import re
from typing import Annotated, ClassVar, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from appliance.core import quantity
from appliance.core.rules import Rule

WALL_TIME_PATTERN = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"


class Written(str):
    """A text that stands for a number; it keeps the form in which it was written."""

    __slots__ = ()
    PATTERN: ClassVar[str]
    ALLOWED: ClassVar[str]

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            cls._checked, core_schema.str_schema(strict=True)
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string", "pattern": cls.PATTERN, "maxLength": quantity.LONGEST}

    @classmethod
    def _checked(cls, text: str) -> Self:
        if not re.fullmatch(cls.PATTERN, text):
            raise ValueError(f"{text[:80]!r} is not {cls.ALLOWED}")
        return cls(text)


class Duration(Written):
    """A span of time as it was written, such as ``500ms``."""

    __slots__ = ()
    PATTERN = quantity.DURATION_PATTERN
    ALLOWED = quantity.DURATION_ALLOWED

    @property
    def seconds(self) -> float:
        return quantity.parse_duration(self)


class Latency(Duration):
    """A short span of time, which CEL can compare too."""

    __slots__ = ()
    PATTERN = quantity.LATENCY_PATTERN
    ALLOWED = quantity.LATENCY_ALLOWED


class Bytes(Written):
    """An amount of memory or disk as it was written, such as ``6Gi``."""

    __slots__ = ()
    PATTERN = quantity.BYTES_PATTERN
    ALLOWED = quantity.BYTES_ALLOWED

    @property
    def size(self) -> int:
        return quantity.parse_bytes(self)


_ABOVE_ZERO = Rule(
    cel="self.matches('[1-9]')",
    holds=lambda text: re.search("[1-9]", text) is not None,
    message="is 0; allowed: more than 0",
)
SomeTime = Annotated[Duration, _ABOVE_ZERO]
SomeLatency = Annotated[Latency, _ABOVE_ZERO]
SomeBytes = Annotated[Bytes, _ABOVE_ZERO]


class WallTime(str):
    """A time of the day as the clock on the wall shows it, such as ``22:00``."""

    __slots__ = ()

    @property
    def time(self) -> datetime.time:
        return datetime.time.fromisoformat(self)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(cls._checked)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string", "pattern": WALL_TIME_PATTERN, "maxLength": 5}

    @classmethod
    def _checked(cls, found: object) -> "WallTime":
        if isinstance(found, str) and re.fullmatch(WALL_TIME_PATTERN, found):
            return cls(found)
        raise ValueError(
            f"{found!r} is not a time such as '22:00'; without the quotes YAML reads a number"
        )
