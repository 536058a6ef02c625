"""Bytes and durations: read them from a document, print them for a person."""

import re

_BYTE_UNITS = {
    "": 1,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

BYTES_PATTERN = r"^[0-9]{1,16}(\.[0-9]{1,9})?(K|M|G|T|Ki|Mi|Gi|Ti)?$"
DURATION_PATTERN = r"^[0-9]{1,9}(\.[0-9]{1,9})?(ms|s|m|h|d)$"
LATENCY_PATTERN = r"^[0-9]{1,6}(\.[0-9]{1,6})?(ms|s|m|h)$"
"""A duration that CEL reads too: no days, and never more than it can count."""

LONGEST = 32
"""Characters; no text that a pattern here takes is longer."""

BYTES_ALLOWED = "a size such as 512Mi or 6Gi (units K, M, G, T, Ki, Mi, Gi, Ti)"
DURATION_ALLOWED = "a duration such as 500ms or 15m (units ms, s, m, h, d)"
LATENCY_ALLOWED = "a duration such as 500ms or 2.5s (units ms, s, m, h; at most 6 digits)"


def parse_bytes(text: str) -> int:
    """Return the number of bytes that ``text`` names, such as ``6Gi``.

    Raises:
        ValueError: it is not a number with one of the known units.
    """
    if not re.fullmatch(BYTES_PATTERN, text):
        raise ValueError(f"{text!r} is not {BYTES_ALLOWED}")
    number = text.rstrip("KMGTi")
    return int(float(number) * _BYTE_UNITS[text[len(number) :]])


def parse_duration(text: str) -> float:
    """Return the seconds that ``text`` names, such as ``500ms``.

    Raises:
        ValueError: it is not a number with one of the known units.
    """
    if not re.fullmatch(DURATION_PATTERN, text):
        raise ValueError(f"{text!r} is not {DURATION_ALLOWED}")
    number = text.rstrip("smhd")
    return float(number) * _DURATION_UNITS[text[len(number) :]]


def format_bytes(count: int | None) -> str:
    """Return ``count`` bytes for a person; ``None`` reads "not known"."""
    if count is None:
        return "not known"
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def format_duration(seconds: float | None) -> str:
    """Return a span of time for a person, in its two largest units; ``None`` reads "not known"."""
    if seconds is None:
        return "not known"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for size, unit, smaller, name in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit} {rest} {name}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"
