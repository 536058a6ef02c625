"""Routing to models, and networks between the pods of one model."""

import json

from appliance.kube.conformance.asking import Asked, has_condition, name_of
from appliance.kube.conformance.checklist import Status

Finding = tuple[Status, str]

_GATEWAYS = "gateway.networking.k8s.io"
_POOLS = "inference.networking.k8s.io"
_NETWORK_DRIVERS = ("dra.net", "net", "rdma", "sriov", "nic")
_DISAGGREGATED = (
    ("nvidia.com", "dynamographdeployments"),
    ("serving.kserve.io", "llminferenceservices"),
    ("leaderworkerset.x-k8s.io", "leaderworkersets"),
)


def ai_inference(asked: Asked) -> Finding:
    """Does an implementation of the Gateway API say that it works?"""
    ours = (
        "the appliance's own gateway routes, holds and splits requests per model, but it is no"
        " implementation of the Gateway API"
    )
    classes = asked.of_group(_GATEWAYS, "gatewayclasses")
    accepted = [name_of(c) for c in classes if has_condition(c, "Accepted")]
    programmed = [
        name_of(g) for g in asked.of_group(_GATEWAYS, "gateways") if has_condition(g, "Programmed")
    ]
    asked.note(f"accepted classes: {', '.join(accepted) or 'none'}")
    asked.note(f"programmed gateways: {', '.join(programmed) or 'none'}")
    if accepted and programmed:
        return Status.YES, f"an implementation of the Gateway API serves {', '.join(programmed)}"
    if classes or programmed:
        return Status.PARTLY, f"the Gateway API is there, no gateway of it works; {ours}"
    return Status.NO, f"no implementation of the Gateway API is installed; {ours}"


def advanced_inference_ingress(asked: Asked) -> Finding:
    """Does a gateway serve an InferencePool?"""
    pools = asked.of_group(_POOLS, "inferencepools")
    accepted = [
        name_of(pool)
        for pool in pools
        for parent in pool.get("status", {}).get("parents") or ()
        if has_condition({"status": parent}, "Accepted")
    ]
    if accepted:
        asked.note(f"accepted by a gateway: {', '.join(accepted)}")
        return Status.YES, "a gateway serves InferencePools"
    if pools or asked.group(_POOLS):
        return Status.PARTLY, "the inference extension is installed; no gateway serves a pool"
    return Status.NO, (
        "the Gateway API Inference Extension is not installed; the appliance's own gateway chooses"
        " engines by free slots and by session"
    )


def high_performance_networking(asked: Asked) -> Finding:
    """Do pods of one model need more than the usual network, and is it there?"""
    drivers = sorted({d for _, d in asked.devices() if d.startswith(_NETWORK_DRIVERS)})
    if drivers:
        asked.note(f"DRA drivers of networks: {', '.join(drivers)}")
        return Status.YES, "special networks are devices that pods claim (DRA)"
    nodes = asked.nodes()
    resources = {name for n in nodes for name in n.get("status", {}).get("allocatable") or {}}
    rdma = sorted(name for name in resources if "rdma" in name)
    attachments = asked.of_group("k8s.cni.cncf.io", "network-attachment-definitions")
    if rdma or attachments:
        asked.note(f"RDMA resources: {', '.join(rdma) or 'none'}")
        return Status.PARTLY, "further networks can be attached, but DRA does not manage them"
    if len(nodes) == 1:
        return Status.NOT_APPLICABLE, "one node: no traffic between pods leaves the machine"
    return Status.NOT_APPLICABLE, (
        "not needed: an engine of the appliance uses the GPUs of one machine and talks to no other"
    )


def disaggregated_inference(asked: Asked) -> Finding:
    """Does anything here serve prefill and decode apart?"""
    found = []
    for group, plural in _DISAGGREGATED:
        for workload in asked.of_group(group, plural):
            if "prefill" in json.dumps(workload.get("spec", {})).lower():
                works = has_condition(workload, "Ready", "Available")
                found.append((f"{plural}/{name_of(workload)}", works))
    working = [name for name, works in found if works]
    asked.note(f"workloads with a prefill part: {', '.join(name for name, _ in found) or 'none'}")
    if working:
        return Status.YES, f"prefill and decode are served apart by {', '.join(working)}"
    if found:
        return Status.PARTLY, "a workload serves prefill and decode apart, but it is not ready"
    return Status.NO, (
        "nothing here serves prefill and decode apart; on one box with few GPUs it costs more than"
        " it brings"
    )
