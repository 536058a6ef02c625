"""Metrics of workloads, sandboxes, operators."""

from appliance.kube.conformance.asking import Asked, Json, has_condition, name_of, ready
from appliance.kube.conformance.checklist import Status
from appliance.kube.marks import MANAGED_BY, MANAGER
from appliance.kube.resources import DEFINITIONS, MODEL_DEPLOYMENTS

Finding = tuple[Status, str]

_MONITORS = {"prometheus": 9090, "vmsingle": 8428, "vmagent": 8429, "victoria-metrics": 8428}
_SANDBOXES = ("kata", "runsc", "gvisor")
_OPERATORS = (
    "ray.io",
    "kubeflow.org",
    "serving.kserve.io",
    "leaderworkerset.x-k8s.io",
    "jobset.x-k8s.io",
)
_WEBHOOKS = "/apis/admissionregistration.k8s.io/v1"


def ai_service_metrics(asked: Asked) -> Finding:
    """Does something collect metrics, and do our engines offer theirs?"""
    pods = asked.pods()
    monitors = ready(pods, *_MONITORS)
    asked.note(f"pods of monitoring systems that are ready: {len(monitors)}")
    for pod in monitors:
        text = asked.metrics(pod, _port(pod), "api/v1/targets")
        if '"health":"up"' in text:
            asked.note(f"{name_of(pod)} has targets that are up")
            return Status.YES, "a monitoring system discovers and collects metrics of workloads"
    engines = [p for p in pods if _is_engine(p) and has_condition(p, "Ready")]
    offers = [name_of(p) for p in engines if "# TYPE" in asked.metrics(p, 8080)]
    asked.note(f"engines that answer in Prometheus' format: {', '.join(offers) or 'none'}")
    if monitors or offers:
        return Status.PARTLY, (
            "engines offer their metrics in Prometheus' format, "
            if offers
            else "a monitoring system runs, "
        ) + "but none was seen to collect from a workload"
    return Status.NO, "no monitoring system runs in this cluster, and no engine offers metrics"


def workload_sandboxing(asked: Asked) -> Finding:
    """Does a pod run behind a kernel of its own?"""
    classes = {
        name_of(c): str(c.get("handler"))
        for c in asked.of_group("node.k8s.io", "runtimeclasses")
        if str(c.get("handler")).startswith(_SANDBOXES)
    }
    asked.note(f"RuntimeClasses of sandboxes: {', '.join(classes) or 'none'}")
    inside = [
        name_of(pod)
        for pod in asked.pods()
        if pod["spec"].get("runtimeClassName") in classes and has_condition(pod, "Ready")
    ]
    if inside:
        asked.note(f"pods that run in one: {', '.join(inside[:8])}")
        return Status.YES, "pods run in sandboxes with a kernel of their own"
    if classes:
        return Status.PARTLY, "a sandbox's RuntimeClass is there; no pod runs in it"
    return Status.NO, (
        "no RuntimeClass of a sandbox (Kata Containers, gVisor) is there; engines are contained"
        " (own user, no privilege, no writable disk, system call filter), but share the kernel"
    )


def robust_controller(asked: Asked) -> Finding:
    """Is a complex AI operator here, with its webhooks, and did it reconcile something?"""
    kinds = asked.objects(DEFINITIONS.path())
    for group in _OPERATORS:
        mine = [k for k in kinds if k["spec"]["group"] == group and has_condition(k, "Established")]
        done = [o for kind in mine for o in _objects(asked, kind) if _is_reconciled(o)]
        hooks = [name for name in _webhooks(asked) if group.partition(".")[0] in name]
        if mine:
            asked.note(f"{group}: {len(mine)} kinds, webhooks {', '.join(hooks) or 'none'}")
        if done and hooks:
            return Status.YES, f"the operator of {group} reconciles, with its webhooks"
        if mine:
            return Status.PARTLY, f"the operator of {group} is installed; not all of it was seen"
    ours = [
        o for o in asked.objects(MODEL_DEPLOYMENTS.path(), showing="names") if _is_reconciled(o)
    ]
    if ours:
        asked.note(f"ModelDeployments that are reconciled: {len(ours)}")
        return Status.PARTLY, (
            "the appliance's own operator reconciles its ModelDeployments; it has no webhooks (CEL"
            " rules and admission policies in their place), and no other AI operator is installed"
        )
    return Status.NO, "no AI operator was seen to reconcile a custom resource here"


def _objects(asked: Asked, kind: Json) -> list[Json]:
    spec = kind["spec"]
    version = next(v["name"] for v in spec["versions"] if v.get("served"))
    return asked.objects(f"/apis/{spec['group']}/{version}/{spec['names']['plural']}")


def _webhooks(asked: Asked) -> list[str]:
    found = [
        o
        for kind in ("validatingwebhookconfigurations", "mutatingwebhookconfigurations")
        for o in asked.objects(f"{_WEBHOOKS}/{kind}", showing="names")
    ]
    return [name_of(o) for o in found]


def _is_reconciled(found: Json) -> bool:
    seen = found.get("status", {}).get("observedGeneration")
    current = seen is None or seen == found["metadata"].get("generation")
    return current and has_condition(found, "Ready", "Available", "Succeeded", "Complete")


def _is_engine(pod: Json) -> bool:
    labels = pod["metadata"].get("labels") or {}
    return labels.get(MANAGED_BY) == MANAGER


def _port(pod: Json) -> int:
    values = set((pod["metadata"].get("labels") or {}).values())
    return next((port for name, port in _MONITORS.items() if name in values), 9090)
