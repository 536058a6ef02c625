"""How many tokens an answer had, from the answer itself. Pure.

Source: the OpenAI API's ``usage`` object, and llama.cpp's ``timings``, which it adds to the last
event of a stream although nobody asked for usage.
"""

import json
from dataclasses import dataclass

from appliance.core.wire import MAX_INTEGER

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
    except (ValueError, RecursionError):
        return TokenCount()
    if not isinstance(found, dict):
        return TokenCount()
    usage, timings = found.get("usage"), found.get("timings")
    if isinstance(usage, dict):
        return TokenCount(
            _whole(usage.get("prompt_tokens")), _whole(usage.get("completion_tokens"))
        )
    if isinstance(timings, dict):
        fresh, cached = _whole(timings.get("prompt_n")), _whole(timings.get("cache_n"))
        prompt = None if fresh is None else _whole(fresh + (cached or 0))
        return TokenCount(prompt, _whole(timings.get("predicted_n")))
    return TokenCount()


def _whole(value: object) -> int | None:
    """Return a number that can be a count; an engine's nonsense must not spoil the usage spool."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value < MAX_INTEGER else None
