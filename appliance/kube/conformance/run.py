"""All checks over one cluster."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance import __version__
from appliance.errors import PeerUnreachableError
from appliance.kit.files import make_folder, write_durably
from appliance.kube.conformance import checklist, hardware, networking, operation, scheduling
from appliance.kube.conformance.asking import Asked, Cluster
from appliance.kube.conformance.checklist import Answer, Checklist, Status

if TYPE_CHECKING:
    from appliance.kube.client import KubeApi

CHECKS: Mapping[str, Callable[[Asked], tuple[Status, str]]] = {
    check.__name__: check
    for check in (
        hardware.driver_runtime_management,
        hardware.gpu_sharing,
        hardware.virtualized_accelerator,
        networking.ai_inference,
        networking.advanced_inference_ingress,
        networking.high_performance_networking,
        networking.disaggregated_inference,
        scheduling.gang_scheduling,
        scheduling.cluster_autoscaling,
        scheduling.pod_autoscaling,
        hardware.accelerator_metrics,
        operation.ai_service_metrics,
        hardware.secure_accelerator_access,
        operation.workload_sandboxing,
        operation.robust_controller,
    )
}
"""By the id in the checklist."""

_DESCRIPTION = (
    "An AI appliance that serves quantized models on boxes at the edge, for months without a link"
)


@dataclass(frozen=True, slots=True)
class Report:
    """What one run found."""

    checklist: Checklist
    server: str
    release: tuple[int, int]
    answers: Mapping[str, Answer]

    def document(self) -> dict[str, Any]:
        """Return the answers in the programme's form."""
        known = {
            "kubernetesVersion": f"v{self.release[0]}.{self.release[1]}",
            "platformName": "Edge AI Appliance",
            "platformVersion": __version__,
            "description": _DESCRIPTION,
            "k8sConformanceUrl": "[URL of the submission in cncf/k8s-conformance]",
        }
        return checklist.document(self.checklist, self.answers, known)

    def to_wire(self) -> dict[str, Any]:
        """Return plain JSON data: the document, with the evidence itself in place of its files."""
        found = self.document()
        for lines in found["spec"].values():
            for line in lines:
                line["evidence"] = list(self.answers[line["id"]].evidence)
        return {"checklist": self.checklist.name, "server": self.server, **found}

    def write(self, path: Path) -> None:
        """Write the answers to a file, and the evidence into a folder beside it.

        Raises:
            NoSpaceError, StateUnusableError: it cannot be written.
        """
        make_folder(path.parent / "evidence")
        for answer in self.answers.values():
            write_durably(path.parent / answer.file, ("\n".join(answer.evidence) + "\n").encode())
        write_durably(path, checklist.dump(self.document()).encode())


def run(api: "KubeApi") -> Report:
    """Ask a cluster everything; some twenty calls, none of which changes anything.

    Raises:
        PeerUnreachableError: it does not answer, or is no Kubernetes.
        ForbiddenError: we may not even ask for its version.
    """
    cluster = Cluster(api)
    release = _release(cluster.version)
    wanted = checklist.checklist_for(release)
    answers = {found.id: _answer(cluster, found.id) for found in wanted.requirements}
    return Report(wanted, cluster.version, release, answers)


def _answer(cluster: Cluster, name: str) -> Answer:
    asked = Asked(cluster)
    status, notes = CHECKS[name](asked)
    if asked.unseen:
        notes += f". We may not look at {', '.join(asked.unseen)}: more may be there than was seen"
    return Answer(name, status, notes, tuple(asked.evidence))


def _release(version: str) -> tuple[int, int]:
    found = re.match(r"v(\d+)\.(\d+)", version)
    if found is None:
        raise PeerUnreachableError(f"what answers there is no Kubernetes: version {version!r}")
    return int(found[1]), int(found[2])
