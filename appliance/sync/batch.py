"""Batches: consecutive records of one stream, compressed, linked by hash, signed. Pure.

The signed payload is zstd over JSON: ``{org, node, nodeKey, dbEpoch, issued, stream, first, n,
previous, records}``. ``previous`` is the SHA-256 of the payload before it, empty for the first of
an epoch; so a batch left out, swapped or invented shows. A record with a ``span`` of k stands for k
consecutive numbers, and ``n`` counts numbers. ``docs/reference/sync.md`` has test vectors.
"""

import hashlib
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from appliance.core import wire
from appliance.errors import MalformedError, ScopeError
from appliance.ledger.streams import NEVER_DROPPED, Position, Record, SealedBatch, Stream
from appliance.trust import dsse
from appliance.trust.envelope import Addressee, Slot, whole
from appliance.trust.keys import Signer

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MOST_RECORDS = 500
_MOST_PAYLOAD = 44 << 10
"""So that the envelope, whose base64 adds a third, stays below 64 KiB."""

_MOST_UNPACKED = 8 << 20
_NO_RECORDS = b'"records":[]'
_MAX_STREAM = 32
_MOST_NAME = 64


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch whose signature was verified."""

    stream: str
    epoch: str
    first: int
    previous: str
    hash: str
    records: tuple[dict[str, Any], ...]
    text: str = ""
    """The signed payload as it was read: JSON whose ``records`` are these."""

    @property
    def count(self) -> int:
        """How many numbers its records stand for."""
        return sum(span(record) for record in self.records)

    @property
    def upto(self) -> int:
        """The last number that a record stands for."""
        return self.first + self.count - 1

    def numbered(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Yield each record with its first number and for how many numbers it stands."""
        seq = self.first
        for record in self.records:
            found = span(record)
            yield seq, found, record
            seq += found


def span(record: dict[str, Any]) -> int:
    """Return for how many consecutive numbers a record stands."""
    return int(record.get("span", 1))


def maker(
    stream: Stream, me: Addressee, key: Signer, issued: str
) -> Callable[[Position, list[Record]], SealedBatch]:
    """Return what seals the oldest waiting records into one batch, as many as fit.

    A record that fits into no envelope gives way to a gap record that says what it was: sent as it
    is, it would be refused for ever, and with it all that comes after it.
    """

    def make(position: Position, records: list[Record]) -> SealedBatch:
        chosen = records
        while (payload := _pack(stream, me, issued, position, chosen)) is None:
            chosen = chosen[: len(chosen) // 2] if len(chosen) > 1 else [_gap(chosen[0])]
        return SealedBatch(
            stream,
            records[0].seq,
            sum(record.span for record in chosen),
            hashlib.sha256(payload).hexdigest(),
            dsse.sign(Slot.BATCH, payload, key),
        )

    return make


def open_batch(data: bytes, keys: Collection[str], sender: Addressee, stream: str) -> Batch:
    """Return the batch in an envelope that a node sent.

    Args:
        data: The envelope.
        keys: The keys of the node whose topic it came on.
        sender: That node; its epoch is whatever the batch says, for the hub learns it from there.
        stream: The stream whose topic it came on.

    Raises:
        MalformedError, SignatureError, ScopeError: which defence stopped it.
    """
    what = f"a batch of {sender.node}"
    opened = dsse.verify(data, Slot.BATCH, keys, what=what)
    text = _unpack(opened.payload, what)
    found = wire.loads(text, what=what)
    expected = {"org": sender.org, "node": sender.node, "nodeKey": sender.node_key}
    for name, value in {**expected, "stream": stream}.items():
        if found.get(name) != value:
            raise ScopeError(f"{what} says {name} {found.get(name)!r}, not {value!r}")
    records, epoch, previous = found.get("records"), found.get("dbEpoch"), found.get("previous")
    first, count = whole(found, "first"), whole(found, "n")
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise MalformedError(f"{what} holds something that is not a record")
    counted = sum(_checked_span(record, stream, what) for record in records)
    if counted != count or count < 1 or first < 1 or first + count > wire.MAX_INTEGER:
        raise MalformedError(f"{what} does not hold the records it counts")
    if not isinstance(epoch, str) or not isinstance(previous, str) or len(stream) > _MAX_STREAM:
        raise MalformedError(f"{what} has no epoch or no link to the one before it")
    digest = hashlib.sha256(opened.payload).hexdigest()
    return Batch(stream, epoch, first, previous, digest, tuple(records), text.decode())


def _pack(
    stream: Stream, me: Addressee, issued: str, position: Position, records: list[Record]
) -> bytes | None:
    """Return the payload, or None when it is too large for an envelope or for who unpacks it."""
    around = wire.dumps(
        {
            **me.fields(),
            "issued": issued,
            "stream": stream,
            "first": records[0].seq,
            "n": sum(record.span for record in records),
            "previous": position.sealed_hash,
            "records": [],
        }
    )
    # The outbox holds canonical JSON: joining it is much faster than reading and writing it again.
    # No text of ours can look like the empty list: a quote inside a string is escaped.
    listed = ",".join(record.text for record in records)
    data = around.replace(_NO_RECORDS, b'"records":[%s]' % listed.encode(), 1)
    if len(data) >= _MOST_UNPACKED:
        return None
    payload = zstd.compress(data)
    return payload if len(payload) <= _MOST_PAYLOAD else None


def _gap(found: Record) -> Record:
    whole, record = found.text.encode(), found.record
    omitted = {"bytes": len(whole), "sha256": hashlib.sha256(whole).hexdigest()}
    names = {name: str(record.get(name))[:_MOST_NAME] for name in ("at", "kind")}
    spans = {} if found.span == 1 else {"span": found.span}
    return Record(found.seq, {**names, **spans, "body": {"omitted": omitted}})


def _checked_span(record: dict[str, Any], stream: str, what: str) -> int:
    if "span" not in record:
        return 1
    found = whole(record, "span")
    if found < 2:
        raise MalformedError(f"{what} holds a record that stands for {found} numbers")
    if stream in NEVER_DROPPED:
        raise MalformedError(f"{what} holds a record of {found} numbers, which {stream} may not")
    return found


def _unpack(payload: bytes, what: str) -> bytes:
    try:
        unpacker = zstd.ZstdDecompressor()
        data = unpacker.decompress(payload, max_length=_MOST_UNPACKED)
    except zstd.ZstdError as error:
        raise MalformedError(f"{what} is not compressed with zstd") from error
    if not unpacker.eof:
        raise MalformedError(f"{what} is cut, or larger than {_MOST_UNPACKED} bytes unpacked")
    return data
