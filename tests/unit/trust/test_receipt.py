"""What a receipt says, what it must never say, and what makes another one of it."""

import base64
import json
from typing import Any

import pytest

from appliance.core import wire
from appliance.core.ids import digest
from appliance.errors import (
    IncompleteError,
    MalformedError,
    RefusedError,
    ScopeError,
    SignatureError,
)
from appliance.trust import dsse, receipt
from appliance.trust.envelope import Slot
from appliance.trust.receipt import MAX_RECEIPT_BYTES, open_receipt
from tests.helpers.signing import new_key

KEY = new_key()
GOOD: dict[str, Any] = {
    "org": "acme",
    "node": "box-1",
    "nodeKey": KEY.public,
    "dbEpoch": "0123456789abcdef",
    "seq": 1,
    "previous": "",
    "issued": "2026-12-01T00:00:00.000Z",
    "proven": True,
    **receipt.imported("small", "1.0.0").to_wire(),
    "metadata": {},
    "store": ["sha256:" + "ab" * 32],
    "floor": None,
    "nonce": None,
    "audit": {"seq": 0, "hash": "00" * 32},
    "omitted": 0,
}


def opened(payload: dict[str, Any], **how: Any) -> receipt.Receipt:
    data = dsse.sign(how.get("slot", Slot.RECEIPT), wire.dumps(payload), how.get("key", KEY))
    return open_receipt(data, {KEY.public}, how.get("org", "acme"), "box-1")


def test_a_receipt_is_opened_by_the_nodes_key() -> None:
    found = opened(GOOD)
    assert (found.epoch, found.seq, found.previous) == ("0123456789abcdef", 1, "")
    assert found.store == {"sha256:" + "ab" * 32}
    assert found.audit == (0, "00" * 32)
    envelope, hashed = receipt.sign(GOOD, KEY)
    assert open_receipt(envelope, {KEY.public}, None, "box-1").hash == hashed
    assert receipt.payload_of(envelope) == GOOD


def test_a_node_that_knows_no_organisation_yet_says_none() -> None:
    assert opened({**GOOD, "org": None}).seq == 1


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"node": "box-2"}, ScopeError),
        ({"nodeKey": new_key().public}, ScopeError),
        ({"org": "other"}, ScopeError),
        ({"dbEpoch": None}, MalformedError),
        ({"dbEpoch": "../../etc"}, MalformedError),
        ({"seq": 0}, MalformedError),
        ({"seq": True}, MalformedError),
        ({"seq": "1"}, MalformedError),
        ({"previous": "short"}, MalformedError),
        ({"issued": None}, MalformedError),
        ({"kind": "rumour"}, MalformedError),
        ({"kind": []}, MalformedError),
        ({"audit": None}, MalformedError),
        ({"audit": {"seq": 1}}, MalformedError),
        ({"audit": {"seq": -1, "hash": "00" * 32}}, MalformedError),
        ({"nonce": "00"}, MalformedError),
        ({"store": None}, MalformedError),
        ({"store": ["ab" * 32]}, MalformedError),
        ({"store": [1]}, MalformedError),
    ],
)
def test_what_is_not_of_this_node_or_not_a_receipt_is_refused(
    changes: dict[str, Any], error: type[RefusedError]
) -> None:
    with pytest.raises(error):
        opened({**GOOD, **changes})


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({"key": new_key()}, SignatureError),
        ({"slot": Slot.REPORTED}, MalformedError),
        ({"org": "other"}, ScopeError),
    ],
)
def test_another_signer_another_slot_and_another_organisation_are_refused(
    how: dict[str, Any], error: type[RefusedError]
) -> None:
    with pytest.raises(error):
        opened(GOOD, **how)


def test_a_changed_bit_is_refused() -> None:
    envelope = json.loads(receipt.sign(GOOD, KEY)[0])
    envelope["payload"] = base64.b64encode(wire.dumps({**GOOD, "seq": 2})).decode()
    with pytest.raises(SignatureError):
        open_receipt(wire.dumps(envelope), {KEY.public}, "acme", "box-1")


def test_a_receipt_is_longer_than_other_envelopes_may_be_and_yet_bounded() -> None:
    many = receipt.listed([digest(f"sha256:{n:064x}") for n in range(50_000)])
    envelope, _ = receipt.sign({**GOOD, "store": many}, KEY)
    assert dsse.MAX_ENVELOPE_BYTES < len(envelope) < MAX_RECEIPT_BYTES
    assert len(open_receipt(envelope, {KEY.public}, "acme", "box-1").store) == len(many) == 8000
    with pytest.raises(MalformedError):
        open_receipt(envelope + b" " * MAX_RECEIPT_BYTES, {KEY.public}, "acme", "box-1")


def test_no_host_serial_or_path_gets_into_a_refusals_reason() -> None:
    error = IncompleteError(
        "stick TRANSCEND 4C530001: /media/tech/4C530001/blobs/x, models/acme/small/1.0.0/Q4_0 ends"
    )
    found = receipt.refused(error, ("4C530001" + "x" * 500, "1"), private=["TRANSCEND 4C530001"])
    assert found.outcome == {
        "code": "incomplete",
        "exit": 23,
        "why": "stick (the medium): (a path), models/acme/small/1.0.0/Q4_0 ends",
    }
    assert found.bundle is not None
    assert len(found.bundle["name"]) == 64
    screen = receipt.refused(IncompleteError("\x1b[2J\nall is well"), ("a\tb", "\u202e1"))
    assert screen.outcome is not None
    assert screen.outcome["why"] == "?[2J?all is well"
    assert screen.bundle == {"name": "a?b", "version": "?1"}
    long = receipt.refused(IncompleteError("x" * 5000))
    assert long.outcome is not None
    assert len(long.outcome["why"]) == 300
