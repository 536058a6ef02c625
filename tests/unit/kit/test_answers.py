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


def test_a_body_is_read_whole() -> None:
    assert asyncio.run(answers.body_of(carrying(b"[1]"))) == b"[1]"


def test_a_body_is_read_no_further_than_makes_sense() -> None:
    with pytest.raises(UsageError, match="more than 1024 KiB"):
        asyncio.run(answers.body_of(carrying(b" " * (answers.MOST_BODY_BYTES + 1))))


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
