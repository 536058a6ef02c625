"""An envelope is read in one way only, and signed for one type only."""

import base64
import json
from typing import Any

import pytest

from appliance.errors import ApplianceError, MalformedError, SignatureError
from appliance.trust import dsse
from appliance.trust.keys import SigningKey
from tests.helpers.signing import new_key

TYPE = "application/vnd.example.v1+json"
KEY, OTHER = new_key(), new_key()


def envelope(payload: bytes = b'{"a":1}', key: SigningKey = KEY, kind: str = TYPE) -> Any:
    return json.loads(dsse.sign(kind, payload, key))


def opened(data: object, *keys: SigningKey, kind: str = TYPE) -> dsse.Opened:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return dsse.verify(raw, kind, [key.public for key in keys or (KEY,)], what="it")


def refusal(data: object, *keys: SigningKey, kind: str = TYPE) -> type[ApplianceError]:
    with pytest.raises(ApplianceError) as caught:
        opened(data, *keys, kind=kind)
    return type(caught.value)


def test_the_encoding_is_the_specification_s() -> None:
    # The example of the DSSE specification, protocol.md.
    assert (
        dsse.pae("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_the_signed_bytes_come_back_with_who_signed_them() -> None:
    found = opened(envelope(b"\x00\xff any bytes"))
    assert found.payload == b"\x00\xff any bytes"
    assert found.signers == {KEY.public}


def test_a_payload_of_one_type_never_passes_for_another() -> None:
    other = envelope(kind="application/vnd.other.v1+json")
    assert refusal(other) is MalformedError
    assert refusal({**other, "payloadType": TYPE}) is SignatureError
    # Lengths are signed too: moving bytes from the payload to the type changes what is verified.
    moved = envelope(b"x 3 abc", kind="t")
    payload = base64.b64encode(b"abc").decode()
    assert refusal({**moved, "payloadType": "t 7 x", "payload": payload}, kind="t 7 x") is (
        SignatureError
    )


def test_another_key_or_no_key_is_refused() -> None:
    assert refusal(envelope(key=OTHER)) is SignatureError
    with pytest.raises(SignatureError):
        dsse.verify(dsse.sign(TYPE, b"{}", KEY), TYPE, [], what="it")


def test_distinct_keys_are_counted_and_the_key_id_decides_nothing() -> None:
    found = envelope()
    (own,), (others,) = found["signatures"], envelope(key=OTHER)["signatures"]
    assert opened({**found, "signatures": [own, own]}).signers == {KEY.public}
    assert opened({**found, "signatures": [others, own]}).signers == {KEY.public}
    assert opened({**found, "signatures": [own, others]}, KEY, OTHER).signers == {
        KEY.public,
        OTHER.public,
    }
    assert opened({**found, "signatures": [{**own, "keyid": OTHER.public}]}).signers == {KEY.public}
    assert opened({**found, "signatures": [{"sig": own["sig"]}]}).signers == {KEY.public}
    assert refusal({**found, "signatures": [{**others, "keyid": own["keyid"]}]}) is SignatureError


@pytest.mark.parametrize(
    "text",
    [
        "eyJhIjoxfQ",  # no padding
        "eyJhIjoxfQ==\n",
        " eyJhIjoxfQ==",
        "eyJhIjoxfR==",  # the same bytes by other bits behind the end
        "eyJhIjoxfQ==eyJhIjoxfQ==",
        "_-A=",  # the alphabet for addresses
        "é",
        "\x00",
        None,
        True,
        1234,
        ["eyJhIjoxfQ=="],
    ],
)
def test_base64_is_spelt_in_one_way(text: object) -> None:
    found = envelope()
    assert opened(found).payload == base64.b64decode(found["payload"]) == b'{"a":1}'
    assert refusal({**found, "payload": text}) is MalformedError
    assert refusal({**found, "signatures": [{"keyid": "x", "sig": text}]}) is MalformedError


@pytest.mark.parametrize(
    "change",
    [
        {"signatures": []},
        {"signatures": [{"keyid": "a", "sig": "AA=="}] * 17},
        {"signatures": {"keyid": "a", "sig": "AA=="}},
        {"signatures": ["AA=="]},
        {"signatures": [{"keyid": "a"}]},
        {"signatures": [{"keyid": "a", "sig": "AA==", "cert": "x"}]},
        {"signatures": None},
        {"more": 1},
        {"payloadType": None},
        {"payloadType": [TYPE]},
    ],
)
def test_another_form_is_refused(change: dict[str, Any]) -> None:
    assert refusal({**envelope(), **change}) is MalformedError


def test_a_key_that_stands_twice_or_is_missing_is_refused() -> None:
    data = dsse.sign(TYPE, b"{}", KEY)
    assert refusal(data.replace(b"{", b'{"payload":"e30=",', 1)) is MalformedError
    for name in ("payload", "payloadType", "signatures"):
        assert refusal({k: v for k, v in envelope().items() if k != name}) is MalformedError
    for junk in (b"", b"[]", b"null", b"\xff", b"[" * 60_000, data + data):
        assert refusal(junk) is MalformedError


def test_an_envelope_has_at_most_64_kib() -> None:
    data = dsse.sign(TYPE, b"{}", KEY)
    padded = data + b" " * (dsse.MAX_ENVELOPE_BYTES - len(data))
    assert opened(padded).payload == b"{}"
    with pytest.raises(MalformedError, match="more than 65536"):
        opened(padded + b" ")
