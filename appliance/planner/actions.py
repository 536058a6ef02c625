"""Desired against observed: an ordered list of actions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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


def plan(wanted: Iterable[Replica], running: Mapping[str, ObservedReplica]) -> list[Action]:
    """Return the next actions; an empty list means there is nothing to do.

    Stops come first, so that memory is free before anything starts. A replica that is wanted in
    another form, or on another node, is only stopped: it starts on a later pass, once it is seen to
    be gone. A replica that crashed is its driver's business, which restarts it with backoff.
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
        elif seen.node and target.nodes and seen.node not in target.nodes:
            actions.append(Stop(seen.id, f"{seen.node} may not run it any more"))
    actions.extend(
        Start(replica, "wanted, and not running")
        for replica in wanted_by_id.values()
        if replica.id not in running
    )
    return actions
