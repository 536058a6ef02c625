"""A request to an engine over its Unix socket, streamed.

A fresh connection for each: llama.cpp closes after every stream while it promises to keep alive.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import h11

_CHUNK = 64 << 10
_PASSED_ON = (b"content-type", b"cache-control")


class EngineGoneError(Exception):
    """The engine did not answer, or its answer broke off.

    ``asked``: it had been asked already, so it may be the request that ended it.
    """

    def __init__(self, why: str, *, asked: bool) -> None:
        super().__init__(why)
        self.asked = asked


class EngineAnswer:
    """The head of an engine's answer, and its body as it comes."""

    def __init__(
        self, status: int, headers: list[tuple[bytes, bytes]], connection: "_Connection"
    ) -> None:
        self.status = status
        self.headers = [(k, v) for k, v in headers if k in _PASSED_ON]
        self._connection = connection

    @property
    def is_stream(self) -> bool:
        """Whether the body is server-sent events."""
        return any(
            k == b"content-type" and v.startswith(b"text/event-stream") for k, v in self.headers
        )

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the body's bytes as they arrive.

        Raises:
            EngineGoneError: it broke off.
        """
        while True:
            event = await self._connection.next()
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return

    def close(self) -> None:
        """Hang up; an engine that still generates stops."""
        self._connection.close()


async def ask(socket: str, path: str, body: bytes) -> EngineAnswer:
    """Post a JSON body to an engine and return the head of its answer.

    Raises:
        EngineGoneError: nobody answers at the socket, or the answer broke off before its head.
    """
    connection = await _Connection.open(socket)
    try:
        await connection.send(path, body)
        event = await connection.next()
        while isinstance(event, h11.InformationalResponse):
            event = await connection.next()
    except BaseException:
        connection.close()
        raise
    if not isinstance(event, h11.Response):
        connection.close()
        raise EngineGoneError("the engine ended before it answered", asked=True)
    return EngineAnswer(event.status_code, list(event.headers), connection)


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._h11 = h11.Connection(h11.CLIENT)

    @classmethod
    async def open(cls, socket: str) -> "_Connection":
        try:
            return cls(*await asyncio.open_unix_connection(socket, limit=_CHUNK))
        except OSError as error:
            raise EngineGoneError(f"the engine does not answer: {error}", asked=False) from error

    async def send(self, path: str, body: bytes) -> None:
        headers = [
            ("Host", "engine"),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        head = h11.Request(method="POST", target=path, headers=headers)
        data = [self._h11.send(e) for e in (head, h11.Data(data=body), h11.EndOfMessage())]
        self._writer.write(b"".join(part for part in data if part))
        try:
            await self._writer.drain()
        except OSError as error:
            raise EngineGoneError(f"the engine hung up: {error}", asked=True) from error

    async def next(self) -> Any:
        try:
            while (event := self._h11.next_event()) is h11.NEED_DATA:
                self._h11.receive_data(await self._reader.read(_CHUNK))
        except (OSError, h11.RemoteProtocolError) as error:
            raise EngineGoneError(f"the engine's answer broke off: {error}", asked=True) from error
        if isinstance(event, h11.ConnectionClosed):
            raise EngineGoneError("the engine hung up", asked=True)
        return event

    def close(self) -> None:
        self._writer.close()
