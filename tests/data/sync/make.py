"""Write ``vectors.json``: what the log looks like on the wire, byte by byte.

Run it from the root, ``python -m tests.data.sync.make``, when the format grows. The bytes of what
is compressed may differ between releases of zstd: then keep those that were published.
"""

import datetime
import json
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.core import coarsen, wire
from appliance.core.coarsen import Entry
from appliance.ledger.chain import Head
from appliance.ledger.streams import Position, Record, SealedBatch, Stream
from appliance.sync.batch import maker
from appliance.trust import dsse
from appliance.trust.envelope import Addressee, Slot, seal
from appliance.trust.keys import SigningKey

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TARGET = Path(__file__).with_name("vectors.json")
NODE_SEED, SYNC_SEED, OTHER_SEED = bytes([1]) * 32, bytes([2]) * 32, bytes([3]) * 32
ISSUED = "2026-12-01T00:00:00.000Z"
NODE, SYNC, OTHER = (
    SigningKey(Ed25519PrivateKey.from_private_bytes(seed))
    for seed in (NODE_SEED, SYNC_SEED, OTHER_SEED)
)
ME = Addressee("acme", "box-1", NODE.public, "0123456789abcdef")


def main() -> None:
    """Write the file."""
    audit = [_record(n, "apply", {"by": "me", "name": f"größe-{n}"}) for n in (1, 2, 3)]
    first, second = _chain(Stream.AUDIT, [audit[:2], audit[2:]])
    hosts = [_record(n, "host", {"load": n / 4}, second=n - 21) for n in range(21, 81)]
    entries = [Entry(r.seq, 1, r.record) for r in hosts]
    coarse = coarsen.coarsen(entries, 60)
    gap = coarsen.gap(1, 20, ISSUED)
    spans = [_spanned(gap), _spanned(coarse), _record(81, "host", {"load": 0.5}, second=60)]
    (metrics,) = _chain(Stream.METRICS, [spans])
    acknowledged = {"audit": {"epoch": ME.db_epoch, "upto": second.upto, "hash": second.hash}}
    vectors = {
        "keys": {
            "node": {"seed": NODE_SEED.hex(), "public": NODE.public},
            "sync": {"seed": SYNC_SEED.hex(), "public": SYNC.public},
        },
        "pae": {
            "type": "text/plain",
            "payload": "hello",
            "encoded": dsse.pae("text/plain", b"hello").decode(),
        },
        "batches": [
            _batch("the first of a stream", first),
            _batch("the next, linked to it", second),
            _batch("a gap of 20 numbers, a minute of 60, and one record", metrics),
        ],
        "audit": _heads(audit),
        "acknowledgement": _acknowledgement(acknowledged),
        "refused": _refused(audit),
    }
    TARGET.write_text(json.dumps(vectors, indent=1, ensure_ascii=False) + "\n")


def _record(seq: int, kind: str, body: dict[str, Any], second: int = 0) -> Record:
    at = f"2026-12-01T00:{second // 60:02}:{second % 60:02}.000Z"
    return Record(seq, {"at": at, "kind": kind, "body": body})


def _spanned(entry: Entry) -> Record:
    return Record(entry.first, {**entry.record, "span": entry.span})


def _chain(stream: Stream, runs: list[list[Record]]) -> list[SealedBatch]:
    made: list[SealedBatch] = []
    for run in runs:
        position = Position(sealed_hash=made[-1].hash if made else "")
        made.append(maker(stream, ME, NODE, ISSUED)(position, run))
    return made


def _batch(name: str, batch: SealedBatch) -> dict[str, Any]:
    packed = dsse.verify(batch.envelope, Slot.BATCH, {NODE.public}, what=name).payload
    return {
        "name": name,
        "envelope": batch.envelope.decode(),
        "hash": batch.hash,
        "payload": zstd.decompress(packed).decode(),
        "first": batch.first,
        "upto": batch.upto,
    }


def _heads(records: list[Record]) -> list[dict[str, Any]]:
    found, head = [], Head()
    for record in records:
        head = head.after(record.text.encode())
        found.append({"record": record.text, **head.to_wire()})
    return found


def _acknowledgement(streams: dict[str, Any]) -> dict[str, Any]:
    issued = datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC)
    life = datetime.timedelta(days=30)
    envelope = seal(Slot.ACK, ME, {"streams": streams}, SYNC, issued=issued, lifetime=life)
    payload = dsse.verify(envelope, Slot.ACK, {SYNC.public}, what="it").payload
    return {"envelope": envelope.decode(), "payload": payload.decode()}


def _refused(audit: list[Record]) -> list[dict[str, str]]:
    plain = {
        **ME.fields(), "issued": ISSUED, "stream": "metrics", "first": 1, "n": 1, "previous": "",
        "records": [audit[0].record],
    }  # fmt: skip
    spanned = {**audit[0].record, "span": 3}

    def forged(key: SigningKey = NODE, slot: str = Slot.BATCH, **changes: Any) -> str:
        payload = zstd.compress(wire.dumps({**plain, **changes}))
        return dsse.sign(slot, payload, key).decode()

    twice = wire.dumps(plain).replace(b'"n":1', b'"n":1,"n":2')
    return [
        {"why": "signed by another key", "code": "signature", "envelope": forged(OTHER)},
        {"why": "another type", "code": "malformed", "envelope": forged(slot=Slot.ACK)},
        {"why": "of another node", "code": "scope", "envelope": forged(node="box-2")},
        {"why": "of another stream", "code": "scope", "envelope": forged(stream="events")},
        {"why": "n counts records, not numbers", "code": "malformed",
         "envelope": forged(records=[spanned])},
        {"why": "a span of 1", "code": "malformed",
         "envelope": forged(records=[{**spanned, "span": 1}])},
        {"why": "a span in a stream that drops nothing", "code": "malformed", "topic": "audit",
         "envelope": forged(stream="audit", n=3, records=[spanned])},
        {"why": "numbers begin at 1", "code": "malformed", "envelope": forged(first=0)},
        {"why": "numbers beyond 2^53", "code": "malformed",
         "envelope": forged(first=2**53 - 2, n=3, records=[spanned])},
        {"why": "a key twice", "code": "malformed",
         "envelope": dsse.sign(Slot.BATCH, zstd.compress(twice), NODE).decode()},
        {"why": "more than 8 MiB unpacked", "code": "malformed",
         "envelope": dsse.sign(Slot.BATCH, zstd.compress(b" " * (9 << 20)), NODE).decode()},
    ]  # fmt: skip


if __name__ == "__main__":
    main()
