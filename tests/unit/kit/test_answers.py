import asyncio
import json

import pytest
from starlette.requests import Request

from appliance import errors
from appliance.errors import ApplianceError, UsageError
from appliance.kit import answers


def carrying(body: bytes) -> Request:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body}

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


def test_an_object_is_read() -> None:
    assert asyncio.run(answers.json_object(carrying(b'{"a":[1]}'))) == {"a": [1]}


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[1]", b"null", b"[" * 100_000])
def test_what_is_no_object_is_a_usage_error(body: bytes) -> None:
    with pytest.raises(UsageError, match="the request is not"):
        asyncio.run(answers.json_object(carrying(body)))


@pytest.mark.parametrize(
    ("family", "status"),
    [
        (errors.BadDocumentError, 400), (errors.MalformedError, 400), (errors.UsageError, 400),
        (errors.SignatureError, 401), (errors.NotFoundError, 404), (errors.LockedError, 409),
        (errors.NoSpaceError, 507), (errors.StateUnusableError, 500), (ApplianceError, 500),
    ],
)  # fmt: skip
def test_a_refusal_has_a_fitting_status_and_carries_the_error(
    family: type[ApplianceError], status: int
) -> None:
    response = answers.refusal(family("what", hint="next"))
    found = errors.from_wire(json.loads(bytes(response.body))["error"])
    assert (response.status_code, type(found), found.what, found.hint) == (
        status, family, "what", "next",
    )  # fmt: skip
