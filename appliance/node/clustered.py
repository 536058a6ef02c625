"""What is in force under Kubernetes, from the mirror of its objects, also while it is away."""

from collections.abc import Mapping

from appliance.core import reading
from appliance.core.documents import API_VERSION, Document, ModelDeployment
from appliance.core.mirror import Asked, Key, Mirrored
from appliance.core.state import DesiredDeployment, DesiredState, Origin
from appliance.errors import BadDocumentError
from appliance.kube.words import owned
from appliance.planner.desired import ONLY_HERE

_KIND = ModelDeployment.kind_name
WAITING = "not in the cluster yet"


def in_force(
    theirs: Mapping[str, ModelDeployment],
    mine: Mapping[str, ModelDeployment | None],
    rows: Mapping[Key, Mirrored],
    asked: Mapping[Key, Asked],
    generation: int | None,
) -> DesiredState:
    """Return the deployments in force: the cluster's objects, and what waits to become one.

    Args:
        theirs: The fleet's documents.
        mine: Local words; None takes the fleet's object away.
        rows: The mirror.
        asked: What the cluster has not heard yet.
        generation: The fleet's generation, or None when it never said anything.
    """
    wanted: dict[str, tuple[Origin, ModelDeployment]] = {
        name: (Origin.FLEET, document) for name, document in theirs.items() if name not in mine
    }
    wanted |= {n: (Origin.LOCAL, document) for n, document in mine.items() if document is not None}
    found: dict[str, DesiredDeployment] = {}
    for name, (origin, document) in wanted.items():
        found[name] = DesiredDeployment(document, origin, WAITING)
    for (_, name), row in rows.items():
        if (row.projected and (name not in wanted or not row.uid)) or _goes(row, asked):
            continue
        stands = document_of(row)
        if isinstance(stands, ModelDeployment):
            found[name] = DesiredDeployment(
                stands, row.owner, "" if generation is None else drift(row, theirs.get(name))
            )
        else:  # its own status says what is wrong with it
            found.pop(name, None)
    removed = tuple(sorted(n for n in theirs if n in mine and mine[n] is None))
    return DesiredState(tuple(found[name] for name in sorted(found)), removed, generation)


def drift(row: Mirrored, theirs: Document | None) -> str:
    """Return in words how an object departs from the fleet's word; empty when it does not.

    What another node of the site projects, that node speaks for.
    """
    if not row.projected and row.owner is not Origin.CLUSTER:
        return ""
    if theirs is None:
        return ONLY_HERE
    differs = owned.in_words(owned.drift(row.kind, row.spec, theirs.to_wire()["spec"]))
    if row.owner is Origin.CLUSTER:
        return f"made with kubectl; {differs or 'it says what the fleet says'}"
    return differs


def document_of(row: Mirrored) -> Document | None:
    """Return an object as the document that it is; None when its kind does not allow it."""
    data = {
        "apiVersion": API_VERSION, "kind": row.kind, "metadata": {"name": row.name},
        "spec": {k: v for k, v in row.spec.items() if v is not None},
    }  # fmt: skip
    try:
        return reading.from_wire(data, "the cluster")
    except BadDocumentError:
        return None


def _goes(row: Mirrored, asked: Mapping[Key, Asked]) -> bool:
    wish = asked.get(row.key)
    return wish is not None and wish.verb == "delete" and wish.uid == row.uid
