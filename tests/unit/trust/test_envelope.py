"""Accepting what the hub sends: every check of TRUST, one at a time."""

import datetime
from typing import Any

import pytest

from appliance.core import wire
from appliance.errors import (
    ApplianceError,
    EquivocationError,
    ExpiredError,
    MalformedError,
    ReplayError,
    RevokedError,
    ScopeError,
    SignatureError,
)
from appliance.kit.clock import rfc3339
from appliance.trust import dsse, envelope
from appliance.trust.envelope import Accepted, Addressee, Slot
from appliance.trust.floor import Now
from tests.helpers.signing import ISSUED, new_key

KEY, OTHER = new_key(), new_key()
ME = Addressee("acme", "box-1", "ab" * 32, "0123456789abcdef")
HOUR = datetime.timedelta(hours=1)
TIMES = {"issued": rfc3339(ISSUED), "expires": rfc3339(ISSUED + HOUR)}
GOOD = {**ME.fields(), **TIMES, "gen": 3}


def accept(data: bytes, now: datetime.datetime = ISSUED, *, proven: bool = True) -> Accepted:
    found = envelope.accept(data, Slot.DESIRED, [KEY.public], ME.fields())
    envelope.check_expiry(found, Now(now, proven=proven))
    return found


def sealed(**changes: Any) -> bytes:
    """Return a rightly signed payload in which fields differ; None leaves one out."""
    payload = {k: v for k, v in {**GOOD, **changes}.items() if v is not None}
    return dsse.sign(Slot.DESIRED, wire.dumps(payload), KEY)


def refusal(data: bytes, now: datetime.datetime = ISSUED) -> type[ApplianceError]:
    with pytest.raises(ApplianceError) as caught:
        accept(data, now)
    return type(caught.value)


def test_what_was_sealed_is_accepted() -> None:
    data = envelope.seal(Slot.DESIRED, ME, {"gen": 3}, KEY, issued=ISSUED, lifetime=HOUR)
    found = accept(data)
    assert found.payload == GOOD
    assert found.hash == accept(sealed()).hash
    assert found.hash != accept(sealed(gen=4)).hash


def test_form_type_and_signature_come_first() -> None:
    assert refusal(b" " * (dsse.MAX_ENVELOPE_BYTES + 1)) is MalformedError
    assert refusal(sealed().replace(b"desired", b"ack")) is MalformedError
    for slot in set(Slot) - {Slot.DESIRED}:
        assert refusal(dsse.sign(slot, wire.dumps(GOOD), KEY)) is MalformedError
    assert refusal(dsse.sign(Slot.DESIRED, wire.dumps(GOOD), OTHER)) is SignatureError
    # Not even read before the signature holds:
    assert refusal(dsse.sign(Slot.DESIRED, b"junk", OTHER)) is SignatureError


@pytest.mark.parametrize(
    "payload",
    [
        b"junk",
        b"[]",
        b'{"org":"acme","org":"acme"}',
        b'{"gen":9007199254740992}',
        b'{"gen":NaN}',
        b'{"gen":"\\ud800"}',
    ],
)
def test_what_is_signed_but_no_strict_json_is_refused(payload: bytes) -> None:
    assert refusal(dsse.sign(Slot.DESIRED, payload, KEY)) is MalformedError


@pytest.mark.parametrize("field", list(ME.fields()))
def test_it_must_be_for_this_node_by_all_its_names(field: str) -> None:
    assert refusal(sealed(**{field: "another"})) is ScopeError
    assert refusal(sealed(**{field: None})) is ScopeError
    assert refusal(sealed(**{field: 1})) is ScopeError
    assert refusal(sealed(**{field: "another"}), ISSUED + 2 * HOUR) is ScopeError  # before expiry


def test_it_expires_at_its_time_and_not_before() -> None:
    last = ISSUED + HOUR - datetime.timedelta(milliseconds=1)
    assert accept(sealed(), last).payload == GOOD
    assert refusal(sealed(), ISSUED + HOUR) is ExpiredError
    # A node whose clock is behind is judged by its floor; what it may do then is not decided here.
    assert accept(sealed(), ISSUED - 1000 * HOUR, proven=False).payload == GOOD


@pytest.mark.parametrize(
    "times",
    [
        {"issued": None},
        {"expires": None},
        {"issued": "yesterday"},
        {"expires": "2027-01-01T00:00:00"},
        {"expires": 1_800_000_000},
        {"issued": "0001-01-01T00:00:00+14:00"},
        {"expires": TIMES["issued"]},
        {"issued": TIMES["expires"], "expires": TIMES["issued"]},
    ],
)
def test_times_must_be_there_and_make_sense(times: dict[str, Any]) -> None:
    assert refusal(sealed(**times)) is MalformedError


def test_the_director_s_epoch_is_the_trusted_one() -> None:
    assert envelope.check_director_epoch({"directorEpoch": 2}, 2)
    assert not envelope.check_director_epoch({"directorEpoch": 3}, 2)  # held
    with pytest.raises(RevokedError):
        envelope.check_director_epoch({"directorEpoch": 1}, 2)
    with pytest.raises(MalformedError):
        envelope.check_director_epoch({}, 2)


def test_generations_only_rise_and_one_has_one_content() -> None:
    found = Accepted({}, "aa", "it")
    assert envelope.check_order(8, found, 7, "")
    assert envelope.check_order(70, found, 7, "")  # gaps are lost messages, not errors
    assert not envelope.check_order(7, found, 7, "aa")
    with pytest.raises(EquivocationError):
        envelope.check_order(7, found, 7, "bb")
    with pytest.raises(ReplayError):
        envelope.check_order(6, found, 7, "aa")


@pytest.mark.parametrize("value", [None, "1", 1.0, True, -1, [1]])
def test_a_number_is_whole(value: object) -> None:
    assert envelope.whole({"n": 0}, "n") == 0
    with pytest.raises(MalformedError, match="not a whole number"):
        envelope.whole({"n": value}, "n")
