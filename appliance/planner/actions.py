"""Desired against observed: an ordered list of actions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from appliance.core.model import Replica
from appliance.core.state import ObservedReplica, Phase


@dataclass(frozen=True, slots=True)
class Stop:
    """End a replica that nobody wants in this form any more."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Start:
    """Bring a replica up, and keep it up."""

    replica: Replica
    reason: str


Action = Stop | Start


def plan(
    wanted: Iterable[Replica],
    running: Mapping[str, ObservedReplica],
    leave: Mapping[str, str] = MappingProxyType({}),
) -> list[Action]:
    """Return the next actions; an empty list means there is nothing to do.

    Stops come first, so that memory is free before anything starts. A replica that is wanted in
    another form is only stopped: it starts on a later pass, once it is seen to be gone. A replica
    that crashed is its driver's business, which restarts it with backoff.

    Args:
        wanted: What should run.
        running: What does.
        leave: What must be stopped where it is, although it is wanted, and why: its GPU is fenced.
    """
    wanted_by_id = {replica.id: replica for replica in wanted}
    actions: list[Action] = []
    for seen in running.values():
        if seen.phase is Phase.STOPPING:
            continue
        target = wanted_by_id.get(seen.id)
        if target is None:
            actions.append(Stop(seen.id, "no longer wanted"))
        elif target.revision != seen.revision:
            actions.append(Stop(seen.id, f"wanted as {target.revision}, runs as {seen.revision}"))
        elif seen.id in leave:
            actions.append(Stop(seen.id, leave[seen.id]))
    actions.extend(
        Start(replica, "wanted, and not running")
        for replica in wanted_by_id.values()
        if replica.id not in running
    )
    return actions
