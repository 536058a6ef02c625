"""How a defence is switched off: one function or one constant, replaced.

``instead`` is given the original and returns what stands in its place: the same but for the one
thing that the defence is about. It takes the refusal back, or repairs what would be complained of.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.errors import ApplianceError

MUCH = 1 << 26
"""More than any attack has: buffers of this size are made."""


Place = tuple[Any, str]
"""A module or a class, and the name of a function in it."""


@dataclass(frozen=True, eq=False)
class Defence:
    """What it checks, what is replaced to switch it off, and what stands there then.

    ``at`` is where it complains, when that is another place than what is replaced, or when
    complaining is all that the replacement leaves out.
    """

    what: str
    owner: Any
    name: str
    instead: Callable[[Any], Any]
    at: tuple[Place, ...] = ()

    @property
    def where(self) -> str:
        """Return the function that complains, as one would search for it."""
        owner, name = self.at[0] if self.at else (self.owner, self.name)
        is_class = isinstance(owner, type)
        module = owner.__module__ if is_class else owner.__name__
        return f"{module}: {owner.__name__}.{name}" if is_class else f"{module}: {name}"

    @property
    def is_seen(self) -> bool:
        """Whether one can see when it matters; who reads a constant, one cannot."""
        return bool(self.at) or callable(getattr(self.owner, self.name))

    def watch(self, patch: pytest.MonkeyPatch, matters: Callable[[], object]) -> None:
        """Have ``matters`` called whenever another thing would happen if it were off."""
        for owner, name in self.at or ((self.owner, self.name),):
            patch.setattr(owner, name, self._watched(getattr(owner, name), matters))

    def _watched(self, original: Any, matters: Callable[[], object]) -> Any:
        def watched(*args: Any, **kwargs: Any) -> Any:
            try:
                result = original(*args, **kwargs)
            except BaseException:
                matters()
                raise
            is_check = isinstance(self.instead, Check) and self.instead.is_content_with(result)
            if not self.at and not is_check:
                matters()
            return result

        return watched

    def switch_off(self, patch: pytest.MonkeyPatch) -> None:
        """Switch it off until ``patch`` is undone."""
        if isinstance(self.owner, dict):
            patch.setitem(self.owner, self.name, self.instead(self.owner[self.name]))
        else:
            new = self.instead(getattr(self.owner, self.name))
            patch.setattr(self.owner, self.name, new)


class Check:
    """What stands for a function that only looks and complains: it answers, and complains less."""

    def __init__(self, answer: object = None, *, only: str | None = None) -> None:
        """``only``: call the original, and take back no other complaint than the one that says so.

        Without it, ``answer`` is all that is left of the function.
        """
        self._answer = answer
        self._only = only

    def is_content_with(self, result: object) -> bool:
        """Whether this result of the original is what would have come without it."""
        return self._only is not None or result is self._answer

    def __call__(self, original: Any) -> Any:
        def checked(*args: Any, **kwargs: Any) -> Any:
            if self._only is None:
                return self._answer
            try:
                return original(*args, **kwargs)
            except ApplianceError as error:
                if self._only in error.what:
                    return self._answer
                raise

        return checked


def passing(answer: object = None) -> Check:
    """Return what stands for a check: it finds nothing wrong."""
    return Check(answer)


def forgiving(text: str, answer: object = None) -> Check:
    """Return the same check, which takes back the refusal that says ``text``."""
    return Check(answer, only=text)


def doing_nothing(answer: object = None) -> Callable[[Any], Any]:
    """Return what stands for a function that has an effect."""
    return lambda _: lambda *_a, **_k: answer


def being(value: object) -> Callable[[Any], Any]:
    """Return what stands for a constant."""
    return lambda _: value


def repairing(change: Callable[[dict[str, Any]], object]) -> Callable[[Any], Any]:
    """Return a reader of JSON that repairs what it read before anybody can complain."""

    def instead(original: Any) -> Any:
        def loads(data: bytes, *, what: str) -> dict[str, Any]:
            found: dict[str, Any] = original.loads(data, what=what)
            change(found)
            return found

        return SimpleNamespace(loads=loads, dumps=original.dumps)

    return instead


class _Anything(str):
    """Equal to every text."""

    __slots__ = ()

    def __eq__(self, _: object) -> bool:
        return True

    def __ne__(self, _: object) -> bool:
        return False

    __hash__ = str.__hash__


ANYTHING = _Anything()
