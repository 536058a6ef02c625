"""An engine that does what it is told: streams, is slow, breaks off, refuses."""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SSE = b"text/event-stream"
DONE = b"data: [DONE]\n\n"


@dataclass
class Asked:
    """A request as it arrived; ``left`` is set when whoever asked has hung up."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def json(self) -> dict[str, Any]:
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found


Play = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]
"""What the engine does with one request."""


class FakeEngine:
    """Serves while it is entered; plays its ``plays`` one after the other, the last for ever.

    Given a Unix socket's path it is there; given an IP address, on a port of it that is free.
    """

    def __init__(self, socket: Path | str, *plays: Play) -> None:
        self._where = socket
        self.address = str(socket)
        self.asked: list[Asked] = []
        self._plays = deque(plays)
        self._tasks: set[asyncio.Task[None]] = set()

    def then(self, *plays: Play) -> None:
        """Do these from now on."""
        self._plays = deque(plays)

    async def __aenter__(self) -> Self:
        if isinstance(self._where, Path):
            self._server = await asyncio.start_unix_server(self._connected, self._where)
            return self
        self._server = await asyncio.start_server(self._connected, self._where, 0)
        host = f"[{self._where}]" if ":" in self._where else self._where
        self.address = f"http://{host}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if isinstance(self._where, Path):
            self._where.unlink(missing_ok=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            asked = await _read(reader)
            self.asked.append(asked)
            play = self._plays.popleft() if len(self._plays) > 1 else self._plays[0]
            watch = asyncio.create_task(_watch(reader, asked))
            with suppress(OSError):
                await play(asked, writer)
            watch.cancel()
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            self._tasks.discard(task)


def answer(body: object, status: int = 200, content_type: bytes = b"application/json") -> Play:
    """Answer with a whole body."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def play(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(_head(status, content_type, b"Content-Length: %d" % len(data)) + data)
        await writer.drain()

    return play


def by_path(plays: Mapping[str, Play]) -> Play:
    """Do for each path what stands there."""

    async def play(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await plays[asked.path](asked, writer)

    return play


def in_turn(*plays: Play) -> Play:
    """Do these one after the other, the last for ever."""
    left = deque(plays)

    async def play(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await (left.popleft() if len(left) > 1 else left[0])(asked, writer)

    return play


def stream(*chunks: bytes, pause_s: float = 0.0) -> Play:
    """Stream chunks, each in a write of its own."""

    async def play(_: Asked, writer: asyncio.StreamWriter) -> None:
        await _stream(writer, chunks, pause_s)
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    return play


def break_off(*chunks: bytes, pause_s: float = 0.01) -> Play:
    """Begin a stream and die; without chunks, die behind the head."""

    async def play(_: Asked, writer: asyncio.StreamWriter) -> None:
        await _stream(writer, chunks, pause_s)

    return play


def stream_until_left(chunk: bytes) -> Play:
    """Stream one chunk and then nothing, until whoever asked hangs up."""

    async def play(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await _stream(writer, (chunk,), 0)
        await asked.left.wait()

    return play


async def die(_: Asked, writer: asyncio.StreamWriter) -> None:
    """Hang up before the head."""
    writer.close()


async def think_until_left(asked: Asked, _: asyncio.StreamWriter) -> None:
    """Say nothing until whoever asked hangs up."""
    await asked.left.wait()


async def babble(_: Asked, writer: asyncio.StreamWriter) -> None:
    """Answer something that is not HTTP."""
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    await writer.drain()


async def die_within_body(_: Asked, writer: asyncio.StreamWriter) -> None:
    """Announce a body and die in the middle of it."""
    writer.write(_head(200, b"application/json", b"Content-Length: 1000") + b'{"choices"')
    await writer.drain()


def event(data: object) -> bytes:
    """Return a server-sent event."""
    return b"data: " + json.dumps(data).encode() + b"\n\n"


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    request, *lines = head.strip().split("\r\n")
    headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(request.split()[1], headers, body)


async def _watch(reader: asyncio.StreamReader, asked: Asked) -> None:
    with suppress(OSError):
        await reader.read()
    asked.left.set()


async def _stream(writer: asyncio.StreamWriter, chunks: tuple[bytes, ...], pause_s: float) -> None:
    writer.write(_head(200, SSE, b"Transfer-Encoding: chunked"))
    for chunk in chunks:
        writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        await writer.drain()
        await asyncio.sleep(pause_s)


def _head(status: int, content_type: bytes, length: bytes) -> bytes:
    return b"HTTP/1.1 %d Any\r\nContent-Type: %b\r\nServer: fake\r\n%b\r\n\r\n" % (
        status,
        content_type,
        length,
    )
