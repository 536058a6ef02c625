"""One object, watched once and read twice: by who plans, and by who projects the node's words."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from appliance.kube.small import packed, unpacked
from appliance.kube.words.owned import Seen, seen_of

Json = dict[str, Any]
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Watched(Generic[Value]):
    """What a planner reads of an object, None when nothing, and what it says, packed.

    A thousand objects as dictionaries would take more memory than all that is done with them.
    """

    read: Value | None
    namespace: str
    word: bytes
    version: str = field(default="", compare=False)

    def seen(self, namespace: str) -> Seen | None:
        """Return the object as it stands; None of one in another namespace than this."""
        if self.namespace not in ("", namespace):
            return None
        found = unpacked(self.word)
        return Seen(**{**found, "others": frozenset(found["others"])}, version=self.version)


@dataclass(frozen=True, slots=True)
class Watching(Generic[Value]):
    """Reads objects as they arrive, for an informer."""

    reader: Callable[[Json], Value | None]

    def __call__(self, found: Json) -> Watched[Value]:
        """Return what is kept of an object."""
        seen = seen_of(found)
        word = {name: getattr(seen, name) for name in _KEPT} | {"others": sorted(seen.others)}
        namespace = found["metadata"].get("namespace", "")
        return Watched(self.reader(found), namespace, packed(word), seen.version)


_KEPT = ("kind", "name", "uid", "spec", "labels", "annotations", "touched", "scaled", "going")


def unread(_: Json) -> None:
    """Read nothing: only what the object says matters."""


def read_of(found: Mapping[str, Watched[Value]]) -> dict[str, Value]:
    """Return what planners read, of the objects that have something for them."""
    return {key: one.read for key, one in found.items() if one.read is not None}
