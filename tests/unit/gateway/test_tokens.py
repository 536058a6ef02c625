"""What an answer says of its tokens; what it does not say is not known."""

import json
from typing import Any

import pytest

from appliance.gateway.tokens import StreamTail, TokenCount, count


@pytest.mark.parametrize(
    ("answer", "prompt", "completion"),
    [
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 0}}, 3, 0),
        ({"usage": {"prompt_tokens": 3}}, 3, None),
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 4}, "timings": {"prompt_n": 9}}, 3, 4),
        ({"timings": {"prompt_n": 3, "cache_n": 10, "predicted_n": 4}}, 13, 4),
        ({"timings": {"prompt_n": 3, "predicted_n": 4}}, 3, 4),
        ({"usage": None, "timings": {"prompt_n": 3, "predicted_n": 4}}, 3, 4),
        ({"usage": {"prompt_tokens": 2**53, "completion_tokens": -1}}, None, None),
        ({"usage": {"prompt_tokens": True, "completion_tokens": "4"}}, None, None),
        ({"timings": {"prompt_n": 2**53 - 1, "cache_n": 2**53 - 1}}, None, None),
        ({"usage": []}, None, None),
        ({}, None, None),
        ([], None, None),
        ("usage", None, None),
    ],
)
def test_whole_answers(answer: Any, prompt: int | None, completion: int | None) -> None:
    assert count(json.dumps(answer).encode()) == TokenCount(prompt, completion)


@pytest.mark.parametrize("data", [b"", b"not JSON", b"\xff", b"[" * 100_000, b"1" * 5000])
def test_what_is_no_answer_counts_nothing(data: bytes) -> None:
    assert count(data) == TokenCount()


def tail(*chunks: bytes) -> TokenCount:
    found = StreamTail()
    for chunk in chunks:
        found.feed(chunk)
    return found.count()


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'


def test_the_last_event_that_counts_is_found_however_it_was_cut() -> None:
    stream = b'data: {"choices":[1]}\n\n' + USAGE + b"data: [DONE]\n\n"
    for size in (1, 7, 1000):
        assert tail(*(stream[i : i + size] for i in range(0, len(stream), size))) == TokenCount(
            3, 4
        )


def test_a_long_stream_keeps_only_its_end() -> None:
    assert tail(*[b'data: {"choices":[]}\n\n'] * 10_000, USAGE) == TokenCount(3, 4)
    assert tail(USAGE, b"x" * (64 << 10)) == TokenCount()


def test_lines_may_end_with_carriage_returns() -> None:
    assert tail(USAGE.replace(b"\n", b"\r\n")) == TokenCount(3, 4)


def test_words_in_a_completion_are_not_taken_for_a_count() -> None:
    said = json.dumps({"choices": [{"delta": {"content": '"usage": {"prompt_tokens": 99}'}}]})
    assert tail(USAGE, b"data: " + said.encode() + b"\n\n") == TokenCount(3, 4)


def test_a_stream_that_says_nothing_counts_nothing() -> None:
    assert tail() == TokenCount()
    assert tail(b"data: [DONE]\n\n") == TokenCount()
