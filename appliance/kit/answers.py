"""What the local API and the hub's API have in common: JSON objects in, JSON objects out."""

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from appliance.errors import (
    ApplianceError,
    BadDocumentError,
    LockedError,
    MalformedError,
    NoSpaceError,
    NotFoundError,
    SignatureError,
    UsageError,
)

_STATUS: dict[type[ApplianceError], int] = {
    BadDocumentError: 400,
    MalformedError: 400,
    UsageError: 400,
    SignatureError: 401,
    NotFoundError: 404,
    LockedError: 409,
    NoSpaceError: 507,
}


def refusal(error: ApplianceError) -> JSONResponse:
    """Return an error as the answer to a request."""
    status = next((code for family, code in _STATUS.items() if isinstance(error, family)), 500)
    return JSONResponse({"error": error.to_wire()}, status_code=status)


async def json_object(request: Request) -> dict[str, Any]:
    """Return the JSON object that a request carries.

    Raises:
        UsageError: it carries something else.
    """
    try:
        found = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise UsageError("the request is not JSON") from error
    if not isinstance(found, dict):
        raise UsageError("the request is not a JSON object")
    return found
