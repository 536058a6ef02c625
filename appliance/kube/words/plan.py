"""What a projection is planned from and what a plan says. Pure; rules are in ``projection``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from appliance.core.mirror import Asked, Key, Mirrored
from appliance.core.state import Origin
from appliance.kube.words.owned import Difference, Json, Seen


class TakeOver(StrEnum):
    """When the fleet takes what somebody here made or edited: KubeFleet's three answers."""

    NEVER = "never"
    IF_NO_DIFF = "if-no-diff"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class Word:
    """What somebody wants of one object: a document as plain JSON, and who says so."""

    owner: Origin
    document: dict[str, Any]
    generation: int = 0

    @property
    def spec(self) -> Json:
        found: Json = self.document.get("spec") or {}
        return found


@dataclass(frozen=True, slots=True)
class View:
    """All that a plan is made from.

    ``words`` are in force; ``fleet`` are all of the fleet's, also those that a local word covers;
    ``removed`` are those of the fleet that local staff took away.
    """

    node: str
    epoch: int
    policy: TakeOver
    words: Mapping[Key, Word] = field(default_factory=dict)
    fleet: Mapping[Key, Word] = field(default_factory=dict)
    removed: frozenset[Key] = frozenset()
    seen: Mapping[Key, Seen] = field(default_factory=dict)
    rows: Mapping[Key, Mirrored] = field(default_factory=dict)
    asked: Mapping[Key, Asked] = field(default_factory=dict)


# --- what a plan says ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Put:
    """Make an object, or change it, by server-side apply.

    ``before`` is what it was planned on: when something else stands there, it is not done.
    ``remove`` is a merge patch of what must go first; ``row`` is remembered before, without a uid.
    """

    row: Mirrored
    body: Json
    manager: str
    reason: str
    before: Seen | None = None
    remove: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Remake:
    """Make an object anew, as it was, that a lost datastore held."""

    row: Mirrored
    body: Json
    manager: str
    reason: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete this very object; ``row`` is remembered before, without a uid, if it was ours."""

    key: Key
    uid: str
    reason: str
    row: Mirrored | None = None


@dataclass(frozen=True, slots=True)
class Keep:
    """Remember an object as it stands."""

    row: Mirrored


@dataclass(frozen=True, slots=True)
class Drop:
    """Remember an object no more."""

    key: Key


@dataclass(frozen=True, slots=True)
class TakenAway:
    """Somebody deleted with kubectl what this node projected: note it as a local word."""

    key: Key
    fleet_asks: bool


@dataclass(frozen=True, slots=True)
class Heard:
    """What local staff asked for has come true, or can no longer."""

    wish: Asked


Step = Put | Remake | Remove | Keep | Drop | TakenAway | Heard


@dataclass(frozen=True, slots=True)
class Finding:
    """What people and the hub should know about one object."""

    kind: str
    name: str
    reason: str
    message: str
    fields: tuple[Difference, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in order, and what was found. Steps of one object do not depend on another's."""

    steps: tuple[Step, ...]
    findings: tuple[Finding, ...]
