"""Questions to an engine over its Unix socket, each with a deadline."""

import asyncio
import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from appliance.runtime.profile import Busy, Probe

_TIMEOUT_S = 5.0
_MOST_BYTES = 1 << 20
_SAMPLE = r"[0-9]{1,15}(?:\.[0-9]{1,15})?(?:e\+?[0-9]{1,2})?"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP status and body."""

    status: int
    body: bytes


async def get(socket: Path, path: str, timeout_s: float = _TIMEOUT_S) -> Answer | None:
    """Return the answer to one GET, or None when there is none in time, or one without end."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_unix_connection(str(socket))
            try:
                request = f"GET {path} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n"
                writer.write(request.encode())
                data = bytearray()
                while len(data) <= _MOST_BYTES and (chunk := await reader.read(_MOST_BYTES)):
                    data += chunk
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError):
        return None
    return _parse(bytes(data)) if len(data) <= _MOST_BYTES else None


async def is_ready(socket: Path, probe: Probe) -> bool:
    """Whether the engine says that it can answer."""
    answer = await get(socket, probe.path)
    return answer is not None and answer.status == probe.status


async def requests_in_progress(socket: Path, busy: Busy) -> int | None:
    """Return how many requests the engine works on or holds; None when it does not say."""
    answer = await get(socket, busy.path)
    if answer is None or answer.status != 200:
        return None
    return parse_busy(answer.body.decode(errors="replace"), busy.names)


def parse_busy(text: str, names: tuple[str, ...]) -> int | None:
    """Return the sum of those samples that a Prometheus text has; None when it has none of them."""
    found = [
        re.search(rf"^{re.escape(name)}[ \t]+({_SAMPLE})$", text, re.MULTILINE) for name in names
    ]
    known = [float(match[1]) for match in found if match]
    return int(sum(known)) if known else None


def _parse(data: bytes) -> Answer | None:
    head, _, body = data.partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split()
    if len(words) < 2 or not words[1].isdigit():
        return None
    return Answer(int(words[1]), body)
