"""Plain data with lines; what YAML can do beyond that is refused. More in test_documents.py."""

import pytest

from appliance.core import yamldoc
from appliance.errors import BadDocumentError


def test_values_come_with_the_lines_that_they_stand_on() -> None:
    (found,) = yamldoc.parse("# a comment\na:\n  - x\n  - {b: 1}\n", "f")
    assert found.data == {"a": ["x", {"b": 1}]}
    assert [found.line(path) for path in [(), ("a",), ("a", 1), ("a", 1, "b")]] == [2, 2, 4, 4]
    assert found.line(("a", 1, "missing", 7)) == 4


def test_plain_values_have_the_types_that_they_look_like() -> None:
    (found,) = yamldoc.parse("{a: 1, b: 1.5, c: true, d: null, e: '1', f: text, 7: x}", "f")
    assert found.data == {
        "a": 1, "b": 1.5, "c": True, "d": None, "e": "1", "f": "text", "7": "x",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "a: !!bool maybe",
        'a: !!int ""',
        'a: !!float ""',
        "a: !!timestamp soon",
        "a: !!str 5",
        "a: !!binary AA==",
        "a: !!python/object/apply:os.system [x]",
        "a: !ours:map {b: 1}",
        "a: !!seq {b: 1}",
        "? !!python/name:os b\n: 1",
        "<<: {a: 1}",
        "a: =",
    ],
)
def test_a_tag_is_refused_whatever_it_makes_of_its_value(text: str) -> None:
    with pytest.raises(BadDocumentError, match=r"^f:1: the tag .* is not allowed"):
        yamldoc.parse(text, "f")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &a [*a]", "nested too deep"),
        ("a: " + "[" * 5000, "nested too deep"),
        ("a: *b", "f:1: not YAML: found undefined alias"),
        ("a: \x07", "f: not YAML"),
        ("a: 0x_", "f:1: invalid literal"),
        ("a: .inf", "f:1: inf is not a number"),
        ("a: .nan", "f:1: nan is not a number"),
        ('a: "\\ud800"', "f:1: .*surrogates not allowed"),
        ('"\\ud800": a', "f:1: .*surrogates not allowed"),
        ("a: " + "9" * 5000, "f:1: Exceeds the limit"),
        ("a: 2026-12-01 00:00:00 -99:00", "f:1: offset must be"),
        ("x" * (yamldoc.MAX_BYTES + 1), "more than a document may have"),
    ],
)
def test_what_would_cost_or_confuse_is_refused(text: str, says: str) -> None:
    with pytest.raises(BadDocumentError, match=says):
        yamldoc.parse(text, "f")
