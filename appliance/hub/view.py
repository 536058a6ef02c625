"""What a person sees of a node. Pure.

Ready is only what the node itself signed a short while ago; a node that has not been heard is
stale, whatever it said last. A node that signs nonsense harms the view of nobody else.
"""

import datetime
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from appliance.core.quantity import format_duration
from appliance.hub.store import NodeRow
from appliance.kit.clock import parse_rfc3339

STALE_AFTER_HEARTBEATS = 3


class State(StrEnum):
    """How a node is."""

    READY = "ready"
    DEGRADED = "degraded"
    STALE = "stale"
    SUSPECT = "suspect"
    NEVER_HEARD = "never heard"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class NodeView:
    """One line of the node list."""

    node: str
    state: State
    why: str
    heard_at: str | None
    generation: int | None
    applied: int | None
    drift: dict[str, str]
    deployments: list[dict[str, Any]]
    gpus: str
    connected: bool | None


def view(
    row: NodeRow, generation: int | None, now: datetime.datetime, heartbeat_s: float
) -> NodeView:
    """Return what is to be said of a node now."""
    reported = row.reported or {}
    said = _mappings(reported.get("deployments"))
    deployments = [d for d in said if isinstance(d.get("name"), str)]
    applied = _mapping(reported.get("applied")).get("generation")
    state, why = _state(row, deployments, now, heartbeat_s)
    if generation is not None and row.reported is not None and applied != generation:
        why += f"; asked for generation {generation}, it follows {applied or 'none'}"
    return NodeView(
        node=row.node,
        state=state,
        why=why,
        heard_at=row.heard_at,
        generation=generation,
        applied=applied,
        drift={name: str(why) for name, why in _mapping(reported.get("drift")).items()},
        deployments=deployments,
        gpus=_gpus(reported),
        connected=None if row.link is None else bool(row.link.get("online")),
    )


def suspected(found: NodeView, why: str | None, missing: str | None = None) -> NodeView:
    """Return the view of a node of which two histories are known: a clone, or put back.

    Args:
        found: What it says of itself.
        why: Where the histories part; None when there is one.
        missing: Which audit records it signed for and never sent.
    """
    if missing is not None:
        found = replace(found, why=f"{found.why}; {missing}")
    if why is None:
        return found
    return replace(found, state=State.SUSPECT, why=f"cloned or put back: {why}; {found.why}")


def held(found: NodeView, *, is_held: bool) -> NodeView:
    """Return the view of a node that may follow a newer word than this hub remembers."""
    if not is_held:
        return found
    why = "nothing is asked of it: this hub was put back to an earlier day (appliance hub apply)"
    return replace(found, why=f"{found.why}; {why}")


def _state(
    row: NodeRow, deployments: list[dict[str, Any]], now: datetime.datetime, heartbeat_s: float
) -> tuple[State, str]:
    if row.revoked_at is not None:
        return State.REVOKED, f"revoked at {row.revoked_at}: nothing of it is accepted"
    if row.heard_at is None or row.reported is None:
        return State.NEVER_HEARD, f"admitted {row.admitted_at}, no report yet"
    silent = (now - parse_rfc3339(row.heard_at)).total_seconds()
    if silent > STALE_AFTER_HEARTBEATS * heartbeat_s:
        return State.STALE, f"stale since {row.heard_at}, {format_duration(silent)} ago"
    if row.reported.get("deployments") != deployments:
        return State.DEGRADED, "it reports deployments in a form that is not known here"
    failing = [d["name"] for d in deployments if not _is_ready(d)]
    why = f"{len(deployments)} of {len(deployments)} deployments serve"
    if failing:
        why = f"not ready: {', '.join(failing)}"
    is_full = row.reported.get("reserve") is False
    if is_full:
        why = f"its disk is full, so it begins nothing new; {why}"
    return State.DEGRADED if failing or is_full else State.READY, why


def _is_ready(deployment: dict[str, Any]) -> bool:
    conditions = _mappings(deployment.get("conditions"))
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def _gpus(reported: dict[str, Any]) -> str:
    gpus = _mapping(_mapping(reported.get("machine")).get("gpus")).get("gpus")
    if not isinstance(gpus, list):
        return "not known"
    return ", ".join(str(g.get("name") or "not known") for g in _mappings(gpus)) or "none"


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _mappings(value: object) -> list[dict[str, Any]]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []
