"""What a hub may command: verbs, their arguments, and how one ends. Pure.

A command names something that this release can do, with plain values; nothing in it is ever run as
a program or taken as a path.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from types import MappingProxyType
from typing import Any

from appliance.core import ids
from appliance.errors import MalformedError, ScopeError

MOST_LINES = 400
MOST_REASON = 200
MOST_MINUTES = 90 * 24 * 60
"""A hold that nobody renews ends after three months at the latest."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Verb(StrEnum):
    """All that can be commanded."""

    COLLECT = "collect-diagnostics"
    RESTART = "restart-engine"
    GOLDEN = "run-golden-prompts"
    HOLD = "hold"


class State(StrEnum):
    """Where a command stands. ``unknown``: the node was stopped before it could say."""

    WAITING = "waiting"
    STARTED = "started"
    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"
    REFUSED = "refused"


ENDED = (State.DONE, State.FAILED, State.UNKNOWN, State.REFUSED)


@dataclass(frozen=True, slots=True)
class Command:
    """A command whose arguments make sense; ``counter`` grows for ever, and is its id too."""

    counter: int
    verb: Verb
    args: Mapping[str, Any]

    @property
    def id(self) -> str:
        """What its topics and files are called by."""
        return str(self.counter)


@dataclass(frozen=True, slots=True)
class Golden:
    """A prompt whose answer at temperature 0 is compared; it says nothing of anybody."""

    id: str
    prompt: str
    tokens: int


GOLDEN = (
    Golden("count", "Count from one to ten in words, with commas between.", 32),
    Golden("capital", "What is the capital of France? Answer with one word.", 8),
    Golden("list", "Name the days of the week, one on each line.", 48),
)
"""What ``run-golden-prompts`` asks; changing one makes old answers incomparable."""


def check(verb: object, args: object, allowed: Collection[str]) -> tuple[Verb, Mapping[str, Any]]:
    """Step 9: return a command's verb and arguments when they make sense and are allowed.

    Args:
        verb: As it came.
        args: As they came: a mapping, or None for none.
        allowed: The verbs that both the director's document and this site permit.

    Raises:
        MalformedError: no such verb, or its arguments have not the form they must have.
        ScopeError: the verb is not permitted.
    """
    try:
        found = Verb(str(verb))
    except ValueError:
        raise MalformedError(f"there is no verb {str(verb)[:60]!r}; {_known()}") from None
    if found not in allowed:
        permitted = ", ".join(sorted(allowed)) or "none"
        raise ScopeError(f"the verb {found} is not permitted here; permitted: {permitted}")
    given = {} if args is None else args
    if not isinstance(given, dict):
        raise MalformedError(f"the arguments of {found} are not an object")
    rules, required = _ARGUMENTS[found]
    for name in required:
        if name not in given:
            raise MalformedError(f"{found} needs the argument {name}")
    for name, value in given.items():
        rule = rules.get(name)
        if rule is None:
            raise MalformedError(f"{found} knows no argument {str(name)[:60]!r}")
        if not rule.holds(value):
            raise MalformedError(f"{found}: the argument {name} is not {rule.allows}")
    return found, MappingProxyType(dict(given))


def allowed(director: Collection[str], site: str) -> frozenset[str]:
    """Return the verbs that both permit; ``site`` is the setting, verbs with commas between."""
    here = {word.strip() for word in site.split(",")}
    return frozenset(director) & here


def from_text(texts: Mapping[str, str]) -> dict[str, Any]:
    """Return arguments as a person typed them; ``expect.count`` is a field of ``expect``."""
    found: dict[str, Any] = {}
    for name, text in texts.items():
        outer, dot, inner = name.partition(".")
        if dot:
            found.setdefault(outer, {})[inner] = text
        else:
            found[name] = int(text) if name in _NUMBERS and text.isdecimal() else text
    return found


def _known() -> str:
    return "there are: " + ", ".join(Verb)


def _name(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(ids.name(value))
    except ValueError:
        return False


def _reason(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value.strip()) <= MOST_REASON and value.isprintable()


def _is_whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _expected(value: object) -> bool:
    known = {golden.id for golden in GOLDEN}
    return isinstance(value, dict) and all(
        name in known and isinstance(found, str) and _SHA256.fullmatch(found) is not None
        for name, found in value.items()
    )


@dataclass(frozen=True, slots=True)
class _Rule:
    """What an argument may be, as a check and in words that follow "is not"."""

    holds: Callable[[object], bool]
    allows: str


_Rules = Mapping[str, _Rule]
_NUMBERS = ("lines", "minutes")


def _whole(least: int, most: int) -> _Rule:
    check = partial(_is_whole, least=least, most=most)
    return _Rule(check, f"a whole number from {least} to {most}")


_DEPLOYMENT = _Rule(_name, "the name of a deployment")
_EXPECT = _Rule(
    _expected,
    f"one SHA-256 in hex for each of {', '.join(g.id for g in GOLDEN)}, or for some of them",
)
_REASON = _Rule(_reason, f"a text of 1 to {MOST_REASON} characters that can be shown")
_ARGUMENTS: Mapping[Verb, tuple[_Rules, tuple[str, ...]]] = {
    Verb.COLLECT: ({"lines": _whole(0, MOST_LINES)}, ()),
    Verb.RESTART: ({"deployment": _DEPLOYMENT}, ("deployment",)),
    Verb.GOLDEN: ({"deployment": _DEPLOYMENT, "expect": _EXPECT}, ("deployment",)),
    Verb.HOLD: (
        {"deployment": _DEPLOYMENT, "reason": _REASON, "minutes": _whole(1, MOST_MINUTES)},
        ("deployment", "reason"),
    ),
}
