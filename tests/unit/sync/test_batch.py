"""A batch is opened only if its own node signed it for its own stream, whole and of a sane size."""

import sys
from typing import Any

import pytest

from appliance.core import wire
from appliance.errors import MalformedError, RefusedError, ScopeError, SignatureError
from appliance.ledger.streams import Position, Record, SealedBatch, Stream
from appliance.sync.batch import Batch, maker, open_batch
from appliance.trust import dsse
from appliance.trust.envelope import Addressee, Slot
from tests.helpers.signing import new_key

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

KEY, OTHER_KEY = new_key(), new_key()
ME = Addressee("acme", "box-1", KEY.public, "epoch-1")
AT = "2026-12-01T00:00:00.000Z"


def records(count: int, first: int = 1, body: object = "text") -> list[Record]:
    return [
        Record(n, {"at": AT, "kind": "test", "body": {"number": n, "body": body}})
        for n in range(first, first + count)
    ]


def seal(found: list[Record], previous: str = "") -> SealedBatch:
    return maker(Stream.USAGE, ME, KEY, AT)(Position(sealed_hash=previous), found)


def opened(data: bytes, stream: str = "usage", sender: Addressee = ME) -> Batch:
    return open_batch(data, {sender.node_key}, sender, stream)


def forged(**changes: Any) -> bytes:
    """Return a batch that its node signed although it is not right."""
    payload = {
        **ME.fields(), "issued": AT, "stream": "usage", "first": 1, "n": 1, "previous": "",
        "records": [{}], **changes,
    }  # fmt: skip
    data = wire.dumps({k: v for k, v in payload.items() if v is not None})
    return dsse.sign(Slot.BATCH, zstd.compress(data), KEY)


def test_what_was_sealed_is_opened_with_its_numbers_and_its_link() -> None:
    first = seal(records(3))
    second = seal(records(2, first=4), previous=first.hash)
    found = opened(second.envelope)
    assert (found.stream, found.epoch, found.first, found.upto) == ("usage", "epoch-1", 4, 5)
    assert (found.previous, found.hash) == (first.hash, second.hash)
    assert [r["body"]["number"] for r in found.records] == [4, 5]


def test_the_epoch_is_the_batchs_own_word() -> None:
    unknown = Addressee(ME.org, ME.node, ME.node_key, "")
    assert opened(seal(records(1)).envelope, sender=unknown).epoch == "epoch-1"


@pytest.mark.parametrize(
    ("size", "alphabet"), [(100, 64), (5_000, 64), (60_000, 64), (300_000, 1), (9_000_000, 1)]
)
def test_an_envelope_never_exceeds_its_limit_whatever_the_records(size: int, alphabet: int) -> None:
    texts = [_noise(size, alphabet, seed) for seed in range(6 if size < 1_000_000 else 2)]
    waiting = [Record(n, {"at": AT, "kind": "t", "body": t}) for n, t in enumerate(texts, start=1)]
    while waiting:
        batch = seal(waiting)
        assert len(batch.envelope) <= dsse.MAX_ENVELOPE_BYTES
        found = opened(batch.envelope)
        assert (found.first, len(found.records)) == (waiting[0].seq, batch.count)
        waiting = waiting[batch.count :]


def test_a_record_that_fits_nowhere_leaves_a_gap_record_in_its_place() -> None:
    batch = seal([Record(1, {"at": AT, "kind": "apply", "body": _noise(80_000, 64, 0)})])
    (found,) = opened(batch.envelope).records
    assert (found["at"], found["kind"]) == (AT, "apply")
    assert found["body"]["omitted"]["bytes"] > 80_000
    assert len(found["body"]["omitted"]["sha256"]) == 64


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        (seal(records(1)).envelope[:-1], MalformedError),
        (b"x" * (dsse.MAX_ENVELOPE_BYTES + 1), MalformedError),
        (dsse.sign(Slot.BATCH, b"{}", KEY), MalformedError),
        (dsse.sign(Slot.REPORTED, zstd.compress(b"{}"), KEY), MalformedError),
        (dsse.sign(Slot.BATCH, zstd.compress(b"[]"), KEY), MalformedError),
        (dsse.sign(Slot.BATCH, zstd.compress(wire.dumps({}))[:-1], KEY), MalformedError),
        (dsse.sign(Slot.BATCH, zstd.compress(b"0" * (9 << 20)), KEY), MalformedError),
        (dsse.sign(Slot.BATCH, b"", KEY), MalformedError),
        (dsse.sign(Slot.BATCH, zstd.compress(wire.dumps({})), OTHER_KEY), SignatureError),
        (forged(org="other"), ScopeError),
        (forged(node="box-2"), ScopeError),
        (forged(nodeKey=OTHER_KEY.public), ScopeError),
        (forged(stream="audit"), ScopeError),
        (forged(stream=None), ScopeError),
        (forged(n=2), MalformedError),
        (forged(n=0, records=[]), MalformedError),
        (forged(first=0), MalformedError),
        (forged(first=-1), MalformedError),
        (forged(first=True), MalformedError),
        (forged(first=1.5), MalformedError),
        (forged(records={}), MalformedError),
        (forged(records=["text"]), MalformedError),
        (forged(dbEpoch=None), MalformedError),
        (forged(dbEpoch=1), MalformedError),
        (forged(previous=None), MalformedError),
    ],
)
def test_what_is_not_a_whole_batch_of_this_node_is_refused(
    data: bytes, refusal: type[RefusedError]
) -> None:
    with pytest.raises(refusal, match=r"box-1|not a whole number"):
        opened(data)


def test_a_streams_name_has_an_end() -> None:
    with pytest.raises(MalformedError):
        opened(forged(stream="s" * 33), stream="s" * 33)


def test_a_bomb_is_refused_before_it_fills_the_memory() -> None:
    bomb = zstd.compress(b"\0" * (200 << 20))
    assert len(bomb) < 20_000
    with pytest.raises(MalformedError, match="larger than 8388608 bytes"):
        opened(dsse.sign(Slot.BATCH, bomb, KEY))


def _noise(size: int, alphabet: int, seed: int) -> str:
    """Return text that compresses as badly as an alphabet of this size allows."""
    state, letters = seed + 1, []
    for _ in range(size if alphabet > 1 else 0):
        state = state * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
        letters.append(chr(48 + (state >> 33) % alphabet))
    return "".join(letters) or "a" * size
