"""Many deployments on the nodes of a cluster.

Memory is given out by priority, then by name; within one priority what runs keeps its place before
anything new gets one. So a change of one node's facts never moves a replica that runs and still
fits, but a more important deployment may take the place of a lesser one. A deployment for which not
all replicas have room gets those that have.

What runs also decides the variant: a better one of the same version is chosen for a deployment of
which nothing runs. A newer version takes over once there is room for all of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from appliance.core.documents import ModelDeployment
from appliance.core.model import Replica, Variant
from appliance.core.state import Condition, Truth
from appliance.planner.estimate import estimate
from appliance.planner.place import (
    Decision,
    Place,
    context_too_long,
    goes_on,
    may_run_on,
    replicas_of,
    signed,
)
from appliance.planner.rooms import Need, Room, Rooms, emptiest
from appliance.planner.select import is_asked_for, lacking, model_name

_PRIORITIES = ("critical", "standard", "batch")


@dataclass(slots=True)
class _Spots:
    """Replicas of one variant, each with the node that it is counted on."""

    variant: Variant | None = None
    taken: dict[Replica, str] = field(default_factory=dict)

    def here(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for node in self.taken.values():
            found[node] = found.get(node, 0) + 1
        return found


Asked = tuple[ModelDeployment, int]
"""A document, and how many replicas it should have now."""


def spread(
    asked: Iterable[Asked], places: Sequence[Place], *, slots: int, alive: Mapping[str, str]
) -> dict[str, Decision]:
    """Return a decision for each deployment, by name; see ``decide.decide``."""
    ordered = sorted(asked, key=_turn)
    rooms = Rooms(places)
    found: dict[str, Decision] = {}
    for _, group in groupby(ordered, key=lambda a: a[0].spec.priority):
        placings = [_Placing(rooms, one, slots, alive) for one in group]
        for placing in placings:
            placing.keep()
        for placing in placings:
            found[placing.name] = placing.decide()
    return dict(sorted(found.items()))


def _turn(asked: Asked) -> tuple[int, str]:
    document = asked[0]
    return _PRIORITIES.index(document.spec.priority), document.name


class _Placing:
    """One deployment while its place is found."""

    def __init__(self, rooms: Rooms, asked: Asked, slots: int, alive: Mapping[str, str]) -> None:
        self._rooms = rooms
        self._document, self._wanted = asked
        self._slots = slots
        self._alive = alive
        self.name = self._document.name
        known = rooms.catalogue.get(model_name(self._document), ())
        self._known = [v for v in known if is_asked_for(self._document, v)]
        self._able = [v for v in self._known if context_too_long(self._document, v) is None]
        self._kept = _Spots()

    def keep(self) -> None:
        """Reserve room for what runs and may go on where it runs."""
        for variant in self._able if self._alive else ():
            kept = _Spots(variant)
            for replica in self._replicas(variant, range(self._wanted)):
                node = self._alive.get(replica.revision)
                if node is not None:
                    self._stay(kept, replica, node)
            if kept.taken:
                self._kept = kept
                return

    def _stay(self, kept: _Spots, replica: Replica, node: str) -> None:
        need = Need.of(replica)
        if not node:  # started, and no node has it yet: count it where it may go
            room = emptiest(self._with_room(replica.variant, need), kept.here())
            node = "" if room is None else room.node
        if node and self._rooms.may_stay(replica, node, need):
            self._rooms.by_node[node].take(need)
            kept.taken[replica] = node

    def decide(self) -> Decision:
        """Return what it gets; the rooms know of it then."""
        found = self._place()
        variant = next((s.variant for s in found), None)
        replicas = sorted(
            (r for s in found for r in self._with_nodes(s)), key=lambda r: (len(r.id), r.id)
        )
        conditions = (self._verified(variant), *self._fits(variant, found, len(replicas)))
        return Decision(self.name, variant, tuple(replicas), conditions, self._wanted)

    def _verified(self, variant: Variant | None) -> Condition:
        """Return the condition ``Verified`` of what serves, or would."""
        for replica, node in self._kept.taken.items():
            denied = self._rooms.by_node[node].place.denied
            if replica.variant == variant and replica.variant.manifest in denied:
                return goes_on(denied[replica.variant.manifest])
        if variant is not None:
            return signed(variant)
        for known in self._able or self._known:
            if (denial := self._rooms.denial(known)) is not None:
                return Condition("Verified", Truth.FALSE, denial.reason, denial.message)
        if self._known:
            return signed(self._known[0])
        catalogue = self._rooms.catalogue.get(model_name(self._document), ())
        why = lacking(self._document, catalogue, self._rooms.everything())
        return Condition("Verified", Truth.FALSE, "NotInCatalogue", why)

    def _fits(
        self, variant: Variant | None, spots: Iterable[_Spots], count: int
    ) -> tuple[Condition, ...]:
        """Return the condition ``Fits``, with the arithmetic and what each node says."""
        if variant is None:
            startable = not self._able and self._known
            too_long = context_too_long(self._document, self._known[0]) if startable else None
            return () if too_long is None else (too_long,)
        need = estimate(variant, self._document.spec.context, self._slots)
        one = Need.of(self._replicas(variant, [0])[0])
        sum_up = f"{self._wanted} x ({need.arithmetic()}{_gpus(one)})"
        if count < self._wanted:
            says = self._rooms.describe(self._document, variant, one)
            message = f"{sum_up}: {count} of {self._wanted} have room; {says}"
            return (Condition("Fits", Truth.FALSE, self._lacking(variant, one), message),)
        nodes = sorted({node for s in spots for node in s.taken.values()})
        message = f"{sum_up}: {_on(nodes)}"
        if any(self._rooms.by_node[node].left is None for node in nodes):
            unknown = f"{message}; memory not known"
            return (Condition("Fits", Truth.UNKNOWN, "MemoryNotKnown", unknown),)
        if need.total_bytes is None:
            return (Condition("Fits", Truth.UNKNOWN, "NeedNotKnown", message),)
        return (Condition("Fits", Truth.TRUE, "Fits", message),)

    def _lacking(self, variant: Variant, one: Need) -> str:
        rooms = self._rooms.starts(variant)
        if not rooms:
            return "NoNode"
        has_memory = any(r.left is None or r.left >= one.least_bytes for r in rooms)
        return "NotEnoughGpus" if has_memory else "NotEnoughMemory"

    def _place(self) -> list[_Spots]:
        """Return where all replicas go, what is kept first."""
        kept, numbers = self._kept, range(self._wanted)
        order = self._order()
        self._give_back(kept)
        for at, variant in enumerate(order):
            if variant == kept.variant:
                return self._go_on(order[at + 1 :])
            spots = self._try(variant, numbers)
            if len(spots.taken) == len(numbers):
                return [spots]
            self._give_back(spots)
        return self._most(order, numbers)

    def _go_on(self, others: list[Variant]) -> list[_Spots]:
        """Return what is kept, and more of it; of what must not start any more, others."""
        kept = self._kept
        for replica, node in kept.taken.items():
            self._rooms.by_node[node].take(Need.of(replica))
        known = {replica.id for replica in kept.taken}
        missing = [n for n in range(self._wanted) if f"{self.name}-{n}" not in known]
        assert kept.variant is not None
        if not missing:
            return [kept]
        if self._rooms.denial(kept.variant) is not None:
            return [kept, *self._most(others, missing)]
        more = self._try(kept.variant, missing, kept.here())
        return [_Spots(kept.variant, {**kept.taken, **more.taken})]

    def _most(self, order: list[Variant], numbers: Sequence[int]) -> list[_Spots]:
        """Return the first variant of which the most replicas have room; the last if none has."""
        best: _Spots | None = None
        for variant in order:
            spots = self._try(variant, numbers)
            self._give_back(spots)
            if best is None or not best.taken or len(spots.taken) > len(best.taken):
                best = spots
        if best is None:
            return []
        for replica, node in best.taken.items():
            self._rooms.by_node[node].take(Need.of(replica))
        return [best]

    def _order(self) -> list[Variant]:
        """Return what may start or is kept: newest version first, in it what runs, then quality."""
        kept = self._kept.variant
        able = [v for v in self._able if v == kept or self._rooms.denial(v) is None]
        if kept is None:
            return able
        first = next(at for at, v in enumerate(able) if v.version == kept.version)
        able.remove(kept)
        able.insert(first, kept)
        return able

    def _try(
        self, variant: Variant, numbers: Iterable[int], here: Mapping[str, int] | None = None
    ) -> _Spots:
        """Take room for as many replicas as have it."""
        spots, counts = _Spots(variant), dict(here or {})
        for replica in self._replicas(variant, list(numbers)):
            need = Need.of(replica)
            room = emptiest(self._with_room(variant, need), counts)
            if room is None:
                break
            room.take(need)
            counts[room.node] = counts.get(room.node, 0) + 1
            spots.taken[replica] = room.node
        return spots

    def _give_back(self, spots: _Spots) -> None:
        for replica, node in spots.taken.items():
            self._rooms.by_node[node].give_back(Need.of(replica))

    def _with_room(self, variant: Variant, need: Need) -> list[Room]:
        return [room for room in self._rooms.starts(variant) if not room.why_not(need)]

    def _with_nodes(self, spots: _Spots) -> list[Replica]:
        """Say which nodes may take each replica: its own, and those that have room besides."""
        found = []
        for replica, node in spots.taken.items():
            others = self._with_room(replica.variant, Need.of(replica))
            nodes = {node, *(room.node for room in others)}
            found.append(may_run_on(replica, tuple(sorted(nodes))))
        return found

    def _replicas(self, variant: Variant, numbers: Sequence[int]) -> tuple[Replica, ...]:
        return replicas_of(self._document, variant, self._slots, numbers, in_cluster=True)


def _gpus(one: Need) -> str:
    return f", {one.gpus} GPUs" if one.gpus else ""


def _on(nodes: Sequence[str]) -> str:
    return f"on {', '.join(nodes)}" if nodes else "nothing to place"
