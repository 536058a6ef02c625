"""Errors in the shape that OpenAI clients understand."""

import json
from collections.abc import Sequence
from typing import Any


class ApiError(Exception):
    """An answer other than the one that was hoped for.

    Args:
        status: The HTTP status.
        code: A stable word for programs.
        message: What, why, what next.
        param: The field of the request at fault, if one is.
        headers: More headers, such as Retry-After.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = tuple(headers)

    def body(self) -> dict[str, Any]:
        """Return the JSON that OpenAI's own errors have."""
        kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
        kind = kinds.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )
        return {
            "error": {
                "message": str(self),
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def json(self) -> bytes:
        """Return the body as bytes."""
        return json.dumps(self.body()).encode()

    def event(self) -> bytes:
        """Return the error as a server-sent event, for a stream that has already begun."""
        return b"data: " + self.json() + b"\n\n"


def unavailable(code: str, message: str, retry_after_s: int) -> ApiError:
    """Return a 503 that says when to come again."""
    headers = [(b"retry-after", str(retry_after_s).encode())]
    return ApiError(503, code, message, headers=headers)
