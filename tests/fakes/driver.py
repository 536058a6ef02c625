"""A driver that runs nothing and keeps every promise of ``appliance.runtime.driver.Driver``."""

import asyncio
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace

from appliance.core.model import Replica
from appliance.core.state import ObservedReplica, Phase
from appliance.errors import EngineError


class FakeDriver:
    """``world`` is what runs: it outlives the driver, and the next one adopts it.

    With ``by_itself`` an engine that was started becomes ready, one that was stopped ends and one
    that crashed comes back, each in a later turn of the event loop. Without it the test says when:
    ``become_ready``, ``end``, ``crash``.
    """

    honours: frozenset[str] = frozenset()

    def __init__(self, world: dict[str, Replica] | None = None, *, by_itself: bool = True) -> None:
        self.world = {} if world is None else world
        self.refusals: dict[str, str] = {}
        """Why a replica cannot be started here, by its id."""
        self.started: list[str] = []
        self._by_itself = by_itself
        self._seen: dict[str, ObservedReplica] = {}
        self._changed: Callable[[], None] = lambda: None
        self._is_open = False

    async def open(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._is_open = True
        for replica in self.world.values():
            self._seen[replica.id] = _starting(replica)
            self.become_ready(replica.id)

    async def start(self, replica: Replica) -> None:
        if replica.id in self._seen:
            return
        if replica.id in self.refusals:
            raise EngineError(self.refusals[replica.id])
        self.started.append(replica.id)
        self.world[replica.id] = replica
        self._see(_starting(replica))
        self._later(self.become_ready, replica.id)

    async def stop(self, replica_id: str) -> None:
        seen = self._seen.get(replica_id)
        if seen is not None and seen.phase is not Phase.STOPPING:
            self._see(replace(seen, phase=Phase.STOPPING, message="stopping", retry_in_s=None))
            self._later(self.end, replica_id)

    def observe(self) -> Mapping[str, ObservedReplica]:
        return dict(self._seen)

    async def close(self) -> None:
        self._is_open = False
        self._seen.clear()

    def become_ready(self, replica_id: str, endpoint: str = "") -> None:
        """Let an engine answer, at the path ``endpoint`` of a Unix socket."""
        seen = self._seen[replica_id]
        if seen.phase is not Phase.STOPPING:
            pid = 1000 + zlib.crc32(replica_id.encode()) % 30_000 + seen.restarts
            self._see(
                replace(
                    seen, phase=Phase.READY, message="ready", failures=0, retry_in_s=None, pid=pid,
                    endpoint=endpoint or f"/run/e/{replica_id}.sock", log_tail=(),
                )
            )  # fmt: skip

    def crash(self, replica_id: str, why: str = "was ended by SIGKILL") -> None:
        """Let an engine end by itself; its driver waits before it starts it again."""
        seen = self._seen[replica_id]
        if seen.phase is Phase.STOPPING:
            self.end(replica_id)
            return
        self._see(
            replace(
                seen, phase=Phase.BACKOFF, message=f"{replica_id} {why}", endpoint=None, pid=None,
                restarts=seen.restarts + 1, failures=seen.failures + 1, retry_in_s=0.5,
                log_tail=(why,),
            )
        )  # fmt: skip
        self._later(self.become_ready, replica_id)

    def end(self, replica_id: str) -> None:
        """Let an engine that was stopped be gone."""
        del self._seen[replica_id], self.world[replica_id]
        self._changed()

    def _see(self, seen: ObservedReplica) -> None:
        self._seen[seen.id] = seen
        self._changed()

    def _later(self, step: Callable[[str], None], replica_id: str) -> None:
        def take() -> None:
            if self._is_open and replica_id in self._seen:
                step(replica_id)

        if self._by_itself:
            asyncio.get_running_loop().call_soon(take)


def _starting(replica: Replica) -> ObservedReplica:
    return ObservedReplica(
        replica.id, replica.deployment, replica.revision, Phase.STARTING, message="starting",
        node=replica.nodes[0] if replica.nodes else "",
    )  # fmt: skip
