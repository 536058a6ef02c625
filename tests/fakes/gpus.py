"""A GPU driver without GPUs: what it sees is what the test says. One contract with the real one."""

from collections.abc import Callable
from dataclasses import dataclass, field

from appliance.core.machine import GpuHealth, GpuSeen
from appliance.errors import ApplianceError


@dataclass
class FakeWatch:
    """Hears of the XID errors that a test makes up."""

    tell: Callable[[str, int], None]
    driver: "FakeGpus"
    watched: frozenset[str] = frozenset()
    note: str = "XID errors are not watched"

    def start(self) -> None:
        if self.driver.hears:
            self.watched = frozenset(self.driver.there)
            self.note = f"XID errors of {len(self.watched)} GPUs are watched"

    def stop(self) -> None:
        self.watched = frozenset()


@dataclass
class FakeGpus:
    """Three ways to be bad: ``lost``, taken out of ``there``, ``silent`` about everything."""

    there: list[str] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)
    unnamed: int = 0
    silent: bool = False
    hears: bool = True
    using: dict[str, frozenset[int] | None] = field(default_factory=dict)
    resets: list[str] = field(default_factory=list)
    refuses: str = ""
    watch: FakeWatch | None = None

    def health(self) -> GpuHealth:
        if self.silent:
            return GpuHealth(None, "the NVIDIA driver fails: Unknown Error")
        found: list[str | None] = [*self.there, *[None] * self.unnamed]
        seen = (GpuSeen(i, u, f"Fake {u}", u in self.lost) for i, u in enumerate(found))
        return GpuHealth(tuple(seen), f"the NVIDIA driver sees {len(found)}")

    def processes(self) -> dict[str, frozenset[int] | None]:
        here = {} if self.silent else dict.fromkeys(self.there, frozenset[int]())
        return {**here, **self.using}

    def reset(self, uuid: str) -> None:
        assert self.watch is not None
        assert not self.watch.watched, "somebody still holds the driver"
        if self.refuses:
            raise ApplianceError(self.refuses)
        self.resets.append(uuid)

    def XidWatch(self, tell: Callable[[str, int], None], _: Callable[[], None]) -> FakeWatch:
        self.watch = FakeWatch(tell, self)
        return self.watch
