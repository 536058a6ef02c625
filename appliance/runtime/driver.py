"""What the controller needs of whatever runs engines, promises included."""

from collections.abc import Callable, Mapping
from typing import Protocol

from appliance.core.model import Replica
from appliance.core.state import ObservedReplica


class Driver(Protocol):
    """Runs replicas. One contract suite holds for every driver."""

    honours: frozenset[str]
    """Fields of a ModelDeployment's spec that it acts on, besides those that every driver does."""

    async def open(self, changed: Callable[[], None]) -> None:
        """Take over what already runs, then call ``changed`` whenever ``observe`` would differ.

        An engine that an earlier controller started is adopted, not started again.
        """

    async def start(self, replica: Replica) -> None:
        """Bring ``replica`` up and keep it up until ``stop``, restarting it with backoff.

        Returns at once. Starting one that already runs in the same revision is not an error;
        in another revision it changes nothing: stop it first.

        Raises:
            EngineError: nothing installed here can run it.
        """

    async def stop(self, replica_id: str) -> None:
        """End a replica: no new requests, then a grace period for running ones, then its end.

        Returns at once; the replica is observed as stopping until it is gone. Stopping one that
        does not run is not an error.
        """

    def observe(self) -> Mapping[str, ObservedReplica]:
        """Return every replica, by id. Reads memory only, never waits."""

    async def close(self) -> None:
        """Let go of everything and leave it running."""
