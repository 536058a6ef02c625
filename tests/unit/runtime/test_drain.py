"""An engine in a container ends when its requests are answered."""

import time

import pytest

from appliance.runtime.workers import drain
from tests.helpers.counting import engine

_IDLE = "llamacpp:requests_processing 0\nllamacpp:requests_deferred 0\n"
_BUSY = "# HELP x\nllamacpp:requests_processing 0\nllamacpp:requests_deferred 1\n"


@pytest.mark.parametrize(
    ("text", "status", "busy"),
    [
        (_IDLE, 200, False),
        (_BUSY, 200, True),
        ("llamacpp:requests_processing 2\n", 200, True),
        ("other_requests_processing 2\n", 200, False),
        (_BUSY, 503, False),
    ],
)
def test_an_engine_is_busy_when_it_counts_requests(text: str, status: int, *, busy: bool) -> None:
    with engine(text, status=status) as port:
        assert drain.is_busy(port) is busy


def test_one_that_is_silent_is_busy_and_one_that_does_not_listen_is_not() -> None:
    with engine(_IDLE, pause_s=0.3) as port:
        assert drain.is_busy(port, 0.05)
    assert not drain.is_busy(port)


def test_it_waits_for_requests_and_for_no_longer() -> None:
    with engine(_BUSY, _BUSY, _IDLE) as port:
        begun = time.monotonic()
        assert drain.drain(port, 10)
        assert time.monotonic() - begun < 2


def test_a_request_that_appears_after_one_look_is_waited_for() -> None:
    with engine(_IDLE, _BUSY) as port:
        assert not drain.drain(port, 0.5)


def test_it_waits_no_longer_than_it_may() -> None:
    with engine(_BUSY) as port:
        assert not drain.drain(port, 0.3)
    assert not drain.drain(port, 0)
