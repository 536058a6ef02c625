"""What of AI Conformance is seen: nothing in an empty cluster, and each thing only where it is."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance.errors import NotFoundError, PeerUnreachableError
from appliance.kube.client import KubeApi
from appliance.kube.conformance import checklist
from appliance.kube.conformance.checklist import Status
from appliance.kube.conformance.run import CHECKS, Report, run
from appliance.kube.errors import ForbiddenError

pytestmark = pytest.mark.slow

Json = dict[str, Any]
DATA = Path(checklist.__file__).parent / "data"


class Scene(KubeApi):
    """A cluster that has what a test puts into it, and answers what it is asked to read."""

    def __init__(self, version: str = "v1.37.0+k3s1") -> None:
        self.version = version
        self.objects: dict[str, list[Json]] = {"/api/v1/nodes": [node({})], "/api/v1/pods": []}
        self.texts: dict[str, str] = {}
        self.hidden: set[str] = set()

    def put(self, path: str, *objects: Json) -> None:
        self.objects.setdefault(path, []).extend(objects)

    def get(self, path: str) -> Json:
        if path == "/version":
            return {"gitVersion": self.version}
        assert path == "/apis"
        groups: dict[str, list[Json]] = {}
        for held in self.objects:
            if held.startswith("/apis/"):
                group, version = held.split("/")[2:4]
                groups.setdefault(group, []).append({"version": version})
        return {"groups": [{"name": n, "versions": v} for n, v in groups.items()]}

    def list(
        self, path: str, *, labels: str = "", fields: str = "", page: int = 500
    ) -> tuple[list[Json], str]:
        del labels, fields, page
        if path in self.hidden:
            raise ForbiddenError("no")
        if path not in self.objects:
            raise NotFoundError("the server could not find the requested resource")
        return copy.deepcopy(self.objects[path]), "1"

    def text(self, path: str, **query: str) -> str:
        del query
        if path not in self.texts:
            raise PeerUnreachableError("error trying to reach service")
        return self.texts[path]


def thing(name: str, *true: str, labels: Json | None = None, spec: Json | None = None) -> Json:
    conditions = [{"type": kind, "status": "True"} for kind in true]
    meta = {"name": name, "namespace": "x", "labels": labels or {}, "generation": 1}
    return {"metadata": meta, "spec": spec or {}, "status": {"conditions": conditions}}


def node(allocatable: Json, **labels: str) -> Json:
    found = thing("box", labels={k.replace("__", "/"): v for k, v in labels.items()})
    found["status"]["allocatable"] = allocatable
    return found


def pod(name: str, app: str = "", **spec: Any) -> Json:
    whole = {"containers": [{}], **spec}
    return thing(name, "Ready", labels={"app.kubernetes.io/name": app}, spec=whole)


def gpus(scene: Scene, **labels: str) -> None:
    scene.objects["/api/v1/nodes"] = [node({"nvidia.com/gpu": "2", "cpu": "8"}, **labels)]


def driver(scene: Scene) -> None:
    gpus(scene, nvidia__dummy="1")
    attributes = {"uuid": {"string": "GPU-a"}, "driverVersion": {"version": "570.0.0"}}
    devices = [{"name": "gpu-0", "attributes": attributes, "capacity": {"memory": {}}}]
    spec = {"driver": "gpu.nvidia.com", "devices": devices}
    scene.put("/apis/resource.k8s.io/v1/resourceslices", thing("s", spec=spec))


def sharing(scene: Scene) -> None:
    scene.objects["/api/v1/nodes"] = [node({"nvidia.com/mig-1g.10gb": "7"})]


def virtual(scene: Scene) -> None:
    found = node({"nvidia.com/gpu": "1"})
    found["metadata"]["labels"] = {"nvidia.com/vgpu.present": "true"}
    scene.objects["/api/v1/nodes"] = [found]


def gateway(scene: Scene) -> None:
    scene.put("/apis/gateway.networking.k8s.io/v1/gatewayclasses", thing("envoy", "Accepted"))
    scene.put("/apis/gateway.networking.k8s.io/v1/gateways", thing("ai", "Programmed"))


def pool(scene: Scene) -> None:
    found = thing("llama")
    found["status"] = {"parents": [thing("", "Accepted")["status"]]}
    scene.put("/apis/inference.networking.k8s.io/v1/inferencepools", found)


def fast_network(scene: Scene) -> None:
    spec = {"driver": "dra.net", "devices": [{"name": "mlx5_0"}]}
    scene.put("/apis/resource.k8s.io/v1/resourceslices", thing("s", spec=spec))


def disaggregated(scene: Scene) -> None:
    path = "/apis/leaderworkerset.x-k8s.io/v1/leaderworkersets"
    scene.put(path, thing("llama", "Available", spec={"role": "Prefill"}))


def gang(scene: Scene) -> None:
    scene.put("/apis/kueue.x-k8s.io/v1beta1/workloads", thing("job", "Admitted"))


def scaler(scene: Scene) -> None:
    gpus(scene)
    path = "/apis/autoscaling/v2/horizontalpodautoscalers"
    scene.put(path, thing("h", "ScalingActive", spec={"metrics": [{"type": "Pods"}]}))


def exporter(scene: Scene) -> None:
    gpus(scene)
    scene.put("/api/v1/pods", pod("dcgm", "dcgm-exporter"))
    text = "DCGM_FI_DEV_GPU_UTIL 1\nDCGM_FI_DEV_FB_USED 2\n"
    scene.texts["/api/v1/namespaces/x/pods/dcgm:9400/proxy/metrics"] = text


def monitor(scene: Scene) -> None:
    scene.put("/api/v1/pods", pod("prom", "prometheus"))
    path = "/api/v1/namespaces/x/pods/prom:9090/proxy/api/v1/targets"
    scene.texts[path] = '{"activeTargets":[{"health":"up"}]}'


def sandbox(scene: Scene) -> None:
    found = {**thing("kata"), "handler": "kata-qemu"}
    scene.put("/apis/node.k8s.io/v1/runtimeclasses", found)
    scene.put("/api/v1/pods", pod("inside", runtimeClassName="kata"))


def operator(scene: Scene) -> None:
    names, versions = {"plural": "rayclusters"}, [{"name": "v1", "served": True}]
    spec = {"group": "ray.io", "names": names, "versions": versions}
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    scene.put(path, thing("rayclusters.ray.io", "Established", spec=spec))
    scene.put("/apis/ray.io/v1/rayclusters", thing("one", "Ready"))
    hooks = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    scene.put(hooks, thing("ray-validating"))


IMPLEMENTED: dict[str, Callable[[Scene], None]] = {
    "driver_runtime_management": driver,
    "gpu_sharing": sharing,
    "virtualized_accelerator": virtual,
    "ai_inference": gateway,
    "advanced_inference_ingress": pool,
    "high_performance_networking": fast_network,
    "disaggregated_inference": disaggregated,
    "gang_scheduling": gang,
    "pod_autoscaling": scaler,
    "accelerator_metrics": exporter,
    "ai_service_metrics": monitor,
    "workload_sandboxing": sandbox,
    "robust_controller": operator,
}
NEVER = {"cluster_autoscaling", "secure_accelerator_access"}
"""What cannot be seen by looking: it has to be tried, which this command does not do."""


def answers(report: Report) -> dict[str, Status]:
    return {name: answer.status for name, answer in report.answers.items()}


def test_there_is_a_check_for_each_id_of_each_checklist_and_no_other() -> None:
    for known in checklist.checklists():
        assert {r.id for r in known.requirements} <= set(CHECKS)
    assert {r.id for r in checklist.checklists()[-1].requirements} == set(CHECKS)
    assert set(IMPLEMENTED) | NEVER == set(CHECKS)


def test_an_empty_cluster_implements_nothing_and_says_why() -> None:
    found = run(Scene())
    assert Status.YES not in answers(found).values()
    assert Status.PARTLY not in answers(found).values()
    for answer in found.answers.values():
        assert answer.notes, answer.id
        assert answer.evidence[0] == "GET /version: v1.37.0+k3s1"
        assert len(answer.evidence) > 1, answer.id


@pytest.mark.parametrize("name", IMPLEMENTED)
def test_what_is_there_is_seen_and_by_its_own_check_with_evidence(name: str) -> None:
    scene = Scene()
    IMPLEMENTED[name](scene)
    found = run(scene).answers[name]
    assert found.status is Status.YES, found.notes
    assert len(found.evidence) > 2


@pytest.mark.parametrize("name", IMPLEMENTED)
def test_what_is_installed_and_works_not_is_not_implemented(name: str) -> None:
    """The same cluster, when no condition is true, nothing is labelled, and no pod answers."""
    scene = Scene()
    IMPLEMENTED[name](scene)
    scene.texts = {}
    for objects in scene.objects.values():
        for found in objects:
            found["status"] = {}
            found["metadata"]["labels"] = {}
    report = run(scene)
    if name not in ("driver_runtime_management", "high_performance_networking"):  # seen in specs
        assert report.answers[name].status is not Status.YES


def test_what_only_a_try_can_show_is_never_called_implemented() -> None:
    scene = Scene()
    gpus(scene)
    volumes = [{"hostPath": {"path": "/dev/nvidia0"}}]
    scene.put("/api/v1/pods", pod("ca", "cluster-autoscaler"), pod("thief", volumes=volumes))
    found = run(scene).answers
    assert found["cluster_autoscaling"].status is Status.PARTLY
    assert found["secure_accelerator_access"].status is Status.PARTLY
    assert "1 pods reach the host's devices" in found["secure_accelerator_access"].notes


def test_our_own_operator_counts_for_a_part() -> None:
    scene = Scene()
    scene.put("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")
    path = "/apis/edge-appliance.dev/v1alpha1/modeldeployments"
    scene.put(path, thing("notes", "Ready"))
    assert run(scene).answers["robust_controller"].status is Status.PARTLY
    scene.objects[path][0]["status"]["observedGeneration"] = 0
    assert run(scene).answers["robust_controller"].status is Status.NO


def test_what_we_may_not_see_is_said_and_not_taken_for_nothing() -> None:
    scene = Scene()
    scene.hidden.add("/api/v1/pods")
    found = run(scene).answers["ai_service_metrics"]
    assert found.status is Status.NO
    assert found.notes.endswith("more may be there than was seen")
    assert "GET /api/v1/pods: we may not look" in found.evidence


@pytest.mark.parametrize(
    ("version", "expected"),
    [("v1.20.2", "v1.36"), ("v1.36.1", "v1.36"), ("v1.37.0+k3s1", "v1.37"), ("v1.41.0", "v1.37")],
)
def test_the_checklist_is_the_servers_or_the_nearest(version: str, expected: str) -> None:
    assert run(Scene(version)).checklist.name == expected


def test_what_is_no_kubernetes_is_an_error() -> None:
    with pytest.raises(PeerUnreachableError, match="is no Kubernetes"):
        run(Scene("nginx"))


@pytest.mark.parametrize("version", ["v1.20.2", "v1.37.0"])
def test_the_file_answers_the_checklist_as_the_programme_wants_it(
    tmp_path: Path, version: str
) -> None:
    scene = Scene(version)
    exporter(scene)
    run(scene).write(tmp_path / "PRODUCT.yaml")
    validate(tmp_path / "PRODUCT.yaml", run(scene).checklist.name)


def validate(path: Path, release: str) -> None:
    """Hold a file to the programme's own rules: scripts/validate.go, but for its reach outside."""
    asked = yaml.safe_load((DATA / f"AIConformance-{release[1:]}.yaml").read_text())
    answered = yaml.safe_load(path.read_text())
    assert list(answered["spec"]) == list(asked["spec"])
    for category, lines in asked["spec"].items():
        mine = answered["spec"][category]
        fixed = ("id", "description", "level")
        assert [[m[k] for k in fixed] for m in mine] == [[w[k] for k in fixed] for w in lines]
        assert all(list(m) == list(w) for m, w in zip(mine, lines, strict=True))
        for line in mine:
            assert line["status"] in [str(status) for status in Status]
            assert line["notes"] or line["status"] != "N/A"
            assert line["evidence"]
            assert all((path.parent / found).read_text().strip() for found in line["evidence"])
    assert set(asked["metadata"]) <= set(answered["metadata"])
    for value in answered["metadata"].values():
        assert isinstance(value, str)
        assert value
    assert answered["metadata"]["vendorName"] == "[Vendor Name]", "nobody told us"
