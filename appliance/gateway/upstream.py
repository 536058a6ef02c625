"""A request to an engine, over its Unix socket or TCP, streamed.

A fresh connection for each: llama.cpp closes after every stream while it promises to keep alive.
Over a network the other machine may vanish without a word, so connecting has a deadline, and a
connection over which nothing comes is probed by the kernel: an engine may think for minutes, but
the machine it runs on answers at once.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import h11

_CHUNK = 64 << 10
_CONNECT_S = 2.0
_PROBE = {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
"""Seconds of silence before the first probe, between probes, and how many may go unanswered."""
_UNSENT_MS = 20_000
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


async def ask(address: str, path: str, body: bytes) -> EngineAnswer:
    """Post a JSON body to an engine and return the head of its answer.

    Args:
        address: The path of a Unix socket, or ``http://IP:PORT``.
        path: What is asked for.
        body: The JSON.

    Raises:
        EngineGoneError: nobody answers there, or the answer broke off before its head.
    """
    connection = await _Connection.open(address)
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
    async def open(cls, address: str) -> "_Connection":
        try:
            async with asyncio.timeout(_CONNECT_S):
                return cls(*await _connected(address))
        except TimeoutError as error:
            why = f"the engine does not answer: no connection within {_CONNECT_S:g} s"
            raise EngineGoneError(why, asked=False) from error
        except (OSError, ValueError) as error:
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


async def _connected(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if not address.startswith("http://"):
        return await asyncio.open_unix_connection(address, limit=_CHUNK)
    parts = urlsplit(address)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=_CHUNK)
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _PROBE.items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNSENT_MS)
    return reader, writer
