"""How handlers of the local API read requests and answer them."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from appliance.core import wire
from appliance.errors import ApplianceError, UsageError
from appliance.kit.answers import body_of, refusal
from appliance.node.api.services import LocalServices

_PROGRESS_S = 0.2
_LONGEST_TEXT = 200

Handler = Callable[[Request], Awaitable[Response]]


def route(method: str, path: str, handler: Handler) -> Route:
    """Return a route whose handler's errors become answers."""

    async def call(request: Request) -> Response:
        try:
            return await handler(request)
        except ApplianceError as error:
            return refusal(error)

    return Route(path, call, methods=[method])


async def object_of(request: Request) -> dict[str, Any]:
    """Return the JSON object that a request carries.

    Raises:
        MalformedError, UsageError: it carries something else, or too much.
    """
    return wire.loads(await body_of(request), what="the request")


def short_text(body: dict[str, Any], field: str) -> str:
    """Return a field that people read again later.

    Raises:
        UsageError: it is not a text, or one that is too long or cannot be shown.
    """
    found = body.get(field)
    if not isinstance(found, str) or not found.strip() or len(found) > _LONGEST_TEXT:
        raise UsageError(f"{field} is not a text of 1 to {_LONGEST_TEXT} characters")
    if not found.isprintable():
        raise UsageError(f"{field} holds characters that cannot be shown")
    return found.strip()


def who(request: Request) -> str:
    """Return who asks, for the audit stream: the user id that the kernel vouches for."""
    peer = request.scope.get("state", {}).get("peer")
    return "unknown" if peer is None else f"uid {peer.uid}"


def told(
    services: LocalServices,
    work: Awaitable[dict[str, Any]],
    newest: Callable[[], dict[str, Any]],
) -> Response:
    """Answer with lines of progress while ``work`` goes on, and with what it returns at the end.

    The work goes on when whoever asked has left.

    Args:
        services: Where the work is kept until it ends.
        work: Returns the last line, such as ``{"imported": {...}}``.
        newest: Returns how far it is.
    """

    async def run() -> dict[str, Any]:
        return await work

    async def lines() -> AsyncIterator[bytes]:
        task = asyncio.create_task(run())
        services.work.add(task)
        task.add_done_callback(services.work.discard)
        while not task.done():
            await asyncio.wait({task}, timeout=_PROGRESS_S)
            yield _line({"progress": newest()})
        try:
            yield _line(task.result())
        except ApplianceError as error:
            yield _line({"error": error.to_wire()})

    return StreamingResponse(lines(), media_type="application/x-ndjson")


def _line(data: dict[str, Any]) -> bytes:
    return json.dumps(data).encode() + b"\n"
