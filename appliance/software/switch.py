"""PURE: which controller runs on a node, which ran before, and which is to be tried.

A version is None for the release that is installed on the machine, by a package or by hand; others
lie in ``software/VERSION``. An intent is tried once: it is marked before the try, and no intent
outlives the supervisor that found it, so that whatever a try does to the machine, the next boot
starts what ran before.
"""

from dataclasses import dataclass, replace
from typing import Any

from appliance.core import wire
from appliance.errors import LockedError, MalformedError, NotFoundError, UsageError

INSTALLED = "installed"


@dataclass(frozen=True, slots=True)
class Intent:
    """A version that is to be tried. ``restarts``: engines may be started anew by it."""

    version: str | None
    by: str
    at: str
    restarts: bool = False
    tried: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the newest try ended. ``why`` is empty when it went well."""

    number: int
    wanted: str | None
    before: str | None
    by: str
    why: str = ""

    @property
    def ok(self) -> bool:
        """Whether the wanted version runs now."""
        return not self.why


@dataclass(frozen=True, slots=True)
class Switch:
    """What ``software/switch.json`` says; ``number`` counts outcomes.

    ``installed`` is the version of the package on the machine when this was last looked at.
    """

    current: str | None = None
    previous: str | None = None
    next: Intent | None = None
    last: Outcome | None = None
    number: int = 0
    installed: str = ""

    @property
    def kept(self) -> frozenset[str]:
        """The staged versions that are needed."""
        wanted = None if self.next is None else self.next.version
        return frozenset(v for v in (self.current, self.previous, wanted) if v is not None)

    def dump(self) -> bytes:
        """Return the file's content."""
        return wire.dumps(
            {
                "current": self.current,
                "previous": self.previous,
                "next": None if self.next is None else _fields(self.next),
                "last": None if self.last is None else _fields(self.last),
                "number": self.number,
                "installed": self.installed,
            }
        )

    @classmethod
    def load(cls, data: bytes) -> "Switch":
        """Return what a file says.

        Raises:
            MalformedError: it does not have that form.
        """
        found = wire.loads(data, what="switch.json")
        try:
            return cls(
                current=found["current"],
                previous=found["previous"],
                next=None if found["next"] is None else Intent(**found["next"]),
                last=None if found["last"] is None else Outcome(**found["last"]),
                number=found["number"],
                installed=found["installed"],
            )
        except (KeyError, TypeError) as error:
            raise MalformedError(f"switch.json lacks {error}") from error


def label(version: str | None) -> str:
    """Return how people read a version."""
    return INSTALLED if version is None else version


def ask(switch: Switch, intent: Intent) -> Switch:
    """Have a version tried.

    Raises:
        LockedError: another try is not over.
        UsageError: it runs already.
    """
    if switch.next is not None:
        raise LockedError(
            f"a switch to {label(switch.next.version)} is under way",
            hint="appliance upgrade status",
        )
    if intent.version == switch.current:
        raise UsageError(f"{label(intent.version)} is what runs already")
    return replace(switch, next=intent)


def begin(switch: Switch) -> Switch:
    """Mark the intent as tried; to be made durable before anything is done."""
    return replace(switch, next=replace(_intent(switch), tried=True))


def succeed(switch: Switch) -> Switch:
    """Make the version that was tried the one that runs."""
    wanted = _intent(switch).version
    ended = _ended(switch, "")
    return replace(ended, current=wanted, previous=switch.current)


def fail(switch: Switch, why: str) -> Switch:
    """Drop the intent; what ran before is what runs."""
    return _ended(switch, why)


def recover(switch: Switch, installed: str, *, current_is_whole: bool) -> Switch:
    """Return what to start with when a supervisor starts.

    Args:
        switch: What was written down last.
        installed: The version of the package on this machine.
        current_is_whole: Whether the environment of the version that is to run is there.
    """
    if switch.next is not None:
        when = "during" if switch.next.tried else "before"
        switch = fail(switch, f"the machine or its supervisor went down {when} the try")
    if switch.current is not None and switch.installed not in ("", installed):
        # The last word wins, and it was that of whoever installed another package here.
        switch = replace(switch, current=None, previous=switch.current)
    elif switch.current is not None and not current_is_whole:
        number, why = switch.number + 1, "its environment is gone or was never finished"
        last = Outcome(number, switch.current, None, "supervisor", why)
        switch = replace(switch, current=None, previous=None, last=last, number=number)
    return replace(switch, installed=installed)


def _ended(switch: Switch, why: str) -> Switch:
    intent = _intent(switch)
    number = switch.number + 1
    last = Outcome(number, intent.version, switch.current, intent.by, why)
    return replace(switch, next=None, last=last, number=number)


def _intent(switch: Switch) -> Intent:
    if switch.next is None:
        raise NotFoundError("no switch is under way")
    return switch.next


def _fields(record: Intent | Outcome) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}
