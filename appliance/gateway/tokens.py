"""How many tokens an answer had, from the answer itself. Pure.

Source: the OpenAI API's ``usage`` object, and llama.cpp's ``timings``, which it adds to the last
event of a stream although nobody asked for usage.
"""

import json
from dataclasses import dataclass
from typing import Any

_KEEP = 64 << 10


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Tokens of prompt and completion; ``None`` where the engine did not say."""

    prompt: int | None = None
    completion: int | None = None


class StreamTail:
    """Keeps the last bytes of an event stream, which say what it cost."""

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, chunk: bytes) -> None:
        """Look at a chunk that passes."""
        self._tail = (self._tail + chunk)[-_KEEP:]

    def count(self) -> TokenCount:
        """Return what the last events say."""
        for line in reversed(self._tail.split(b"\n")):
            if line.startswith(b"data: {") and (b'"usage"' in line or b'"timings"' in line):
                return count(line.removeprefix(b"data: "))
        return TokenCount()


def count(answer: bytes) -> TokenCount:
    """Return what an answer, or one event of a stream, says of its tokens."""
    try:
        found = json.loads(answer)
    except ValueError:
        return TokenCount()
    if not isinstance(found, dict):
        return TokenCount()
    usage, timings = found.get("usage"), found.get("timings")
    if isinstance(usage, dict):
        return TokenCount(_whole(usage, "prompt_tokens"), _whole(usage, "completion_tokens"))
    if isinstance(timings, dict):
        fresh, cached = _whole(timings, "prompt_n"), _whole(timings, "cache_n")
        prompt = None if fresh is None else fresh + (cached or 0)
        return TokenCount(prompt, _whole(timings, "predicted_n"))
    return TokenCount()


def _whole(found: dict[str, Any], name: str) -> int | None:
    value = found.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
