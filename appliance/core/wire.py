"""JSON that crosses a process: strict to read, canonical to write.

A signature covers bytes, not meaning, so two readers must never see two meanings in one text:
duplicate keys, NaN, numbers that do not survive a double and halves of characters are refused.
"""

import json
import math
from typing import Any

from appliance.errors import MalformedError

MAX_INTEGER = 2**53
_ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)


def dumps(value: object) -> bytes:
    """Return ``value`` as canonical JSON: sorted keys, no spaces, UTF-8."""
    return _ENCODER.encode(value).encode()


def loads(data: bytes, *, what: str) -> dict[str, Any]:
    """Return the JSON object in ``data``; ``what`` names it in errors.

    Raises:
        MalformedError: not UTF-8, not one JSON object, a key given twice, NaN, a number beyond
            a double, an integer of 2**53 or more, or half of a surrogate pair.
    """
    try:
        text = data.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=_no_duplicates,
            parse_constant=_no_constant,
            parse_int=_bounded,
            parse_float=_finite,
        )
        if "\\u" in text:
            dumps(value)  # half of a surrogate pair could be read here, and written nowhere
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"{what} is not strict JSON: {error}") from error
    if not isinstance(value, dict):
        raise MalformedError(f"{what} is not a JSON object")
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen = set[str]()
        for key, _ in pairs:  # once through: who wrote this may have written half a million
            if key in seen:
                raise ValueError(f"the key {key[:100]!r} stands twice")
            seen.add(key)
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:20]} is beyond a double")
    return number


def _bounded(text: str) -> int:
    if len(text) > 17 or abs(number := int(text)) >= MAX_INTEGER:
        raise ValueError(f"the integer {text[:20]} does not survive every reader (2**53 or more)")
    return number
