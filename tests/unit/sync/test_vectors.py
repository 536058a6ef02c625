"""The published vectors: read here by code of its own, and by ours, with the same result.

``Reader`` shares nothing with the appliance: it is what somebody would write who has only
``docs/reference/sync.md``.
"""

import base64
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from appliance.errors import RefusedError
from appliance.ledger import chain
from appliance.ledger.chain import Head
from appliance.sync.batch import open_batch
from appliance.trust.envelope import Addressee, Slot, accept

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ROOT = Path(__file__).parents[3]
VECTORS: dict[str, Any] = json.loads((ROOT / "tests/data/sync/vectors.json").read_text())
PAGE = (ROOT / "docs/reference/sync.md").read_text()
NODE_KEY = VECTORS["keys"]["node"]["public"]
SYNC_KEY = VECTORS["keys"]["sync"]["public"]


class Reader:
    """What the page says, and nothing else."""

    @staticmethod
    def payload(envelope: str, kind: str, key: str) -> bytes:
        found = json.loads(envelope)
        assert set(found) == {"payload", "payloadType", "signatures"}
        assert found["payloadType"] == kind
        payload = base64.b64decode(found["payload"], validate=True)
        signed = b" ".join(
            [b"DSSEv1", str(len(kind)).encode(), kind.encode(), str(len(payload)).encode(), payload]
        )
        (signature,) = found["signatures"]
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
        public.verify(base64.b64decode(signature["sig"]), signed)
        return payload

    @staticmethod
    def numbers(batch: dict[str, Any]) -> list[tuple[int, int]]:
        """Return from which number to which each record stands."""
        found, seq = [], batch["first"]
        for record in batch["records"]:
            found.append((seq, seq + record.get("span", 1) - 1))
            seq += record.get("span", 1)
        assert seq - batch["first"] == batch["n"]
        return found


@pytest.mark.parametrize("vector", VECTORS["batches"], ids=lambda v: v["name"])
def test_a_batch_is_read_by_the_page_alone_and_by_us_alike(vector: dict[str, Any]) -> None:
    assert len(vector["envelope"]) <= 65536
    packed = Reader.payload(
        vector["envelope"], "application/vnd.edge-appliance.batch.v1+zstd", NODE_KEY
    )
    assert hashlib.sha256(packed).hexdigest() == vector["hash"]
    text = zstd.decompress(packed).decode()
    assert text == vector["payload"]
    batch = json.loads(text)
    canonical = json.dumps(batch, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert canonical == text
    spans = Reader.numbers(batch)
    assert (spans[0][0], spans[-1][1]) == (vector["first"], vector["upto"])

    sender = Addressee("acme", "box-1", NODE_KEY, "")
    ours = open_batch(vector["envelope"].encode(), {NODE_KEY}, sender, batch["stream"])
    assert [(seq, seq + n - 1) for seq, n, _ in ours.numbered()] == spans
    assert list(ours.records) == batch["records"]
    assert (ours.hash, ours.previous, ours.upto) == (
        vector["hash"],
        batch["previous"],
        vector["upto"],
    )


def test_batches_of_a_stream_are_linked_and_leave_out_no_number() -> None:
    first, second, metrics = VECTORS["batches"]
    assert json.loads(first["payload"])["previous"] == ""
    assert json.loads(second["payload"])["previous"] == first["hash"]
    assert second["first"] == first["upto"] + 1
    gap, minute, last = json.loads(metrics["payload"])["records"]
    assert gap["body"] == {"why": "budget", "records": gap["span"]}
    assert (minute["kind"], minute["span"], "span" in last) == ("coarse", 60, False)
    load = minute["body"]["series"]["host"]["load"]
    assert load == [60, 5.25, 12.625, 20.0], "how many, least, mean, most"


def test_the_audit_chain_can_be_followed_by_hand() -> None:
    head = bytes(32)
    for entry in VECTORS["audit"]:
        head = hashlib.sha256(head + hashlib.sha256(entry["record"].encode()).digest()).digest()
        assert head.hex() == entry["hash"]
    listed = [(e["seq"], e["record"].encode()) for e in VECTORS["audit"]]
    last = VECTORS["audit"][-1]
    assert chain.verify(listed, {}) == Head(last["seq"], last["hash"])


def test_the_records_of_the_audit_batches_are_those_that_were_linked() -> None:
    batches = [json.loads(v["payload"]) for v in VECTORS["batches"][:2]]
    sent = [
        json.dumps(r, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        for batch in batches
        for r in batch["records"]
    ]
    assert sent == [entry["record"] for entry in VECTORS["audit"]]


def test_an_acknowledgement_names_the_last_batch() -> None:
    vector = VECTORS["acknowledgement"]
    kind = "application/vnd.edge-appliance.ack.v1+json"
    payload = Reader.payload(vector["envelope"], kind, SYNC_KEY)
    assert payload.decode() == vector["payload"]
    second = VECTORS["batches"][1]
    named = {"epoch": "0123456789abcdef", "upto": second["upto"], "hash": second["hash"]}
    assert json.loads(payload)["streams"] == {"audit": named}
    me = Addressee("acme", "box-1", NODE_KEY, "0123456789abcdef")
    ours = accept(vector["envelope"].encode(), Slot.ACK, {SYNC_KEY}, me.fields())
    assert ours.payload["streams"] == {"audit": named}


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda v: v["why"])
def test_what_the_page_says_is_refused_is_refused_with_its_code(vector: dict[str, str]) -> None:
    sender = Addressee("acme", "box-1", NODE_KEY, "")
    topic = vector.get("topic", "metrics")
    with pytest.raises(RefusedError) as caught:
        open_batch(vector["envelope"].encode(), {NODE_KEY}, sender, topic)
    assert caught.value.code == vector["code"]


def test_the_pages_example_is_one_of_the_vectors() -> None:
    assert VECTORS["pae"]["encoded"] in PAGE
    (example,) = re.findall(r"```json\n(.*?)```", PAGE, flags=re.DOTALL)
    assert json.loads(example) == json.loads(VECTORS["batches"][2]["payload"])
