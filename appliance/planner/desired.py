"""What is in force: the fleet's word, overlaid by what local staff said.

A local word wins for its object until it is released; the hub sees it as drift.
"""

from collections.abc import Iterable, Mapping

from appliance.core.documents import ModelDeployment
from appliance.core.state import DesiredDeployment, DesiredState, Origin

ONLY_HERE = "only here; the fleet does not ask for it"


def merge(
    fleet: Iterable[ModelDeployment],
    local: Mapping[str, ModelDeployment | None],
    generation: int | None,
) -> DesiredState:
    """Return what is in force.

    Args:
        fleet: The documents of the newest fleet generation.
        local: Local words by name; None takes the fleet's object away.
        generation: The fleet's generation, or None when it never said anything: nothing departs
            from it then.
    """
    theirs = {document.name: document for document in fleet}
    found: list[DesiredDeployment] = []
    for name in sorted(theirs.keys() | local.keys()):
        if name not in local:
            found.append(DesiredDeployment(theirs[name], Origin.FLEET))
        elif (mine := local[name]) is not None:
            departs = "" if generation is None else drift(theirs.get(name), mine)
            found.append(DesiredDeployment(mine, Origin.LOCAL, departs))
    removed = tuple(sorted(n for n in theirs if n in local and local[n] is None))
    return DesiredState(tuple(found), removed, generation)


def drift(theirs: ModelDeployment | None, mine: ModelDeployment) -> str:
    """Return in words how a local document departs from the fleet's; empty when it does not."""
    if theirs is None:
        return ONLY_HERE
    fields = [
        name
        for name in type(mine.spec).model_fields
        if getattr(mine.spec, name) != getattr(theirs.spec, name)
    ]
    named = [
        f"{name} is {getattr(mine.spec, name)!r} here, {getattr(theirs.spec, name)!r} in the fleet"
        for name in fields
    ]
    return "; ".join(named)
