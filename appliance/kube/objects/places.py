"""From what nodes say of themselves, and the cluster of them, to places to plan for. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from appliance.kube.objects.publish import NodeHolding
from appliance.planner.place import Place

Json = dict[str, Any]


def takes_work(node: Json) -> bool:
    """Whether a Node may get new pods, as far as the cluster says: not cordoned, and Ready."""
    conditions = (node.get("status") or {}).get("conditions") or ()
    is_ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return is_ready and not (node.get("spec") or {}).get("unschedulable")


def places(holdings: Iterable[NodeHolding], nodes: Mapping[str, bool]) -> tuple[Place, ...]:
    """Return the places of a cluster.

    A node that is not in the cluster, or not Ready, keeps what it runs and gets no more. That
    models may one day fill its disk is a warning to people, and keeps nothing from running.

    Args:
        holdings: What each node said of itself.
        nodes: The cluster's nodes by name, and whether each takes work.
    """
    return tuple(_place(held, takes=nodes.get(held.node, False)) for held in holdings)


def _place(held: NodeHolding, *, takes: bool) -> Place:
    known = held.machine.gpus.gpus
    gpus = None if known is None else tuple(g for g in known if g.uuid not in held.fenced)
    return Place(
        held.node,
        held.variants,
        held.machine.memory_bytes,
        gpus,
        held.denied,
        schedulable=takes,
    )
