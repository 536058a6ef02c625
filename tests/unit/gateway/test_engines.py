"""Engines that are far, asleep or about to end; and callers who wait for them."""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from appliance.core.routes import ApiKey, Endpoint, Route
from appliance.gateway.app import Reach
from tests.fakes import engine
from tests.fakes.engine import DONE, FakeEngine, Play, event
from tests.helpers.gateways import Front, gateway
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

KEY = ApiKey("app", "ward", hashlib.sha256(b"ea-secret").hexdigest())
GIVEN = {"Authorization": "Bearer ea-secret"}
WORD = event({"choices": [{"delta": {"content": "Grüezi"}}]})
STREAM = b'{"model": "notes", "stream": true}'


async def far(stack: AsyncExitStack, name: str, *plays: Play) -> tuple[FakeEngine, Endpoint]:
    """Return an engine on TCP, on the machine of that name."""
    found = await stack.enter_async_context(FakeEngine("127.0.0.1", *plays))
    return found, Endpoint(f"notes-{name}", found.address, name)


def test_an_engine_on_tcp_answers_and_is_left_as_one_on_a_socket() -> None:
    async def story(front: Front, stack: AsyncExitStack) -> None:
        found, endpoint = await far(stack, "n2", engine.stream(WORD, DONE))
        front.route(Route("notes", (), (endpoint,)))
        assert (await front.ask(STREAM)).body == WORD + DONE
        found.then(engine.stream_until_left(WORD))
        call = await front.call()
        await call.head()
        await call.hang_up()
        await asyncio.wait_for(found.asked[1].left.wait(), 5)
        assert [e["outcome"] for e in await front.ends(2)] == ["ok", "cancelled"]

    run(story)


def test_near_engines_are_asked_first_and_another_when_one_dies() -> None:
    async def story(front: Front, stack: AsyncExitStack) -> None:
        near, here = await far(stack, "n1", engine.answer({"ok": 1}))
        _, there = await far(stack, "n2", engine.answer({"ok": 2}))
        front.route(Route("notes", (), (there, here)))
        assert (await front.ask()).json() == {"ok": 1}
        near.then(engine.die)
        for _ in range(3):
            assert (await front.ask()).json() == {"ok": 2}
        assert len(near.asked) == 2, "it failed once, and was then left alone"
        assert [e["replica"] for e in await front.ends(4)][1:] == ["notes-n2"] * 3

    run(story, node="n1")


def test_an_engine_that_is_told_to_end_ends_what_it_has_and_gets_nothing_new() -> None:
    async def story(front: Front, stack: AsyncExitStack) -> None:
        old, leaving = await far(stack, "n1", engine.stream(WORD, WORD, DONE, pause_s=0.1))
        new, staying = await far(stack, "n2", engine.answer({"ok": 2}))
        front.route(Route("notes", (), (leaving,)))
        running = asyncio.create_task(front.ask(STREAM))
        await until(lambda: old.asked)
        front.route(Route("notes", (), (staying,)))
        assert (await front.ask()).json() == {"ok": 2}
        assert (await running).body == WORD + WORD + DONE
        assert (len(old.asked), len(new.asked)) == (1, 1)

    run(story, node="n1")


def test_a_model_that_sleeps_is_asked_for_and_the_request_answered_when_it_is_there() -> None:
    async def story(front: Front, stack: AsyncExitStack) -> None:
        front.route(Route("notes", (), (), wakes=True))
        asking = asyncio.create_task(front.ask())
        await until(front.marks)
        assert front.marks()["notes"].waiting
        assert not asking.done()
        _, endpoint = await far(stack, "n1", engine.answer({"ok": 1}))
        front.route(Route("notes", (), (endpoint,), wakes=True))
        assert (await asking).json() == {"ok": 1}

    run(story)


def test_it_is_said_that_a_model_is_in_use_while_a_request_takes_long() -> None:
    async def story(front: Front, stack: AsyncExitStack) -> None:
        _, endpoint = await far(stack, "n1", engine.stream_until_left(WORD))
        front.route(Route("notes", (), (endpoint,), wakes=True))
        noting = asyncio.create_task(front.engines_of.note_use())
        call = await front.call()
        await call.head()
        first = front.marks()["notes"]
        assert not first.waiting
        await until(lambda: front.marks()["notes"].at > first.at)
        await call.hang_up()
        noting.cancel()

    run(story)


def test_a_model_that_never_sleeps_is_not_marked() -> None:
    async def story(front: Front, _: AsyncExitStack) -> None:
        front.route(Route("notes", (), ()))
        await front.ask()
        front.route(Route("notes", (), (), cannot="it does not fit", wakes=True))
        await front.ask()
        front.route()
        await front.ask()
        assert front.marks() == {}

    run(story, hold_s=0.1)


# --- Signs of life --------------------------------------------------------------------------------


def test_a_stream_that_waits_is_kept_alive_and_then_passed_on() -> None:
    async def story(front: Front, stack: AsyncExitStack) -> None:
        front.route(Route("notes", (), ()))
        call = await front.call()
        status, headers = await call.head()
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        chunks = call.chunks()
        assert await anext(chunks) == b": notes is starting\n\n"
        found, endpoint = await far(stack, "n1", engine.die, engine.stream(WORD, DONE))
        front.route(Route("notes", (), (endpoint,)))
        rest = b"".join([chunk async for chunk in chunks])
        assert rest.replace(b": notes is starting\n\n", b"") == WORD + DONE
        assert len(found.asked) == 2, "a sign of life is nothing of an answer"
        await call.hang_up()
        (end,) = await front.ends()
        assert (end["outcome"], end["status"]) == ("ok", 200)

    run(story, keep_alive_s=0.05)


def test_an_error_after_a_sign_of_life_is_an_event() -> None:
    async def story(front: Front, stack: AsyncExitStack) -> None:
        front.route(Route("notes", (), ()))
        found = await front.ask(STREAM)
        assert found.status == 200
        said = [line for line in found.body.split(b"\n\n") if line and not line.startswith(b":")]
        (told,) = said
        assert json.loads(told.removeprefix(b"data: "))["error"]["code"] == "model_not_ready"
        refusal = {"error": {"message": "too long", "code": 400}}
        asking = asyncio.create_task(front.ask(STREAM))
        await asyncio.sleep(0.15)
        _, endpoint = await far(stack, "n1", engine.answer(refusal, 400))
        front.route(Route("notes", (), (endpoint,)))
        answer = (await asking).body.replace(b": notes is starting\n\n", b"")
        assert json.loads(answer.removeprefix(b"data: ")) == refusal
        ends = [(e["outcome"], e["status"]) for e in await front.ends(2)]
        assert ends == [("failed", 503), ("failed", 400)]

    run(story, keep_alive_s=0.05, hold_s=0.5)


def test_who_waits_for_a_whole_answer_gets_a_status() -> None:
    async def story(front: Front, _: AsyncExitStack) -> None:
        front.route(Route("notes", (), ()))
        assert (await front.ask()).status == 503

    run(story, keep_alive_s=0.05, hold_s=0.2)


# --- In a cluster ---------------------------------------------------------------------------------


def test_before_there_is_a_key_a_clusters_gateway_says_what_is_missing() -> None:
    async def story(front: Front, _: AsyncExitStack) -> None:
        for path, method in (("/v1/models", "GET"), ("/v1/chat/completions", "POST")):
            found = await front.ask(path=path, method=method)
            assert (found.status, found.json()["error"]["code"]) == (503, "no_keys")
            assert "appliance gateway key create" in found.json()["error"]["message"]
            assert found.headers["retry-after"] == "30"
        front.route(keys=(KEY,))
        assert (await front.ask(path="/v1/models", method="GET")).status == 401
        found = await front.ask(path="/v1/models", method="GET", headers=GIVEN)
        assert found.status == 200
        front.route(needs_key=True)
        assert (await front.ask(path="/v1/models", method="GET", headers=GIVEN)).status == 503

    run(story, reach=Reach.CLUSTER)


def test_probes_say_that_it_lives_and_whether_the_controller_was_heard() -> None:
    async def story(front: Front, _: AsyncExitStack) -> None:
        (front.folder / "routes.json").unlink()
        assert (await front.ask(method="GET", path="/healthz")).status == 200
        assert (await front.ask(method="GET", path="/readyz")).status == 503
        front.route()
        assert (await front.ask(method="GET", path="/readyz")).status == 200
        (front.folder / "routes.json").unlink()
        assert (await front.ask(method="GET", path="/readyz")).status == 200, "it serves on"

    run(story, reach=Reach.CLUSTER)


def run(story: Callable[[Front, AsyncExitStack], Awaitable[None]], **settings: Any) -> None:
    async def whole() -> None:
        async with gateway(**settings) as front, AsyncExitStack() as stack:
            await story(front, stack)

    asyncio.run(whole())
