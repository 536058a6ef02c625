"""ASGI applications on real sockets, and a caller that sees every byte and can hang up."""

import asyncio
import json
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h11

from appliance.kit import asgi


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[int]:
    """Serve an application on loopback; yield its port."""
    sock = asgi.listen_tcp("127.0.0.1", 0)
    port = sock.getsockname()[1]
    async with _served(app, sock):
        yield port


@asynccontextmanager
async def serving_unix(app: Any) -> AsyncIterator[Path]:
    """Serve an application on a Unix socket; yield its path, which is short enough for one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s"
        async with _served(app, asgi.listen_unix(path, 0o600)):
            yield path


@asynccontextmanager
async def _served(app: Any, sock: socket.socket) -> AsyncIterator[None]:
    task = asyncio.create_task(asgi.serve(app, sock, grace_s=1))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found


class Call:
    """A request under way."""

    def __init__(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> None:
        self._h11 = h11.Connection(h11.CLIENT)
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        own = {"Host": "test", "Connection": "close", "Content-Length": str(len(body))}
        head = h11.Request(method=method, target=path, headers=list({**own, **headers}.items()))
        events = (head, h11.Data(data=body), h11.EndOfMessage())
        self._request = b"".join(self._h11.send(event) or b"" for event in events)

    @classmethod
    async def open(
        cls,
        port: int,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> "Call":
        call = cls(method, path, body, headers or {})
        call._reader, call._writer = await asyncio.open_connection("127.0.0.1", port)
        call._writer.write(call._request)
        return call

    async def head(self) -> tuple[int, dict[str, str]]:
        event = await self._next()
        assert isinstance(event, h11.Response), event
        return event.status_code, {k.decode(): v.decode() for k, v in event.headers}

    async def chunks(self) -> AsyncIterator[bytes]:
        while isinstance(event := await self._next(), h11.Data):
            yield bytes(event.data)

    async def whole(self) -> Answer:
        try:
            status, headers = await self.head()
            body = b"".join([chunk async for chunk in self.chunks()])
        finally:
            await self.hang_up()
        return Answer(status, headers, body)

    async def hang_up(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def _next(self) -> Any:
        async with asyncio.timeout(10):
            while (event := self._h11.next_event()) is h11.NEED_DATA:
                self._h11.receive_data(await self._reader.read(65536))
        return event


async def ask(
    port: int,
    method: str,
    path: str,
    body: bytes | dict[str, Any] = b"",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Make one request and return the whole answer."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    return await (await Call.open(port, method, path, data, headers)).whole()
