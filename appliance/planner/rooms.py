"""What each node of a cluster holds and has left, while memory is given out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from appliance.core.documents import ModelDeployment
from appliance.core.model import Denial, Replica, Variant
from appliance.core.quantity import format_bytes
from appliance.planner.estimate import estimate
from appliance.planner.place import Place, used_bytes
from appliance.planner.select import quality, version_key

if TYPE_CHECKING:
    from appliance.core.ids import Digest

_NODES_NAMED = 8
"""A message names as many nodes one by one; more are counted."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one replica takes of a node. ``least_bytes`` must be there; ``bytes`` are counted."""

    least_bytes: int
    bytes: int
    gpus: int = 0
    any_gpu: bool = False

    @staticmethod
    def of(replica: Replica) -> "Need":
        """Return the need of a replica."""
        return _need(replica)


@lru_cache(maxsize=8192)
def _need(replica: Replica) -> Need:
    least = estimate(replica.variant, replica.context, replica.slots).known_bytes
    return Need(least, used_bytes(replica), replica.gpus, bool(replica.mig))


class Room:
    """One node while memory is given out; what is not known is never too little."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.node = place.node
        self.left = place.room_bytes
        self.gpus = None if place.gpus is None else len(place.gpus)

    def why_not(self, need: Need) -> str:
        """Return in words what there is too little of; empty when it fits."""
        if self.left is not None and need.least_bytes > self.left:
            return f"has {format_bytes(self.left)} left"
        if self.gpus is not None and (need.gpus > self.gpus or (need.any_gpu and not self.gpus)):
            return f"has {self.gpus} GPUs left" if self.gpus else "has no GPU left"
        return ""

    def take(self, need: Need) -> None:
        """Count a replica in; what is over-committed has nothing left."""
        self._add(-need.bytes, -need.gpus)

    def give_back(self, need: Need) -> None:
        """Undo ``take``."""
        self._add(need.bytes, need.gpus)

    def _add(self, memory: int, gpus: int) -> None:
        self.left = None if self.left is None else self.left + memory
        self.gpus = None if self.gpus is None else self.gpus + gpus


class Rooms:
    """All nodes, and which of them hold what."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.by_node = {p.node: Room(p) for p in sorted(places, key=lambda p: p.node)}
        self.catalogue: dict[str, list[Variant]] = {}
        self._holders: dict[Digest, list[Room]] = {}
        for room in self.by_node.values():
            for variant in room.place.variants:
                holders = self._holders.setdefault(variant.manifest, [])
                if not holders:
                    self.catalogue.setdefault(variant.model, []).append(variant)
                holders.append(room)
        for known in self.catalogue.values():
            known.sort(key=quality)
            known.sort(key=lambda v: version_key(v.version), reverse=True)

    def everything(self) -> Iterator[Variant]:
        """Return all variants, for words."""
        return (v for known in self.catalogue.values() for v in known)

    def starts(self, variant: Variant) -> list[Room]:
        """Return where a variant may be started, room or not."""
        return [
            room
            for room in self._holders.get(variant.manifest, ())
            if room.place.schedulable and variant.manifest not in room.place.denied
        ]

    def denial(self, variant: Variant) -> Denial | None:
        """Return why no node may start a variant; None when one may, were it schedulable."""
        found = [
            room.place.denied.get(variant.manifest)
            for room in self._holders.get(variant.manifest, ())
        ]
        return None if None in found or not found else found[0]

    def may_stay(self, replica: Replica, node: str, need: Need) -> bool:
        """Whether what runs on a node may go on there: it holds it, and there is room."""
        room = self.by_node.get(node)
        if room is None or room not in self._holders.get(replica.variant.manifest, ()):
            return False
        denial = room.place.denied.get(replica.variant.manifest)
        return not (denial is not None and denial.stop) and not room.why_not(need)

    def describe(self, deployment: ModelDeployment, variant: Variant, need: Need) -> str:
        """Return in words what each node says to one more replica of this kind."""
        holders = self._holders.get(variant.manifest, [])
        parts = [f"{room.node} {_says(room, variant, need)}" for room in holders[:_NODES_NAMED]]
        if more := len(holders) - len(parts):
            parts.append(f"{more} more hold it")
        if others := len(self.by_node) - len(holders):
            parts.append(f"{others} {'node does' if others == 1 else 'nodes do'} not hold it")
        return "; ".join(parts) or f"no node is known that could take {deployment.name}"


def _says(room: Room, variant: Variant, need: Need) -> str:
    if not room.place.schedulable:
        return "takes no new work"
    if (denial := room.place.denied.get(variant.manifest)) is not None:
        return f"must not start it ({denial.reason})"
    return room.why_not(need) or f"has {format_bytes(room.left)} left"


def emptiest(rooms: Iterable[Room], here: dict[str, int]) -> Room | None:
    """Return where the next replica goes: spread first, then most memory, then by name.

    Memory that is not known comes last: it may be little.
    """
    return min(
        rooms,
        key=lambda r: (here.get(r.node, 0), -1 * (-1 if r.left is None else r.left), r.node),
        default=None,
    )
