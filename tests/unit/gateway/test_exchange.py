"""One request and its answer over ASGI, without a server."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from appliance.gateway.errors import ApiError
from appliance.gateway.exchange import CallerLeft, Exchange

Message = MutableMapping[str, Any]


class Wire:
    """Hands out messages one by one, and keeps what was sent."""

    def __init__(self, *messages: Message) -> None:
        self.messages = list(messages)
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        if not self.messages:
            await asyncio.Event().wait()
        return self.messages.pop(0)

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def exchange(self, *headers: tuple[bytes, bytes]) -> Exchange:
        scope = {"path": "/v1/models", "method": "GET", "headers": list(headers)}
        return Exchange(scope, self.receive, self.send)


def part(data: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": data, "more_body": more}


LEFT: Message = {"type": "http.disconnect"}


def test_a_body_is_read_to_its_end() -> None:
    wire = Wire(
        part(b"a", more=True), {"type": "http.request", "more_body": True}, part(b"b", more=False)
    )
    assert asyncio.run(wire.exchange().body(2)) == b"ab"


def test_a_body_is_refused_as_soon_as_it_is_too_large() -> None:
    wire = Wire(part(b"a" * 10, more=True), part(b"b", more=True), part(b"never", more=False))
    with pytest.raises(ApiError) as caught:
        asyncio.run(wire.exchange().body(10))
    assert caught.value.status == 413
    assert len(wire.messages) == 1


def test_a_caller_may_leave_in_the_middle() -> None:
    with pytest.raises(CallerLeft):
        asyncio.run(Wire(part(b"a", more=True), LEFT).exchange().body(10))


def test_an_answer_has_its_head_once_and_carries_the_request_id() -> None:
    wire = Wire()
    exchange = wire.exchange((b"x-request-id", b"mine"))

    async def story() -> None:
        assert exchange.began is False
        await exchange.answer(404, b"{}", [(b"retry-after", b"1")])

    asyncio.run(story())
    assert exchange.began
    start, body = wire.sent
    headers = dict(start["headers"])
    assert (start["status"], headers[b"content-length"]) == (404, b"2")
    assert (headers[b"x-request-id"], headers[b"retry-after"]) == (b"mine", b"1")
    assert body == {"type": "http.response.body", "body": b"{}", "more_body": False}


def test_headers_are_found_by_name() -> None:
    exchange = Wire().exchange((b"a", b"1"), (b"b", b"\xe9"))
    assert [exchange.header(name) for name in (b"a", b"b", b"c")] == ["1", "é", ""]


def test_request_ids_that_were_made_up_differ() -> None:
    assert len({Wire().exchange().request_id for _ in range(10)}) == 10


def test_a_caller_is_watched_until_the_block_ends() -> None:
    async def story() -> None:
        wire = Wire(part(b"", more=False))
        with wire.exchange().watch_caller() as left:
            await asyncio.sleep(0.01)
            assert not left.is_set()
        gone = Wire(LEFT)
        with gone.exchange().watch_caller() as left:
            await asyncio.wait_for(left.wait(), 5)

    asyncio.run(story())
