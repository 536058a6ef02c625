"""Gangs, and scaling of machines and of pods."""

from appliance.kube.conformance.asking import Asked, Json, has_condition, name_of, ready
from appliance.kube.conformance.checklist import Status
from appliance.kube.conformance.hardware import NO_ACCELERATOR
from appliance.kube.resources import DEFINITIONS, GROUP, MODEL_DEPLOYMENTS

Finding = tuple[Status, str]

_GANGS = (
    ("Kueue", "kueue.x-k8s.io", "workloads", ("Admitted",)),
    ("Volcano", "scheduling.volcano.sh", "podgroups", ("Scheduled",)),
    ("coscheduling", "scheduling.x-k8s.io", "podgroups", ("Scheduled",)),
    ("the scheduler", "scheduling.k8s.io", "podgroups", ("PodGroupScheduled", "Scheduled")),
)
_CONTROLLERS = ("kueue", "volcano-scheduler", "vc-scheduler", "coscheduling")
_AUTOSCALERS = ("cluster-autoscaler", "karpenter")


def gang_scheduling(asked: Asked) -> Finding:
    """Did a gang scheduler admit something?"""
    installed = []
    for name, group, plural, conditions in _GANGS:
        for gang in asked.of_group(group, plural):
            if has_condition(gang, *conditions):
                asked.note(f"{plural}/{name_of(gang)} is {' or '.join(conditions)}")
                return Status.YES, f"{name} admitted a gang as a whole"
        if group in asked.cluster.groups and group != "scheduling.k8s.io":
            installed.append(name)
    runs = ready(asked.pods(), *_CONTROLLERS)
    asked.note(f"pods of gang schedulers that are ready: {len(runs)}")
    if installed:
        return Status.PARTLY, f"{', '.join(installed)} is installed; no gang was admitted yet"
    return Status.NO, (
        "no gang scheduler is installed; an engine of the appliance is one pod, which needs none"
    )


def cluster_autoscaling(asked: Asked) -> Finding:
    """Can the cluster grow?"""
    pools = asked.of_group("karpenter.sh", "nodepools")
    runs = ready(asked.pods(), *_AUTOSCALERS)
    asked.note(f"pods of cluster autoscalers that are ready: {len(runs)}")
    if pools or runs:
        return Status.PARTLY, (
            "a cluster autoscaler is there; that it scales groups with accelerators is not tried by"
            " this command"
        )
    return Status.NOT_APPLICABLE, (
        "the platform provides no autoscaler of machines: those that stand at the site are all"
        " there are"
    )


def pod_autoscaling(asked: Asked) -> Finding:
    """Does a HorizontalPodAutoscaler work, by a metric of AI, on pods with accelerators?"""
    if not asked.group("autoscaling"):
        return Status.NOT_APPLICABLE, "the server has no HorizontalPodAutoscaler"
    version = "v2" if "v2" in asked.cluster.groups["autoscaling"] else "v2beta2"
    scalers = asked.objects(
        f"/apis/autoscaling/{version}/horizontalpodautoscalers", showing="names"
    )
    custom = [g for g in ("custom.metrics.k8s.io", "external.metrics.k8s.io") if asked.group(g)]
    ours = _has_scale(asked)
    has = asked.accelerators()
    active = [
        name_of(s)
        for s in scalers
        if has_condition(s, "ScalingActive")
        and any(m["type"] in ("Pods", "Object", "External") for m in s["spec"].get("metrics") or ())
    ]
    asked.note(f"autoscalers that are active on such a metric: {', '.join(active) or 'none'}")
    if active and has:
        return Status.YES, f"{', '.join(active)} scales by a metric of its workload"
    if not has:
        return Status.NOT_APPLICABLE, f"{NO_ACCELERATOR}{_that_much(custom, ours=ours)}"
    return (
        Status.PARTLY,
        f"no autoscaler is active on a custom metric{_that_much(custom, ours=ours)}",
    )


def _has_scale(asked: Asked) -> bool:
    name = f"{MODEL_DEPLOYMENTS.plural}.{GROUP}"
    found: list[Json] = [o for o in asked.objects(DEFINITIONS.path()) if name_of(o) == name]
    versions = [v for o in found for v in o["spec"]["versions"]]
    has = any("scale" in (v.get("subresources") or {}) for v in versions)
    asked.note(f"{name} has a scale subresource: {'yes' if has else 'no'}")
    return has


def _that_much(custom: list[str], *, ours: bool) -> str:
    has = "ModelDeployments can be scaled by one; " if ours else ""
    served = f"{', '.join(custom)} is served" if custom else "no custom metrics are served"
    return f". HorizontalPodAutoscalers are there; {has}{served}"
