"""Whatever is in a stream, it arrives in envelopes of at most 64 KiB, linked, each record once."""

import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.ledger.streams import Position, Record, Stream
from appliance.sync.batch import MOST_RECORDS, maker, open_batch
from appliance.trust import dsse
from appliance.trust.envelope import Addressee
from tests.helpers.signing import new_key

pytestmark = pytest.mark.slow


KEY = new_key()
ME = Addressee("acme", "box-1", KEY.public, "epoch-1")

whole = st.integers(-(2**53) + 1, 2**53 - 1)
plain = st.none() | st.booleans() | whole | st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(codec="utf-8"), max_size=30)
bodies = st.recursive(
    plain | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=5,
)


@settings(deadline=None)
@given(
    st.lists(bodies, min_size=1, max_size=10),
    st.integers(1, 200),
    st.lists(st.sampled_from([10, 3000, 30_000]), max_size=5),
)
def test_a_stream_arrives_whole_in_order_and_small(
    found: list[Any], copies: int, sizes: list[int]
) -> None:
    noise = [hashlib.shake_256(bytes([n])).hexdigest(size) for n, size in enumerate(sizes)]
    stream = [{"at": "now", "kind": "test", "body": body} for body in [*found * copies, *noise]]
    waiting = [Record(n, record) for n, record in enumerate(stream, start=1)]
    make = maker(Stream.USAGE, ME, KEY, "2026-12-01T00:00:00.000Z")
    arrived: list[Any] = []
    previous = ""
    while waiting:
        sealed = make(Position(sealed_hash=previous), waiting[:MOST_RECORDS])
        assert len(sealed.envelope) <= dsse.MAX_ENVELOPE_BYTES
        batch = open_batch(sealed.envelope, {KEY.public}, ME, "usage")
        assert (batch.first, batch.previous) == (len(arrived) + 1, previous)
        arrived.extend(batch.records)
        waiting, previous = waiting[sealed.count :], batch.hash
    assert len(arrived) == len(stream)
    for sent, came in zip(stream, arrived, strict=True):
        assert came == sent or came["body"]["omitted"]["bytes"] > 44 << 10
