"""An engine's answers are asked for with a deadline, and read as those of a stranger."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from appliance.runtime import health
from appliance.runtime.health import Answer
from appliance.runtime.profile import Busy, Probe

METRICS = (Path(__file__).parents[2] / "data" / "engines" / "llama-cpp-metrics.txt").read_text()
BUSY = Busy("/metrics", ("llamacpp:requests_processing", "llamacpp:requests_deferred"))
READY = Probe("/health", 200, 120)
T = TypeVar("T")


def asked(folder: Path, answer: bytes, ask: Callable[[Path], Awaitable[T]]) -> T:
    """Return what ``ask`` makes of an engine that answers with these bytes, over and over."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            writer.write(answer)
            while answer.endswith(b"..."):
                writer.write(answer * 10_000)
                await writer.drain()
        writer.close()

    async def scenario() -> T:
        async with await asyncio.start_unix_server(serve, folder / "e.sock"):
            return await ask(folder / "e.sock")

    return asyncio.run(scenario())


def plain(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def test_an_answer_is_read_to_its_end(tmp_path: Path) -> None:
    found = asked(tmp_path, plain(b"x" * 300_000), lambda path: health.get(path, "/"))
    assert found == Answer(200, b"x" * 300_000)


@pytest.mark.parametrize(
    "answer",
    [plain(b"loading", b"503 Busy"), b"", b"SSH-2.0", b"HTTP/1.1 \xb2 OK\r\n\r\n", b"\r\n\r\n"],
)
def test_an_engine_is_ready_only_when_it_says_so(tmp_path: Path, answer: bytes) -> None:
    assert not asked(tmp_path, answer, lambda path: health.is_ready(path, READY))
    (tmp_path / "e.sock").unlink(missing_ok=True)
    assert asked(tmp_path, plain(b"{}"), lambda path: health.is_ready(path, READY))


def test_an_engine_that_never_stops_talking_fills_no_memory(tmp_path: Path) -> None:
    endless, began = b"HTTP/1.1 200 OK\r\n\r\n...", time.monotonic()
    assert asked(tmp_path, endless, lambda path: health.get(path, "/", timeout_s=60)) is None
    assert time.monotonic() - began < 30


def test_an_engine_that_is_silent_costs_a_deadline(tmp_path: Path) -> None:
    async def scenario() -> object:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        async with await asyncio.start_unix_server(silent, tmp_path / "e.sock"):
            return await health.get(tmp_path / "e.sock", "/", timeout_s=0.05)

    assert asyncio.run(scenario()) is None


def test_nobody_at_the_socket_is_no_answer(tmp_path: Path) -> None:
    assert asyncio.run(health.get(tmp_path / "none", "/")) is None
    assert asyncio.run(health.requests_in_progress(tmp_path / "none", BUSY)) is None


@pytest.mark.parametrize(
    ("answer", "count"),
    [(plain(METRICS.encode()), 3), (plain(b"", b"501 Off"), None), (plain(b"other 1\n"), None)],
)
def test_an_engine_says_how_many_requests_it_holds_or_it_is_not_known(
    tmp_path: Path, answer: bytes, count: int | None
) -> None:
    assert asked(tmp_path, answer, lambda p: health.requests_in_progress(p, BUSY)) == count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("busy 2\nheld 1\n", 3),
        ("busy 2.0\nheld 1e+2\n", 102),
        ("busy 0\n", 0),
        ("# busy 7\nvery_busy 8\nbusy_too 9\n", None),
        ("busy e\n", None),
        ("busy 1.2.3\n", None),
        ("busy 9e999\n", None),
        ("busy NaN\nheld 1\n", 1),
        ("busy -1\n", None),
        ("", None),
    ],
)
def test_samples_are_summed_and_what_is_no_number_is_none(text: str, count: int | None) -> None:
    assert health.parse_busy(text, ("busy", "held")) == count
