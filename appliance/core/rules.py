"""Checks over a document that Kubernetes and everyone else make in the same words.

A schema says what one field takes. What holds between fields is a ``Rule``: in CEL, for the API
server that an object is applied to, and in Python, for ``appliance apply``, for the hub and for
the controller in front of a server that knows no CEL. Both stand in one place, so that neither is
changed without the other; the tests run both over the same objects.

A CEL expression is as cheap as what it looks at is bounded: a server refuses a definition whose
rules might cost too much, so every text, list and mapping of ours has a greatest length.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

KEYWORD = "x-kubernetes-validations"


@dataclass(frozen=True, slots=True)
class Rule:
    """One check on a value: part of ``Part.RULES``, or an annotation of a field.

    ``cel`` sees the value as ``self``, with the names that the document has; ``holds`` gets it as
    Python has it. ``message`` says what is wrong and what is allowed. ``field`` is what the server
    points at, below the value, such as ``.min``.
    """

    cel: str
    holds: Callable[[Any], bool]
    message: str
    field: str = ""

    def to_schema(self) -> dict[str, str]:
        """Return the rule as a CustomResourceDefinition has it."""
        found = {"rule": self.cel, "message": self.message, "reason": "FieldValueInvalid"}
        return {**found, "fieldPath": self.field} if self.field else found

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        found = handler(schema)
        return {**found, KEYWORD: [*found.get(KEYWORD, []), self.to_schema()]}

    def _checked(self, value: Any) -> Any:
        check((self,), value)
        return value


def check(rules: Sequence[Rule], value: Any) -> None:
    """Hold a value against rules.

    Raises:
        ValueError: the messages of all rules that it breaks.
    """
    broken = [rule.message for rule in rules if not rule.holds(value)]
    if broken:
        raise ValueError("; ".join(broken))


class ListMap:
    """Annotates a list in which no two entries have the same values in ``keys``.

    In Kubernetes it merges by them: two writers may own an entry each.
    """

    def __init__(self, *keys: str) -> None:
        self._keys = keys

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        marks = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [*self._keys]}
        return {**handler(schema), **marks}

    def _checked(self, entries: Any) -> Any:
        seen = set[tuple[Any, ...]]()
        for entry in entries:
            key = tuple(getattr(entry, name) for name in self._keys)
            if key in seen:
                named = ", ".join(f"{n} {v!r}" for n, v in zip(self._keys, key, strict=True))
                raise ValueError(f"{named} stands twice; allowed: once")
            seen.add(key)
        return entries
