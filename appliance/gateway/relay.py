"""Passing an engine's answer on, byte for byte, and noting what it cost."""

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

from appliance.core.usage import Outcome, UsageRecord
from appliance.gateway.errors import ApiError
from appliance.gateway.exchange import CallerLeft, Exchange
from appliance.gateway.tokens import StreamTail, TokenCount, count
from appliance.gateway.upstream import EngineAnswer, EngineGoneError, ask

_MOST_ANSWER_BYTES = 64 << 20
"""An answer that is not streamed is held until it is whole; an engine is not to fill the memory."""


class Served:
    """The usage record of a request as it grows."""

    def __init__(self, record: UsageRecord) -> None:
        self.record = record
        self._began = time.monotonic()

    def note(self, **changes: Any) -> None:
        """Set fields of the record."""
        self.record = replace(self.record, **changes)

    def elapsed_ms(self) -> float:
        """Return the time since the request came."""
        return round((time.monotonic() - self._began) * 1000, 3)

    def first_byte(self) -> None:
        """Note when the answer's first byte came."""
        if self.record.first_token_ms is None:
            self.note(first_token_ms=self.elapsed_ms())

    def end(self, status: int, tokens: TokenCount) -> None:
        """Note a complete answer."""
        self.note(
            status=status,
            outcome=Outcome.OK if status < 400 else Outcome.FAILED,
            prompt_tokens=tokens.prompt,
            completion_tokens=tokens.completion,
        )


async def relay(
    exchange: Exchange, address: str, body: bytes, served: Served, left: asyncio.Event
) -> None:
    """Pass an engine's answer on, and hang up on the engine when the caller does.

    Raises:
        EngineGoneError: the engine broke off.
        CallerLeft: the caller hung up.
    """
    answering = asyncio.create_task(_pass_on(exchange, address, body, served))
    leaving = asyncio.create_task(left.wait())
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise CallerLeft
        answering.result()
    finally:
        leaving.cancel()
        answering.cancel()
        with suppress(asyncio.CancelledError, EngineGoneError):
            await answering


async def break_off(exchange: Exchange, served: Served, error: EngineGoneError) -> None:
    """Tell a caller whose stream has begun that the rest will not come."""
    served.note(outcome=Outcome.CUT)
    problem = ApiError(502, "engine_failed", f"the answer broke off: {error}")
    # The blank line ends an event that the engine left unfinished, or else means nothing.
    await exchange.chunk(b"\n\n" + problem.event(), more=False)


async def _pass_on(exchange: Exchange, address: str, body: bytes, served: Served) -> None:
    answer = await ask(address, exchange.path, body)
    try:
        if answer.is_stream:
            await _pass_stream(exchange, answer, served)
        else:
            await _pass_whole(exchange, answer, served)
    finally:
        answer.close()


async def _pass_stream(exchange: Exchange, answer: EngineAnswer, served: Served) -> None:
    tail = StreamTail()
    async for chunk in answer.body():
        await _begin(exchange, answer, served)
        served.first_byte()
        tail.feed(chunk)
        await exchange.chunk(chunk, more=True)
    await _begin(exchange, answer, served)
    await exchange.chunk(b"", more=False)
    served.end(answer.status, tail.count())


async def _begin(exchange: Exchange, answer: EngineAnswer, served: Served) -> None:
    """Send the head only once the body has begun or is over: until then another may be asked."""
    if not exchange.passed:
        exchange.passed = True
        served.note(status=answer.status)
        if not exchange.began:
            await exchange.begin(answer.status, answer.headers)


async def _pass_whole(exchange: Exchange, answer: EngineAnswer, served: Served) -> None:
    parts = []
    size = 0
    async for chunk in answer.body():
        served.first_byte()
        parts.append(chunk)
        size += len(chunk)
        if size > _MOST_ANSWER_BYTES:
            raise EngineGoneError(f"the engine answered more than {size >> 20} MiB", asked=True)
    data = b"".join(parts)
    exchange.passed = True
    if exchange.began:  # the caller already reads events: as one, an engine's refusal is understood
        await exchange.chunk(_one_event(data), more=False)
    else:
        length = (b"content-length", str(len(data)).encode())
        await exchange.begin(answer.status, [*answer.headers, length])
        await exchange.chunk(data, more=False)
    served.end(answer.status, count(data))


def _one_event(data: bytes) -> bytes:
    return b"".join(b"data: " + line + b"\n" for line in data.splitlines()) + b"\n"
