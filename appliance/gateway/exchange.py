"""One HTTP request and its answer, over ASGI."""

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from appliance.core.quantity import format_bytes
from appliance.gateway.errors import ApiError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]

EVENTS = b"text/event-stream"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class CallerLeft(Exception):  # noqa: N818 - not an error: somebody hung up
    """The caller hung up before the answer was complete."""


class Exchange:
    """A request, and what was answered so far.

    ``began``: the head of an answer is out. ``passed``: so is a part of what an engine answered, or
    is about to be, and no other engine may be asked any more.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.began = False
        self.passed = False
        self._headers: list[Header] = scope["headers"]
        self._receive = receive
        self._send = send
        given = self.header(b"x-request-id")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)

    def header(self, name: bytes) -> str:
        """Return a header's value; empty when it is not there."""
        return next((v.decode("latin-1") for k, v in self._headers if k == name), "")

    async def body(self, most: int) -> bytes:
        """Return the request's body.

        Raises:
            ApiError: it has more than ``most`` bytes.
            CallerLeft: it never came to its end.
        """
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise CallerLeft
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most:
                raise ApiError(413, "request_too_large", f"more than {format_bytes(most)}")
            if not message.get("more_body"):
                return b"".join(parts)

    def watch_caller(self) -> "CallerWatch":
        """Return a block that knows when the caller hangs up; only once the body was read."""
        return CallerWatch(self._receive)

    async def begin(self, status: int, headers: Sequence[Header]) -> None:
        """Send the head of the answer."""
        self.began = True
        own = (b"x-request-id", self.request_id.encode())
        await self._send(
            {"type": "http.response.start", "status": status, "headers": [*headers, own]}
        )

    async def chunk(self, data: bytes, *, more: bool) -> None:
        """Send a part of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def answer(self, status: int, data: bytes, headers: Sequence[Header] = ()) -> None:
        """Send a whole JSON answer."""
        length = (b"content-length", str(len(data)).encode())
        await self.begin(status, [(b"content-type", b"application/json"), length, *headers])
        await self.chunk(data, more=False)

    async def comment(self, text: str) -> None:
        """Keep alive a stream that has nothing to say yet; what ends it is an event from then on.

        Source: "a line that starts with a colon is ignored", HTML Living Standard, 9.2.6.
        """
        if not self.began:
            await self.begin(200, [(b"content-type", EVENTS), (b"cache-control", b"no-cache")])
        await self.chunk(f": {text}\n\n".encode(), more=True)

    async def fail(self, error: ApiError) -> None:
        """Answer an error; in a stream that has begun it is an event."""
        if self.began:
            await self.chunk(error.event(), more=False)
        else:
            await self.answer(error.status, error.json(), error.headers)


class CallerWatch:
    """Sets an event when the caller hangs up."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __enter__(self) -> asyncio.Event:
        self._task = asyncio.create_task(self._watch())
        return self._left

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left.set()
