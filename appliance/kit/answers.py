"""What the local API and the hub's API have in common: limits, and errors as JSON."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from appliance.errors import (
    ApplianceError,
    BadDocumentError,
    ForbiddenError,
    LockedError,
    MalformedError,
    NoSpaceError,
    NotFoundError,
    RefusedError,
    SignatureError,
    UsageError,
)

MOST_BODY_BYTES = 1 << 20
_STATUS: dict[type[ApplianceError], int] = {
    BadDocumentError: 400,
    MalformedError: 400,
    UsageError: 400,
    SignatureError: 401,
    RefusedError: 403,
    ForbiddenError: 403,
    NotFoundError: 404,
    LockedError: 409,
    NoSpaceError: 507,
}


def refusal(error: ApplianceError) -> JSONResponse:
    """Return an error as the answer to a request."""
    status = next((code for family, code in _STATUS.items() if isinstance(error, family)), 500)
    return JSONResponse({"error": error.to_wire()}, status_code=status)


async def body_of(request: Request) -> bytes:
    """Return what a request carries.

    Raises:
        UsageError: it is larger than any that makes sense.
    """
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > MOST_BODY_BYTES:
            raise UsageError(f"the request has more than {MOST_BODY_BYTES >> 10} KiB")
    return data


async def _no_such_thing(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    family = NotFoundError if status == 404 else UsageError
    found = family(f"there is no {request.method} {request.url.path} here")
    return JSONResponse({"error": found.to_wire()}, status_code=status)


async def _bug(_: Request, error: Exception) -> Response:
    found = ApplianceError(f"a bug: {type(error).__name__}", hint="its log says where")
    return JSONResponse({"error": found.to_wire()}, status_code=500)


def application(routes: Sequence[BaseRoute]) -> Starlette:
    """Return an ASGI application; where no handler answers, an error in the same shape does."""
    app = Starlette(
        routes=routes, exception_handlers={HTTPException: _no_such_thing, Exception: _bug}
    )
    app.router.redirect_slashes = False
    return app
