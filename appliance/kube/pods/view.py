"""What the driver reads: what the watches told, and its own writes until they tell of those."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from appliance.kit.clock import Clock
from appliance.kube.pods.seen import PodSeen, Seen
from appliance.kube.resources import PODS, Resource

_BELIEVED_S = 5.0
"""How long an answer to a write counts without a word from the watch. Then it is looked up."""


class Source(Protocol):
    """Objects of one kind, by ``namespace/name``: an informer."""

    def items(self) -> Mapping[str, Seen]:
        """Return all there are."""

    def get(self, key: str) -> Seen | None:
        """Return one."""


class PodSource(Protocol):
    """The same for pods."""

    def items(self) -> Mapping[str, PodSeen]:
        """Return all there are."""


@dataclass(frozen=True, slots=True)
class _Own:
    seen: Seen | None
    until: float


class View:
    """The engines' namespace, as far as it is ours. Memory only."""

    def __init__(
        self, namespace: str, sources: Mapping[Resource, Source], pods: PodSource, clock: Clock
    ) -> None:
        self._namespace = namespace
        self._sources = sources
        self._pods = pods
        self._clock = clock
        self._own: dict[tuple[Resource, str], _Own] = {}
        self._by_replica: dict[str, list[PodSeen]] | None = None

    @property
    def kinds(self) -> list[Resource]:
        """The kinds that there are here, pods aside."""
        return list(self._sources)

    def heard(self, what: Resource, key: str) -> None:
        """Take note that a watch told of an object."""
        if what is PODS:
            self._by_replica = None
        else:
            self._own.pop((what, key.rpartition("/")[2]), None)

    def wrote(self, what: Resource, name: str, found: Seen | None) -> None:
        """Take note of an answer to a write; None: it is deleted."""
        self._own[what, name] = _Own(found, self._clock.monotonic() + _BELIEVED_S)

    def get(self, what: Resource, name: str) -> Seen | None:
        """Return an object, or None when there is none that we know of."""
        own = self._own.get((what, name))
        if own is not None:
            if own.until > self._clock.monotonic():
                return own.seen
            del self._own[what, name]
        return self._sources[what].get(f"{self._namespace}/{name}")

    def all(self, what: Resource) -> Iterator[Seen]:
        """Yield the objects of one kind."""
        names = {key.rpartition("/")[2] for key in self._sources[what].items()}
        names |= {name for kind, name in self._own if kind is what}
        for name in sorted(names):
            if (found := self.get(what, name)) is not None:
                yield found

    def pods(self, replica: str) -> list[PodSeen]:
        """Return a replica's pods, without those of which nothing runs any more."""
        return self.pods_by_replica().get(replica, [])

    def pods_by_replica(self) -> Mapping[str, list[PodSeen]]:
        """Return the same for all replicas."""
        if self._by_replica is None:
            self._by_replica = {}
            for pod in (p for p in self._pods.items().values() if not p.is_gone):
                self._by_replica.setdefault(pod.replica, []).append(pod)
        return self._by_replica

    @property
    def waits_for_news(self) -> bool:
        """Whether a write was not yet seen by a watch."""
        return bool(self._own)
