"""Values that documents write as text and code reads as numbers."""

import datetime
import re

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from appliance.core import quantity

WALL_TIME_PATTERN = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"


class Duration(str):
    """A span of time as it was written, such as ``500ms``."""

    __slots__ = ()

    @property
    def seconds(self) -> float:
        return quantity.parse_duration(self)

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
        return {"type": "string", "pattern": quantity.DURATION_PATTERN}

    @classmethod
    def _checked(cls, text: str) -> "Duration":
        quantity.parse_duration(text)
        return cls(text)


class Bytes(str):
    """An amount of memory or disk as it was written, such as ``6Gi``."""

    __slots__ = ()

    @property
    def size(self) -> int:
        return quantity.parse_bytes(self)

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
        return {"type": "string", "pattern": quantity.BYTES_PATTERN}

    @classmethod
    def _checked(cls, text: str) -> "Bytes":
        quantity.parse_bytes(text)
        return cls(text)


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
        return {"type": "string", "pattern": WALL_TIME_PATTERN}

    @classmethod
    def _checked(cls, found: object) -> "WallTime":
        if isinstance(found, str) and re.fullmatch(WALL_TIME_PATTERN, found):
            return cls(found)
        raise ValueError(
            f"{found!r} is not a time such as '22:00'; without the quotes YAML reads a number"
        )
