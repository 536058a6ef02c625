"""A request to an engine: its head, its body as it comes, and whether it had been asked.

Each story is told over a Unix socket and over TCP, of both families.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from appliance.gateway.upstream import EngineGoneError, ask
from tests.fakes import engine
from tests.fakes.engine import Asked, FakeEngine, Play

Story = Callable[[FakeEngine], Awaitable[None]]


def run(play: Play, story: Story) -> None:
    async def whole() -> None:
        with tempfile.TemporaryDirectory() as folder:
            for where in (Path(folder) / "e", "127.0.0.1", "::1"):
                async with FakeEngine(where, play) as found:
                    await story(found)

    asyncio.run(whole())


async def body(found: FakeEngine) -> list[bytes]:
    answer = await ask(found.address, "/v1/x", b"{}")
    try:
        return [chunk async for chunk in answer.body()]
    finally:
        answer.close()


def test_a_stream_arrives_in_its_parts() -> None:
    async def story(found: FakeEngine) -> None:
        answer = await ask(found.address, "/v1/x", b'{"a": 1}')
        assert (answer.status, answer.is_stream) == (200, True)
        assert answer.headers == [(b"content-type", b"text/event-stream")]
        assert [chunk async for chunk in answer.body()] == [b"one", b"two"]
        answer.close()
        (asked,) = found.asked
        assert (asked.path, asked.body) == ("/v1/x", b'{"a": 1}')
        assert asked.headers["connection"] == "close"

    run(engine.stream(b"one", b"two", pause_s=0.01), story)


def test_a_whole_answer_is_no_stream() -> None:
    async def story(found: FakeEngine) -> None:
        answer = await ask(found.address, "/v1/x", b"{}")
        assert (answer.status, answer.is_stream) == (501, False)
        answer.close()

    run(engine.answer({}, 501), story)


def test_an_interim_answer_is_passed_over() -> None:
    final = engine.answer({"ok": 1})

    async def continue_first(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n")
        await final(asked, writer)

    async def story(found: FakeEngine) -> None:
        assert await body(found) == [b'{"ok": 1}']

    run(continue_first, story)


@pytest.mark.parametrize(
    "play", [engine.die, engine.babble, engine.break_off(b"one"), engine.die_within_body]
)
def test_whatever_breaks_off_is_an_engine_that_had_been_asked(play: Play) -> None:
    async def story(found: FakeEngine) -> None:
        with pytest.raises(EngineGoneError) as caught:
            await body(found)
        assert caught.value.asked

    run(play, story)


def test_a_head_without_end_is_not_taken_in() -> None:
    async def endless(asked: Asked, writer: asyncio.StreamWriter) -> None:
        while not asked.left.is_set():
            writer.write(b"X-Header: " + b"x" * 10_000 + b"\r\n")
            await writer.drain()

    async def story(found: FakeEngine) -> None:
        with pytest.raises(EngineGoneError):
            await asyncio.wait_for(body(found), 5)

    run(endless, story)


def test_nobody_at_the_socket_had_not_been_asked(tmp_path: Path) -> None:
    with pytest.raises(EngineGoneError) as caught:
        asyncio.run(ask(str(tmp_path / "nobody"), "/v1/x", b"{}"))
    assert not caught.value.asked


def test_hanging_up_is_heard_by_the_engine() -> None:
    async def story(found: FakeEngine) -> None:
        answer = await ask(found.address, "/v1/x", b"{}")
        answer.close()
        await asyncio.wait_for(found.asked[0].left.wait(), 5)

    run(engine.stream_until_left(b"one"), story)


def test_a_cancelled_request_hangs_up() -> None:
    async def story(found: FakeEngine) -> None:
        asking = asyncio.create_task(ask(found.address, "/v1/x", b"{}"))
        while not found.asked:
            await asyncio.sleep(0.001)
        asking.cancel()
        await asyncio.wait_for(found.asked[0].left.wait(), 5)

    run(engine.think_until_left, story)
