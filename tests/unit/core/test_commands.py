"""Commands: which verbs there are, what they take, and who permits them."""

from typing import Any

import pytest

from appliance.core import commands
from appliance.core.commands import Command, Verb
from appliance.errors import MalformedError, ScopeError

ALL = frozenset(Verb)


@pytest.mark.parametrize(
    ("verb", "args"),
    [
        ("collect-diagnostics", None),
        ("collect-diagnostics", {"lines": 0}),
        ("collect-diagnostics", {"lines": 400}),
        ("restart-engine", {"deployment": "a"}),
        ("run-golden-prompts", {"deployment": "a", "expect": {"count": "0" * 64}}),
        ("hold", {"deployment": "a", "reason": "audit week", "minutes": 1}),
    ],
)
def test_what_makes_sense_passes(verb: str, args: dict[str, Any] | None) -> None:
    found, given = commands.check(verb, args, ALL)
    assert (found, dict(given)) == (Verb(verb), args or {})


@pytest.mark.parametrize(
    ("verb", "args"),
    [
        ("reboot", {}),
        (None, {}),
        (["hold"], {}),
        ("collect-diagnostics", []),
        ("collect-diagnostics", {"lines": 401}),
        ("collect-diagnostics", {"lines": True}),
        ("collect-diagnostics", {"path": "/etc/shadow"}),
        ("restart-engine", {}),
        ("restart-engine", {"deployment": "../a"}),
        ("restart-engine", {"deployment": ["a"]}),
        ("run-golden-prompts", {"deployment": "a", "expect": {"count": "no hash"}}),
        ("run-golden-prompts", {"deployment": "a", "expect": {"other": "0" * 64}}),
        ("hold", {"deployment": "a"}),
        ("hold", {"deployment": "a", "reason": " "}),
        ("hold", {"deployment": "a", "reason": "x" * 201}),
        ("hold", {"deployment": "a", "reason": "bell\a"}),
        ("hold", {"deployment": "a", "reason": "why", "minutes": 0}),
    ],
)
def test_what_makes_none_is_malformed(verb: Any, args: Any) -> None:
    with pytest.raises(MalformedError):
        commands.check(verb, args, ALL)


@pytest.mark.parametrize(
    ("verb", "args", "allowed"),
    [
        ("collect-diagnostics", {"lines": 9999}, "lines is not a whole number from 0 to 400"),
        ("restart-engine", {"deployment": "../a"}, "deployment is not the name of a deployment"),
        ("run-golden-prompts", {"deployment": "a", "expect": 1}, "one SHA-256 in hex for each of"),
        ("hold", {"deployment": "a", "reason": ""}, "reason is not a text of 1 to 200 characters"),
        ("hold", {"deployment": "a", "reason": "x", "minutes": 0}, "from 1 to 129600"),
    ],
)
def test_what_is_refused_says_what_is_allowed(verb: str, args: Any, allowed: str) -> None:
    with pytest.raises(MalformedError, match=allowed):
        commands.check(verb, args, ALL)


def test_a_verb_needs_the_directors_word_and_the_sites() -> None:
    both = commands.allowed(["hold", "restart-engine"], "restart-engine, collect-diagnostics")
    assert both == {"restart-engine"}
    commands.check("restart-engine", {"deployment": "a"}, both)
    for verb in ("hold", "collect-diagnostics"):
        with pytest.raises(ScopeError, match="permitted: restart-engine"):
            commands.check(verb, {}, both)
    assert commands.allowed([], ", ".join(Verb)) == frozenset()
    assert commands.allowed(list(Verb), "") == frozenset()


def test_arguments_are_read_as_people_type_them() -> None:
    typed = {"deployment": "7", "lines": "30", "expect.count": "ab", "expect.list": "cd"}
    expected = {"deployment": "7", "lines": 30, "expect": {"count": "ab", "list": "cd"}}
    assert commands.from_text(typed) == expected


def test_a_command_is_called_by_its_counter() -> None:
    assert Command(17, Verb.HOLD, {}).id == "17"
