"""Whatever an engine says, counting its tokens neither fails nor depends on how it was cut."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core import wire
from appliance.gateway.tokens import StreamTail, count

pytestmark = pytest.mark.slow


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
numbers = st.integers(-10, 2**60) | anything
said = st.fixed_dictionaries(
    {},
    optional={
        "usage": st.fixed_dictionaries({"prompt_tokens": numbers, "completion_tokens": numbers})
        | anything,
        "timings": st.fixed_dictionaries(
            {"prompt_n": numbers, "cache_n": numbers, "predicted_n": numbers}
        )
        | anything,
        "choices": anything,
    },
)


@given(said)
def test_a_count_is_a_number_that_every_reader_takes_or_not_known(answer: dict[str, Any]) -> None:
    found = count(json.dumps(answer).encode())
    wire.loads(wire.dumps({"prompt": found.prompt, "completion": found.completion}), what="it")
    assert all(n is None or n >= 0 for n in (found.prompt, found.completion))


@given(st.binary())
def test_any_bytes_may_come(data: bytes) -> None:
    count(data)
    tail = StreamTail()
    tail.feed(data)
    tail.count()


@given(st.lists(said, max_size=4), st.lists(st.integers(1, 40), min_size=1))
def test_how_a_stream_was_cut_does_not_matter(
    events: list[dict[str, Any]], cuts: list[int]
) -> None:
    stream = b"".join(b"data: " + json.dumps(e).encode() + b"\n\n" for e in events)
    whole, parts = StreamTail(), StreamTail()
    whole.feed(stream)
    rest, turn = stream, 0
    while rest:
        size = cuts[turn % len(cuts)]
        parts.feed(rest[:size])
        rest, turn = rest[size:], turn + 1
    assert parts.count() == whole.count()
