"""Questions to a cluster, kept with their answers: that is the evidence."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from appliance.core.plain import plain
from appliance.errors import BadDocumentError, NotFoundError, PeerUnreachableError
from appliance.kube.errors import ForbiddenError
from appliance.kube.resources import NODES, PODS

if TYPE_CHECKING:
    from appliance.kube.client import KubeApi

Json = dict[str, Any]
_ACCELERATORS = (
    "nvidia.com/",
    "amd.com/gpu",
    "gpu.intel.com/",
    "habana.ai/",
    "aws.amazon.com/neuron",
)
_MOST_NAMES = 8


class Cluster:
    """What one run has asked so far: the same question is sent once."""

    def __init__(self, api: "KubeApi") -> None:
        """Ask for the version and the API groups.

        Raises:
            PeerUnreachableError, ForbiddenError: the cluster cannot be looked at.
        """
        self._api = api
        self.version = str(api.get("/version").get("gitVersion", ""))
        groups = api.get("/apis").get("groups") or ()
        self.groups: dict[str, list[str]] = {
            group["name"]: [version["version"] for version in group["versions"]] for group in groups
        }
        self._lists: dict[str, list[Json] | str] = {}

    def all(self, path: str) -> list[Json] | str:
        """Return all objects at a path, or in words why they cannot be seen."""
        if path not in self._lists:
            try:
                self._lists[path] = self._api.list(path)[0]
            except NotFoundError:
                self._lists[path] = "the server has no such kind"
            except ForbiddenError:
                self._lists[path] = "we may not look"
        return self._lists[path]

    def text(self, path: str) -> str:
        """Return what answers behind the API server's proxy; empty when nothing does."""
        try:
            return self._api.text(path)
        except (NotFoundError, ForbiddenError, BadDocumentError, PeerUnreachableError):
            return ""


class Asked:
    """The questions of one check. ``unseen`` are those that we may not ask."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.evidence: list[str] = [f"GET /version: {cluster.version}"]
        self.unseen: list[str] = []

    def group(self, name: str) -> str:
        """Return the preferred version of an API group; empty when it is not served."""
        versions = self.cluster.groups.get(name) or []
        self.note(f"GET /apis: {name} {', '.join(versions) if versions else 'is not served'}")
        return versions[0] if versions else ""

    def objects(self, path: str, *, showing: str = "") -> list[Json]:
        """Return all objects at a path; none when they are not served, or hidden from us.

        ``showing`` says what else than their number the evidence should name, such as ``names``.
        """
        found = self.cluster.all(path)
        if isinstance(found, str):
            self.note(f"GET {path}: {found}")
            if found == "we may not look":
                self.unseen.append(path)
            return []
        names = ", ".join(name_of(o) for o in found[:_MOST_NAMES]) if showing else ""
        self.note(f"GET {path}: {len(found)}" + (f" ({names})" if names else ""))
        return found

    def of_group(self, group: str, plural: str) -> list[Json]:
        """Return all objects of a kind that may not be there at all."""
        version = self.group(group)
        return self.objects(f"/apis/{group}/{version}/{plural}", showing="names") if version else []

    def nodes(self) -> list[Json]:
        """Return the cluster's nodes."""
        return self.objects(NODES.path(), showing="names")

    def pods(self) -> list[Json]:
        """Return all pods."""
        return self.objects(PODS.path())

    def accelerators(self) -> dict[str, int]:
        """Return how many of each accelerator there are to ask for, by resource or DRA driver."""
        found: dict[str, int] = {}
        for node in self.nodes():
            for name, count in (node.get("status", {}).get("allocatable") or {}).items():
                if name.startswith(_ACCELERATORS) and count.isdigit():
                    found[name] = found.get(name, 0) + int(count)
        for device, driver in self.devices():
            if "uuid" in device.get("attributes", {}) or "memory" in device.get("capacity", {}):
                found[driver] = found.get(driver, 0) + 1
        self.note(f"accelerators to ask for: {_counts(found) or 'none'}")
        return {name: count for name, count in found.items() if count}

    def devices(self) -> list[tuple[Json, str]]:
        """Return the devices of all DRA drivers, each with its driver's name."""
        slices = self.of_group("resource.k8s.io", "resourceslices")
        return [
            (device.get("basic", device), str(found["spec"].get("driver", "")))
            for found in slices
            for device in found["spec"].get("devices") or ()
        ]

    def metrics(self, pod: Json, port: int, path: str = "metrics") -> str:
        """Return what a pod answers, through the API server."""
        meta = pod["metadata"]
        where = PODS.path(meta["namespace"], f"{meta['name']}:{port}", f"proxy/{path}")
        text = self.cluster.text(where)
        self.note(
            f"GET {where}: {len(text.splitlines())} lines" if text else f"GET {where}: nothing"
        )
        return text

    def note(self, text: str) -> None:
        """Keep a sentence as evidence, once; what it quotes cannot rewrite a screen."""
        line = plain(text, 400)
        if line not in self.evidence:
            self.evidence.append(line)


def name_of(found: Json) -> str:
    """Return an object's name."""
    return str(found["metadata"]["name"])


def has_condition(found: Json, *types: str) -> bool:
    """Return whether one of these conditions is true."""
    conditions = found.get("status", {}).get("conditions") or ()
    return any(c.get("type") in types and c.get("status") == "True" for c in conditions)


def ready(pods: Iterable[Json], *names: str) -> list[Json]:
    """Return the pods that are ready and have one of these names as what they are an app of."""
    keys = ("app.kubernetes.io/name", "app", "k8s-app", "app.kubernetes.io/component")
    return [
        pod
        for pod in pods
        if has_condition(pod, "Ready") and set(names) & {labels_of(pod).get(key) for key in keys}
    ]


def labels_of(found: Json) -> Mapping[str, str]:
    """Return an object's labels."""
    return found["metadata"].get("labels") or {}


def _counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(found.items()))
