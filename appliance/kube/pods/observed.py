"""From a Deployment and its pods to a replica as every driver shows it. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from appliance.core.model import Replica
from appliance.core.state import ObservedReplica, Phase
from appliance.kube.pods.rendering import CONTAINED, NOT_CONTAINED, quantity
from appliance.kube.pods.seen import HOPELESS, PodSeen, Seen
from appliance.runtime.profile import profiles

WELL = "ready"
"""What a replica says that serves and is as it should be."""
_LAUNCHER = "kubernetes"
_UNPULLED = frozenset({"ErrImagePull", "ImagePullBackOff"})
"""What a kubelet says by turns of an image that it cannot have; only the first one says why."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the driver knows of a replica beyond the cluster's objects.

    ``deployment`` and ``revision`` are those of what is left of a replica that was stopped.
    ``error`` is why its objects cannot be made as they should be. ``restarts`` and ``served`` are
    restarts of earlier pods, and how many there were when it last was ready. ``unpulled`` is why
    its image could not be had.
    """

    id: str
    deployment: str
    revision: str
    error: str = ""
    restarts: int = 0
    served: int = 0
    log_tail: tuple[str, ...] = ()
    unpulled: str = ""


def observed(
    known: Known, wanted: Replica | None, deployment: Seen | None, pod: PodSeen | None
) -> ObservedReplica:
    """Return how a replica is.

    Args:
        known: What the driver knows.
        wanted: What should run; None when it was stopped.
        deployment: Its Deployment, if there is one.
        pod: The pod that counts, if there is one.
    """
    restarts = known.restarts + (pod.restarts if pod is not None else 0)
    base = ObservedReplica(
        known.id, known.deployment, known.revision, Phase.STARTING, message="starting",
        launcher=_LAUNCHER, restarts=restarts, contained=CONTAINED, missing=NOT_CONTAINED,
    )  # fmt: skip
    if pod is not None:
        image = f"{_LAUNCHER}, {pod.image}" if pod.image else _LAUNCHER
        base = replace(base, node=pod.node, launcher=image)
    if wanted is None:
        return replace(base, phase=Phase.STOPPING, message="stopping")
    limit = f"{quantity(wanted.memory_limit_bytes)} (kubelet)"
    base = replace(base, deployment=wanted.deployment, revision=wanted.revision, memory_limit=limit)
    if deployment is not None and deployment.is_deleting:
        return replace(base, phase=Phase.STOPPING, message="somebody deletes it")
    if pod is not None and pod.is_ready and pod.address and not pod.is_deleting:
        port = profiles()[wanted.engine].in_network().port
        address = f"[{pod.address}]" if ":" in pod.address else pod.address
        message = known.error or WELL
        return replace(
            base, phase=Phase.READY, message=message, endpoint=f"http://{address}:{port}"
        )
    if why := known.error or _why_not(known, deployment, pod):
        return replace(
            base,
            phase=Phase.BACKOFF,
            message=why,
            failures=max(1, restarts - known.served),
            retry_in_s=_retry(pod),
            log_tail=known.log_tail,
        )
    return replace(base, failures=max(0, restarts - known.served))


def current(pods: Sequence[PodSeen]) -> PodSeen | None:
    """Return the pod that counts: the newest of those that are not ending."""
    if not pods:
        return None
    return max(pods, key=lambda p: (not p.is_deleting, not p.is_over, p.created, p.name))


def _why_not(known: Known, deployment: Seen | None, pod: PodSeen | None) -> str:
    """Return why a replica does not come up; empty when it may yet."""
    name = known.id
    if pod is None or pod.is_deleting:
        trouble = "" if deployment is None else deployment.trouble
        return f"{name} gets no pod: {trouble}" if trouble else ""
    if pod.is_over:
        why = f"was ended by its machine: {pod.why}"
    elif pod.unplaced:
        why = f"finds no machine: {pod.unplaced}"
    elif pod.waiting == "CrashLoopBackOff":
        why = f"{pod.ended or 'ended'}, and again after each start"
    elif pod.waiting in _UNPULLED:
        why = f"cannot start: its image {pod.image} cannot be had: {known.unpulled or pod.why}"
    elif pod.waiting in HOPELESS:
        why = f"cannot start: {pod.waiting}: {pod.why}"
    else:
        why = pod.ended if not pod.runs else ""
    return f"{name} {why}" if why else ""


def _retry(pod: PodSeen | None) -> float | None:
    """Return the pause that the kubelet names, such as ``back-off 1m20s restarting``."""
    found = re.match(r"back-off (?:(\d+)m)?(\d+)s ", "" if pod is None else pod.why)
    return None if found is None else int(found[1] or 0) * 60.0 + int(found[2])


@dataclass(slots=True)
class History:
    """What is remembered of a replica while it is wanted: pods that are gone do not tell."""

    pod: str = ""
    now: int = 0
    before: int = 0
    served: int = 0
    told_of: tuple[str, int] = ("", 0)
    tail: tuple[str, ...] = ()
    unpulled: str = ""

    @property
    def said(self) -> tuple[object, ...]:
        """All of it that shows in a replica."""
        return self.before, self.served, self.tail, self.unpulled

    def note(self, pod: PodSeen) -> bool:
        """Count on; return whether an engine has ended whose last words are not known yet."""
        if self.pod and self.pod != pod.uid:
            self.before += self.now + 1
        self.pod, self.now = pod.uid, pod.restarts
        if pod.waiting == "ErrImagePull":
            self.unpulled = pod.why
        if pod.is_ready:
            self.served = self.before + pod.restarts
        end = (pod.uid, pod.restarts)
        has_ended = bool(pod.ended) and not pod.is_ready and self.told_of != end
        if has_ended:
            self.told_of = end
        return has_ended
