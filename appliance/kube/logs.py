"""What a deployment's engines said last, asked of the cluster: it keeps their logs. Blocking."""

from typing import TYPE_CHECKING

from appliance.errors import ApplianceError, PeerUnreachableError
from appliance.kube.marks import DEPLOYMENT
from appliance.kube.pods.observed import current
from appliance.kube.pods.seen import PodSeen, pod_seen
from appliance.kube.resources import PODS
from appliance.runtime import logfile

if TYPE_CHECKING:
    from appliance.kube.client import KubeApi


def of_deployment(
    api: "KubeApi", namespace: str, deployment: str, lines: int
) -> dict[str, list[str]]:
    """Return the last lines of each replica's engine, of the pod that counts.

    Where one cannot be had, such as that of a container that never ran, its line says why.

    Raises:
        PeerUnreachableError: the cluster is away.
    """
    try:
        items, _ = api.list(PODS.path(namespace), labels=f"{DEPLOYMENT}={deployment}")
    except PeerUnreachableError as error:
        raise away(error.what) from error
    pods: dict[str, list[PodSeen]] = {}
    for pod in filter(None, map(pod_seen, items)):
        pods.setdefault(pod.replica, []).append(pod)
    chosen = {replica: current(found) for replica, found in sorted(pods.items())}
    return {r: _of_pod(api, namespace, pod.name, lines) for r, pod in chosen.items() if pod}


def away(why: str) -> PeerUnreachableError:
    """Return what to say while nobody can be asked."""
    return PeerUnreachableError(
        f"the cluster keeps the engines' logs, and it is away: {why}",
        hint="appliance status says since when; on an engine's machine, crictl logs reads them",
    )


def _of_pod(api: "KubeApi", namespace: str, pod: str, lines: int) -> list[str]:
    path = PODS.path(namespace, pod, "log")
    try:
        text = api.text(path, container="engine", tailLines=str(lines))
    except ApplianceError as error:
        return logfile.last_lines(f"(no log: {error.what})", 1)
    return logfile.last_lines(text, lines)
