"""What two readers could read in two ways is refused; what is written has one form."""

import time

import pytest

from appliance.core import wire
from appliance.errors import MalformedError


def test_the_written_form_is_canonical() -> None:
    assert wire.dumps({"b": [1, 2.5, None], "a": "ü"}) == '{"a":"ü","b":[1,2.5,null]}'.encode()


def test_unknown_fields_survive() -> None:
    later = b'{"later":{"x":[]},"v":1}'
    assert wire.dumps(wire.loads(later, what="it")) == later


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"a":1,"a":1}', "'a' stands twice"),
        (b'{"x":[{"a":1,"b":2,"a":3}]}', "'a' stands twice"),
        (b'{"a":NaN}', "NaN is not"),
        (b'{"a":-Infinity}', "-Infinity is not"),
        (b'{"a":1e999}', "beyond a double"),
        (b'{"a":9007199254740992}', "does not survive"),
        (b'{"a":-9007199254740992}', "does not survive"),
        (b'{"a":' + b"9" * 100_000 + b"}", "does not survive"),
        (b'{"a":"\\ud800"}', "surrogates"),
        (b'{"\\udfff":1}', "surrogates"),
        (b'{"a":"\xff"}', "is not strict JSON"),
        (b"\xef\xbb\xbf{}", "is not strict JSON"),
        (b'{"a":' * 100_000, "is not strict JSON"),
        (b"{} {}", "is not strict JSON"),
        (b"", "is not strict JSON"),
        (b"[]", "is not a JSON object"),
        (b"null", "is not a JSON object"),
    ],
)
def test_what_is_not_one_strict_object_is_refused_by_name(data: bytes, says: str) -> None:
    with pytest.raises(MalformedError, match=says) as caught:
        wire.loads(data, what="the letter")
    assert str(caught.value).startswith("the letter is not")
    assert len(str(caught.value)) < 200


def test_the_largest_integers_and_a_whole_surrogate_pair_are_read() -> None:
    data = b'{"a":9007199254740991,"b":-9007199254740991,"c":"\\ud83d\\ude00"}'
    assert wire.loads(data, what="it") == {"a": 2**53 - 1, "b": 1 - 2**53, "c": "\U0001f600"}


def test_what_json_cannot_say_is_not_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        wire.dumps({"a": float("nan")})


def test_a_key_that_stands_twice_among_many_is_found_in_no_time() -> None:
    many = b",".join(b'"%06x":0' % number for number in range(100_000))
    began = time.process_time()
    with pytest.raises(MalformedError, match="'01869f' stands twice"):
        wire.loads(b"{" + many + b',"01869f":0}', what="it")
    assert time.process_time() - began < 5
