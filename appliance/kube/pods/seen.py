"""What the driver keeps of the objects that it watches, and how it sees that one was changed.

Parsed at the door into small frozen values: what a value does not hold, such as a Deployment's
counters, is no change for anybody.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from appliance.kube import small
from appliance.kube.marks import DEPLOYMENT, MANAGED_BY, MANAGER, RENDERED, REPLICA, REVISION
from appliance.kube.pods.rendering import Json

_OF_THE_SERVER = "deployment.kubernetes.io/"
HOPELESS = frozenset(
    {
        "CrashLoopBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImageInspectError",
        "ImagePullBackOff",
        "InvalidImageName",
        "RunContainerError",
    }
)
"""Why a container waits when it does not wait for something ordinary."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One object of ours, or of a name that ours should have.

    ``body`` is all that we may have written, packed; ``trouble`` is what a Deployment says that it
    cannot do.
    """

    name: str
    uid: str
    deployment: str
    replica: str
    mark: str
    is_ours: bool
    is_deleting: bool
    body: bytes
    trouble: str = ""
    revision: str = ""

    @property
    def content(self) -> Json:
        """The object as it stands, as far as we write it."""
        return small.unpacked(self.body)

    @property
    def annotations(self) -> Mapping[str, str]:
        """Its annotations."""
        found: Mapping[str, str] = self.content["metadata"]["annotations"]
        return found


@dataclass(frozen=True, slots=True)
class PodSeen:
    """An engine's pod.

    ``waiting`` is why its container does not run, and ``why`` in more words; ``ended`` is how it
    ended the last time. ``unplaced`` is what the scheduler says while there is no room for it.
    ``has_ended`` is whether all its containers have, be it before a restart.
    """

    name: str
    uid: str
    deployment: str
    replica: str
    revision: str
    is_deleting: bool
    is_over: bool
    is_ready: bool
    runs: bool
    node: str
    address: str
    image: str
    restarts: int
    created: str
    waiting: str = ""
    why: str = ""
    ended: str = ""
    unplaced: str = ""
    has_ended: bool = False

    @property
    def is_gone(self) -> bool:
        """Whether nothing of it runs or will; its machine may keep the object for 10 s more."""
        return self.is_deleting and self.has_ended

    @property
    def is_well(self) -> bool:
        """Whether it runs, or is on its way to."""
        if self.is_deleting or self.is_over or self.unplaced:
            return False
        return bool(self.node) and self.waiting not in HOPELESS


def seen(found: Json) -> Seen:
    """Return what is kept of a Deployment, Service, PodDisruptionBudget or claim template."""
    metadata = found["metadata"]
    labels = metadata.get("labels") or {}
    notes = {
        key: value
        for key, value in (metadata.get("annotations") or {}).items()
        if not key.startswith(_OF_THE_SERVER)
    }
    kept = {
        "metadata": {
            "labels": labels,
            "annotations": notes,
            "ownerReferences": metadata.get("ownerReferences") or [],
        },
        "spec": found.get("spec") or {},
    }
    return Seen(
        name=metadata["name"],
        uid=metadata["uid"],
        deployment=labels.get(DEPLOYMENT, ""),
        replica=labels.get(REPLICA, ""),
        mark=notes.get(RENDERED, ""),
        is_ours=labels.get(MANAGED_BY) == MANAGER and RENDERED in notes,
        is_deleting="deletionTimestamp" in metadata,
        body=small.packed(kept),
        trouble=_trouble(found.get("status") or {}),
        revision=notes.get(REVISION, ""),
    )


def pod_seen(found: Json) -> PodSeen | None:
    """Return what is kept of a pod; None when it is no engine's."""
    metadata, status = found["metadata"], found.get("status") or {}
    labels = metadata.get("labels") or {}
    if REPLICA not in labels:
        return None
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    containers: list[Json] = status.get("containerStatuses") or []
    container = containers[0] if containers else {}
    state = container.get("state") or {}
    waiting = state.get("waiting") or {}
    over = status.get("phase") in ("Failed", "Succeeded")
    return PodSeen(
        name=metadata["name"],
        uid=metadata["uid"],
        deployment=labels.get(DEPLOYMENT, ""),
        replica=labels[REPLICA],
        revision=(metadata.get("annotations") or {}).get(REVISION, ""),
        is_deleting="deletionTimestamp" in metadata,
        is_over=over,
        is_ready=_is_true(conditions.get("Ready")),
        runs="running" in state,
        node=(found.get("spec") or {}).get("nodeName", ""),
        address=status.get("podIP", ""),
        image=container.get("image", ""),
        restarts=container.get("restartCount", 0),
        created=metadata.get("creationTimestamp", ""),
        waiting=waiting.get("reason", ""),
        why=str(status.get("message") if over else waiting.get("message", "")),
        ended=_ended(state) or _ended(container.get("lastState") or {}),
        unplaced=_unplaced(conditions.get("PodScheduled")),
        has_ended=bool(containers) and all(_is_over(c) for c in containers),
    )


def _is_over(container: Json) -> bool:
    """Whether a container has ended, or never began and cannot: its image is not to be had.

    A kubelet may take a minute to let go of such a pod; it starts nothing in one that is deleted.
    """
    state = container.get("state") or {}
    waiting = (state.get("waiting") or {}).get("reason", "")
    return "terminated" in state or (waiting in HOPELESS and not container.get("containerID"))


def differences(wanted: Any, live: Any, where: str = "") -> Iterator[str]:
    """Yield the fields of ``wanted`` that ``live`` has otherwise.

    What ``live`` has more of is the server's, or somebody else's, and no difference; but a list is
    compared whole, so that an argument or a container too many is one. References to owners are
    the exception: others may have theirs.
    """
    if isinstance(wanted, dict):
        fields: Json = live if isinstance(live, dict) else {}
        for key, value in wanted.items():
            yield from differences(value, fields.get(key), f"{where}.{key}")
    elif isinstance(wanted, list):
        yield from _differing_items(wanted, live if isinstance(live, list) else [], where)
    elif wanted != live:
        yield where


def _differing_items(wanted: list[Any], live: list[Any], where: str) -> Iterator[str]:
    if where == ".metadata.ownerReferences":
        if not all(any(not [*differences(one, other)] for other in live) for one in wanted):
            yield where
    elif len(live) != len(wanted):
        yield where
    else:
        for number, (one, other) in enumerate(zip(wanted, live, strict=True)):
            yield from differences(one, other, f"{where}[{number}]")


def _is_true(condition: Json | None) -> bool:
    return condition is not None and condition.get("status") == "True"


def _trouble(status: Json) -> str:
    for condition in status.get("conditions") or ():
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return str(condition.get("message") or condition.get("reason"))
    return ""


def _unplaced(condition: Json | None) -> str:
    if condition is None or condition.get("status") != "False":
        return ""
    return str(condition.get("message") or condition.get("reason"))


def _ended(state: Json) -> str:
    """Return how a container ended, in words: ``OOMKilled``, ``ended with status 1``."""
    if not (found := state.get("terminated")):
        return ""
    if found.get("reason") == "OOMKilled":
        return "was killed: out of its memory"
    if signal := found.get("signal"):
        return f"was ended by signal {signal}"
    code = found.get("exitCode", 0)
    return f"was ended by signal {code - 128}" if code > 128 else f"ended with status {code}"
