"""The gateway as its callers meet it: untouched answers, honest errors, one fact for each end."""

import asyncio
import hashlib
import json
from typing import Any

import pytest

from appliance.core.routes import ApiKey, Endpoint, Route
from appliance.gateway.app import Reach
from tests.fakes import engine
from tests.fakes.engine import DONE, Play, event
from tests.helpers.gateways import CHAT, Front, gateway
from tests.helpers.waiting import until
from tests.helpers.web import Answer

pytestmark = pytest.mark.slow

KEY = ApiKey("app", "ward", hashlib.sha256(b"ea-secret").hexdigest())
WORD = event({"choices": [{"delta": {"content": "Grüezi"}}]})
USAGE = event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}})


def error(found: Answer) -> tuple[int, str]:
    """Return status and code of an error in the shape that OpenAI's clients understand."""
    body = found.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert found.headers["content-type"] == "application/json"
    assert found.headers["x-request-id"]
    return found.status, body["error"]["code"]


# --- What is passed on ----------------------------------------------------------------------------

STREAMS: list[tuple[bytes, ...]] = [
    (WORD, WORD, USAGE, DONE),
    (b": comment\r\n\r\n", WORD[:7], WORD[7:], b"event: x\r\ndata:no space\r\n\r\n", DONE),
    (b"\xff\x00 not even text", b"\n\n"),
    tuple(bytes([n % 256]) * 3000 for n in range(60)),
    (b"x" * 300_000,),
    (),
]


def test_a_stream_is_passed_on_byte_for_byte() -> None:
    async def story() -> None:
        async with gateway({"e": tuple(engine.stream(*chunks) for chunks in STREAMS)}) as front:
            for chunks in STREAMS:
                found = await front.ask()
                assert (found.status, found.body) == (200, b"".join(chunks))
                assert found.headers["content-type"] == "text/event-stream"
                assert "server" not in found.headers
            ends = await front.ends(len(STREAMS))
            assert {e["outcome"] for e in ends} == {"ok"}

    asyncio.run(story())


def test_a_token_leaves_when_it_comes_and_not_later() -> None:
    async def story() -> None:
        async with gateway({"e": (engine.stream_until_left(WORD),)}) as front:
            call = await front.call()
            status, _ = await call.head()
            first = await anext(call.chunks())
            assert (status, first) == (200, WORD)
            await call.hang_up()

    asyncio.run(story())


def test_a_request_reaches_the_engine_as_it_was_sent() -> None:
    body = b'{"model":"notes", "messages": [ {"role":"user"} ],  "odd": 1e400}'

    async def story() -> None:
        async with gateway({"e": (engine.answer({"ok": 1}),)}) as front:
            await front.ask(body, headers={"Authorization": "Bearer x", "Cookie": "c"})
            (asked,) = front.engine.asked
            assert (asked.path, asked.body) == (CHAT, body)
            assert not {"authorization", "cookie"} & set(asked.headers)

    asyncio.run(story())


WHOLE: list[tuple[int, Any]] = [
    (200, {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}}),
    (400, {"error": {"message": "exceed_context_size_error", "n_ctx": 1024}}),
    (501, {"error": {"message": "does not support embeddings"}}),
    (500, "not an object"),
    (200, b"[" * 100_000 + b"]" * 100_000),
    (200, b"\xff"),
    (200, b""),
]


def test_a_whole_answer_is_passed_on_whatever_its_status() -> None:
    async def story() -> None:
        plays = tuple(engine.answer(body, status) for status, body in WHOLE)
        async with gateway({"e": plays}) as front:
            for number, (status, body) in enumerate(WHOLE, start=1):
                found = await front.ask()
                expected = body if isinstance(body, bytes) else json.dumps(body).encode()
                assert (found.status, found.body) == (status, expected)
                assert found.headers["content-length"] == str(len(found.body))
                assert len(front.engine.asked) == number, "an answer is an answer"
                end = (await front.ends(number))[-1]
                assert (end["status"], end["outcome"]) == (
                    status,
                    "ok" if status < 400 else "failed",
                )

    asyncio.run(story())


def test_requests_go_to_the_least_busy_engine() -> None:
    async def story() -> None:
        plays = {name: (engine.stream_until_left(WORD),) for name in "ab"}
        async with gateway(plays) as front:
            calls = [await front.call() for _ in range(4)]
            for call in calls:
                await call.head()
            assert [len(e.asked) for e in front.engines.values()] == [2, 2]
            for call in calls:
                await call.hang_up()

    asyncio.run(story())


# --- When an engine fails -------------------------------------------------------------------------


def test_before_the_first_byte_another_try_is_made() -> None:
    async def story() -> None:
        async with gateway({"e": (engine.die,)}) as front:
            for failure in (engine.die, engine.babble, engine.break_off(), engine.die_within_body):
                front.engine.asked.clear()
                front.engine.then(failure, engine.stream(WORD, DONE))
                found = await front.ask(b'{"model": "notes", "stream": true}')
                assert found.body == WORD + DONE
                assert len(front.engine.asked) == 2
            for end in await front.ends(4):
                assert (end["outcome"], end["status"], end["stream"]) == ("ok", 200, True)

    asyncio.run(story())


def test_a_request_that_ends_engines_is_not_tried_for_ever() -> None:
    async def story() -> None:
        async with gateway({"e": (engine.die,)}) as front:
            for failure in (engine.die, engine.babble, engine.break_off(), engine.die_within_body):
                front.engine.asked.clear()
                front.engine.then(failure)
                found = await front.ask()
                assert error(found) == (503, "engine_failed")
                assert found.headers["retry-after"] == "1"
                assert len(front.engine.asked) == 2
            for end in await front.ends(4):
                assert (end["outcome"], end["status"]) == ("failed", 503)

    asyncio.run(story())


def test_after_the_first_byte_the_caller_is_told_in_the_stream() -> None:
    async def story() -> None:
        async with gateway({"e": (engine.die,)}) as front:
            for chunk in (WORD, WORD[:20]):  # also in the middle of an event, which is ended then
                front.engine.asked.clear()
                front.engine.then(engine.break_off(chunk))
                found = await front.ask(b'{"model": "notes", "stream": true}')
                assert found.status == 200
                passed_on, _, told = found.body.partition(chunk + b"\n\n")
                assert passed_on == b""
                problem = json.loads(told.removeprefix(b"data: "))["error"]
                assert (problem["code"], problem["type"]) == ("engine_failed", "server_error")
                assert len(front.engine.asked) == 1
            for end in await front.ends(2):
                assert (end["outcome"], end["status"]) == ("cut", 200)

    asyncio.run(story())


def test_an_engine_that_is_gone_is_waited_for_and_another_found() -> None:
    async def story() -> None:
        async with gateway({"e": (engine.answer({"ok": 1}),)}) as front:
            gone = Endpoint("gone", str(front.folder / "nobody"))
            front.route(Route("notes", (), (gone,)))
            asking = asyncio.create_task(front.ask())
            await asyncio.sleep(0.1)
            front.route(Route("notes", (), front.endpoints("e")))
            assert (await asking).status == 200
            assert (await front.ends())[0]["replica"] == "e"

    asyncio.run(story())


def test_an_engine_that_stays_away_is_said_at_the_deadline() -> None:
    async def story() -> None:
        async with gateway(hold_s=0.1) as front:
            front.route(Route("notes", (), (Endpoint("gone", str(front.folder / "nobody")),)))
            assert error(await front.ask()) == (503, "engine_failed")
            assert [e["outcome"] for e in await front.ends()] == ["failed"]

    asyncio.run(story())


# --- When the caller leaves -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("play", "status"),
    [(engine.stream_until_left(WORD), 200), (engine.think_until_left, None)],
)
def test_a_caller_who_leaves_ends_the_engines_work(play: Play, status: int | None) -> None:
    async def story() -> None:
        async with gateway({"e": (play,)}) as front:
            call = await front.call()
            await until(lambda: front.engine.asked)
            if status is not None:
                await anext(await _stream_of(call))
            await call.hang_up()
            await asyncio.wait_for(front.engine.asked[0].left.wait(), 5)
            (end,) = await front.ends()
            assert (end["outcome"], end["status"]) == ("cancelled", status)
            assert len(front.engine.asked) == 1

    asyncio.run(story())


async def _stream_of(call: Any) -> Any:
    await call.head()
    return call.chunks()


def test_a_caller_who_leaves_while_waiting_or_before_the_end_of_the_request() -> None:
    async def story() -> None:
        async with gateway() as front:
            front.route(Route("notes", (), ()))
            waiting = await front.call()
            await until(front.facts)
            _, writer = await asyncio.open_connection("127.0.0.1", front.port)
            head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf"
            writer.write(head.encode())
            await until(lambda: len(front.facts()) == 2)
            await waiting.hang_up()
            writer.close()
            assert [e["outcome"] for e in await front.ends(2)] == ["cancelled", "cancelled"]

    asyncio.run(story())


# --- Starting engines -----------------------------------------------------------------------------


def test_a_request_waits_for_an_engine_that_starts() -> None:
    async def story() -> None:
        async with gateway({"e": (engine.answer({"ok": 1}),)}) as front:
            front.route(Route("notes", (), ()))
            asking = asyncio.create_task(front.ask())
            await asyncio.sleep(0.15)
            assert not asking.done()
            front.route(Route("notes", (), front.endpoints("e")))
            assert (await asking).status == 200
            assert (await front.ends())[0]["wait_ms"] >= 100

    asyncio.run(story())


def test_at_the_deadline_it_is_told_when_to_come_again() -> None:
    async def story() -> None:
        async with gateway(hold_s=0.1) as front:
            front.route(Route("notes", (), (), retry_after_s=9))
            found = await front.ask()
            assert error(found) == (503, "model_not_ready")
            assert found.headers["retry-after"] == "9"
            assert "not ready within 0.1 s" in found.json()["error"]["message"]
            assert [e["outcome"] for e in await front.ends()] == ["failed"]

    asyncio.run(story())


def test_what_cannot_start_is_said_at_once_also_to_who_waits_already() -> None:
    async def story() -> None:
        async with gateway(hold_s=60) as front:
            front.route(Route("notes", (), ()))
            asking = asyncio.create_task(front.ask())
            await until(front.facts)
            front.route(Route("notes", (), (), cannot="3.0 GiB of 2.0 GiB left", retry_after_s=7))
            for found in (await asking, await front.ask()):
                assert error(found) == (503, "model_cannot_start")
                assert found.headers["retry-after"] == "7"
                assert "3.0 GiB of 2.0 GiB left" in found.json()["error"]["message"]

    asyncio.run(story())


# --- Who asks, and for what -----------------------------------------------------------------------


def test_a_request_that_makes_no_sense_is_refused_and_noted_without_asking_an_engine() -> None:
    bad: list[tuple[bytes, int, str]] = [
        (b"", 400, "invalid_json"),
        (b"not JSON", 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b"[" * 100_000, 400, "invalid_json"),
        (b"\xff\xfe", 400, "invalid_json"),
        (b"{}", 400, "missing_model"),
        (b'{"model": 7}', 400, "missing_model"),
        (b'{"model": ""}', 400, "missing_model"),
        (b'{"model": "other"}', 404, "model_not_found"),
        (b'{"model": "\\ud800"}', 404, "model_not_found"),
        (b'{"model": "a\\u0000b"}', 404, "model_not_found"),
        (b'{"model": "' + b"x" * 100_000 + b'"}', 404, "model_not_found"),
        (b"x" * 300_000, 413, "request_too_large"),
    ]

    async def story() -> None:
        async with gateway({"e": (engine.answer({}),)}, most_body_bytes=200_000) as front:
            for body, status, code in bad:
                assert error(await front.ask(body)) == (status, code), body[:40]
            assert front.engine.asked == []
            ends = await front.ends()
            assert [e["status"] for e in ends] == [status for _, status, _ in bad]
            assert {e["outcome"] for e in ends} == {"failed"}
            assert max(len(json.dumps(e)) for e in ends) < 2000, "a record stays small"
            found = await front.ask(b'{"model": "other"}')
            assert "served are: notes" in found.json()["error"]["message"]
            assert found.json()["error"]["param"] == "model"

    asyncio.run(story())


def test_what_a_model_cannot_do_is_said_before_an_engine_is_asked() -> None:
    async def story() -> None:
        async with gateway({"e": (engine.answer({"data": []}),)}) as front:
            found = await front.ask(path="/v1/embeddings")
            assert error(found) == (400, "model_not_capable")
            message = found.json()["error"]["message"]
            assert message == "the model 'notes' does not do embeddings; it does: chat, completions"
            assert front.engine.asked == []
            front.route(Route("notes", ("embeddings",), front.endpoints("e")))
            assert (await front.ask(path="/v1/embeddings")).status == 200
            assert error(await front.ask(path="/v1/completions")) == (400, "model_not_capable")
            front.route(Route("notes", (), front.endpoints("e")))
            assert (await front.ask(path="/v1/completions")).status == 200

    asyncio.run(story())


def test_other_urls_and_methods_are_refused_and_not_noted() -> None:
    async def story() -> None:
        async with gateway() as front:
            for method, path, status, code in (
                ("GET", CHAT, 405, "method_not_allowed"),
                ("DELETE", "/v1/models", 405, "method_not_allowed"),
                ("POST", "/v1/models", 405, "method_not_allowed"),
                ("GET", "/", 404, "unknown_url"),
                ("POST", "/v1/chat/completions/", 404, "unknown_url"),
                ("POST", "/v1/audio/speech", 404, "unknown_url"),
                ("POST", "/healthz", 404, "unknown_url"),
            ):
                assert error(await front.ask(method=method, path=path)) == (status, code)
            assert front.facts() == []

    asyncio.run(story())


def test_models_and_health() -> None:
    async def story() -> None:
        async with gateway() as front:
            front.route(Route("b", (), ()), Route("a", ("chat",), ()))
            found = (await front.ask(method="GET", path="/v1/models")).json()
            assert found["object"] == "list"
            assert [(m["id"], m["object"]) for m in found["data"]] == [
                ("b", "model"),
                ("a", "model"),
            ]
            health = await front.ask(method="GET", path="/healthz")
            assert health.json() == {"status": "ok"}
            assert front.facts() == []

    asyncio.run(story())


def test_once_there_is_a_key_nobody_gets_in_without_one() -> None:
    async def story() -> None:
        async with gateway({"e": (engine.answer({}),)}) as front:
            route = Route("notes", (), front.endpoints("e"))
            assert (await front.ask()).status == 200
            front.route(route, keys=(ApiKey("other", "t", "0" * 64), KEY))
            for given in ("", "Bearer", "Bearer ea-wrong", "Basic ea-secret", "ea-secret"):
                headers = {"Authorization": given} if given else {}
                assert error(await front.ask(headers=headers)) == (401, "invalid_api_key")
                listed = await front.ask(method="GET", path="/v1/models", headers=headers)
                assert error(listed) == (401, "invalid_api_key")
            assert len(await front.ends()) == 1, "who may not ask is not noted"
            for given in ("Bearer ea-secret", "bearer  ea-secret"):
                assert (await front.ask(headers={"Authorization": given})).status == 200
            assert [e["key"] for e in await front.ends()] == [None, "app", "app"]
            assert (await front.ask(method="GET", path="/healthz")).status == 200

    asyncio.run(story())


def test_who_is_reached_by_others_and_has_no_key_lets_nobody_in() -> None:
    async def story() -> None:
        async with gateway({"e": (engine.answer({}),)}, reach=Reach.OTHERS) as front:
            assert error(await front.ask()) == (403, "no_keys")
            front.route(Route("notes", (), front.endpoints("e")), keys=(KEY,))
            found = await front.ask(headers={"Authorization": "Bearer ea-secret"})
            assert found.status == 200

    asyncio.run(story())


def test_revoking_the_last_key_opens_nothing() -> None:
    async def story() -> None:
        async with gateway({"e": (engine.answer({}),)}) as front:
            front.route(Route("notes", (), front.endpoints("e")), needs_key=True)
            assert error(await front.ask()) == (403, "no_keys")
            given = {"Authorization": "Bearer ea-secret"}
            assert error(await front.ask(headers=given)) == (403, "no_keys")

    asyncio.run(story())


def test_one_model_is_described_by_its_name() -> None:
    async def story() -> None:
        async with gateway({}) as front:
            front.route(Route("notes", (), ()))
            found = await front.ask(method="GET", path="/v1/models/notes")
            assert (found.status, found.json()["id"]) == (200, "notes")
            absent = await front.ask(method="GET", path="/v1/models/other")
            assert error(absent) == (404, "model_not_found")

    asyncio.run(story())


# --- What is noted --------------------------------------------------------------------------------


def test_the_callers_request_id_is_echoed_and_noted_and_nonsense_is_replaced() -> None:
    async def story() -> None:
        async with gateway({"e": (engine.stream(WORD), engine.answer({}))}) as front:
            for given, is_kept in (
                ("abc-1.2:3_4", True),
                ("x" * 128, True),
                ("x" * 129, False),
                ("a b", False),
                ('"quoted"', False),
            ):
                found = await front.ask(headers={"X-Request-Id": given})
                assert (found.headers["x-request-id"] == given) is is_kept
                assert (await front.ends())[-1]["request_id"] == found.headers["x-request-id"]
            refused = await front.ask(b"{}", headers={"X-Request-Id": "mine"})
            assert refused.headers["x-request-id"] == "mine"
            assert len({e["request_id"] for e in await front.ends()}) == 6

    asyncio.run(story())


def test_a_record_says_what_a_request_cost_and_nothing_of_what_it_said() -> None:
    async def story() -> None:
        async with gateway({"e": (engine.stream(WORD, USAGE, DONE),)}) as front:
            body = {"model": "notes", "stream": True, "messages": [{"content": "SECRET-PROMPT"}]}
            await front.ask(body, headers={"User-Agent": "SECRET-AGENT"})
            (end,) = await front.ends()
            assert (end["model"], end["route"], end["replica"]) == ("notes", CHAT, "e")
            assert (end["prompt_tokens"], end["completion_tokens"]) == (5, 7)
            assert 0 <= end["wait_ms"] <= end["first_token_ms"] <= end["duration_ms"]
            for path in front.spool_folder.iterdir():
                text = path.read_bytes()
                for said in (b"SECRET", "Grüezi".encode(), b"Gr\\u00fcezi", b"127.0.0.1"):
                    assert said not in text

    asyncio.run(story())


def test_an_engine_that_counts_nonsense_does_not_spoil_the_spool() -> None:
    counts = [10**30, -1, "7", None, True, 1.5]
    answers = [{"usage": {"prompt_tokens": c, "completion_tokens": 7}} for c in counts]

    async def story() -> None:
        async with gateway({"e": tuple(engine.answer(a) for a in answers)}) as front:
            for _ in answers:
                await front.ask()
            for end in await front.ends(len(answers)):
                assert (end["prompt_tokens"], end["completion_tokens"]) == (None, 7)

    asyncio.run(story())


def test_every_outcome_has_one_begin_and_one_end() -> None:
    """All kinds of requests at the same time."""
    plays = (
        engine.stream(WORD, DONE), engine.answer({}, 500), engine.break_off(WORD),
        engine.stream_until_left(WORD), engine.answer({}),
    )  # fmt: skip

    async def leave(front: Front) -> None:
        call = await front.call()
        await call.head()
        await call.hang_up()

    async def story() -> None:
        async with gateway({"e": plays}) as front:
            asked = [front.ask() for _ in range(3)]
            await asyncio.gather(*asked)
            await leave(front)
            await asyncio.gather(*(front.ask() for _ in range(20)))
            outcomes = sorted(e["outcome"] for e in await front.ends(24))
            assert outcomes == sorted(["ok", "failed", "cut", "cancelled"] + ["ok"] * 20)

    asyncio.run(story())
