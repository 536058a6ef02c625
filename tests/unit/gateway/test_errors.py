"""Errors in the one shape that OpenAI's clients understand."""

import json

import pytest

from appliance.gateway.errors import ApiError, unavailable


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "invalid_request_error"),
        (500, "server_error"),
        (503, "server_error"),
    ],
)
def test_every_status_has_its_type(status: int, kind: str) -> None:
    error = ApiError(status, "word", "why", param="model")
    assert error.body() == {
        "error": {"message": "why", "type": kind, "param": "model", "code": "word"}
    }
    assert json.loads(error.json()) == error.body()


def test_as_an_event_it_is_one_line() -> None:
    event = ApiError(502, "word", "two\nlines").event()
    assert event.startswith(b"data: {")
    assert event.endswith(b"}\n\n")
    assert event.count(b"\n") == 2


def test_a_503_says_when_to_come_again() -> None:
    assert unavailable("word", "why", 7).headers == ((b"retry-after", b"7"),)
