"""A token for enrolment: what it says, and what it does not."""

import pytest

from appliance.errors import UsageError
from appliance.trust.enrolment import EnrolmentToken

HASH = "ab" * 32


def test_a_token_is_the_same_after_it_was_carried_as_text() -> None:
    made = EnrolmentToken.create(HASH)
    read = EnrolmentToken.parse(made.text)
    assert read == made
    assert (read.authority, read.id) == (HASH, made.id)
    assert read.key.public == made.key.public
    assert len(made.secret) == 16


def test_each_token_is_another() -> None:
    one, two = EnrolmentToken.create(HASH), EnrolmentToken.create(HASH)
    assert one.secret != two.secret
    assert one.id != two.id
    assert one.key.public != two.key.public


def test_what_the_hub_keeps_of_a_token_does_not_hold_its_secret() -> None:
    made = EnrolmentToken.create(HASH)
    for kept in (made.id, made.key.public, repr(made)):
        assert made.secret.hex() not in kept
        assert made.text not in kept


@pytest.mark.parametrize("change", ["cut", "longer", "other", "empty", "space"])
def test_what_is_no_token_is_refused_and_not_shown(change: str) -> None:
    text = EnrolmentToken.create(HASH).text
    changed = {
        "cut": text[:-1], "longer": text + "A", "other": "ea2" + text[3:], "empty": "",
        "space": text[:10] + " " + text[11:],
    }[change]  # fmt: skip
    with pytest.raises(UsageError) as caught:
        EnrolmentToken.parse(changed)
    assert not changed or changed not in caught.value.what
