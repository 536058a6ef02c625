"""Accelerators: their drivers, their sharing, access to them, their metrics."""

from appliance.kube.conformance.asking import Asked, Json, labels_of, name_of, ready
from appliance.kube.conformance.checklist import Status

Finding = tuple[Status, str]

NO_ACCELERATOR = (
    "no node of this cluster has an accelerator that Kubernetes knows of, so there is nothing to"
    " show it on; with one, run this again"
)
_DRIVER_LABELS = (
    "nvidia.com/cuda.driver-version.full",
    "nvidia.com/cuda.driver.major",
    "amd.com/gpu.driver-version",
)
_EXPORTERS = {
    "nvidia-dcgm-exporter": 9400, "dcgm-exporter": 9400, "amd-device-metrics-exporter": 5000,
}  # fmt: skip
_CORE_METRICS = (
    ("DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_FB_USED"),
    ("gpu_gfx_activity", "gpu_used_vram"),
)


def driver_runtime_management(asked: Asked) -> Finding:
    """Are versions of driver and runtime there to be checked, by DRA or by labels?"""
    if not asked.accelerators():
        return Status.NOT_APPLICABLE, NO_ACCELERATOR
    versions = {
        str(device["attributes"]["driverVersion"].get("version"))
        for device, _ in asked.devices()
        if "driverVersion" in device.get("attributes", {})
    }
    if versions:
        asked.note(f"driverVersion in ResourceSlices: {', '.join(sorted(versions))}")
        return Status.YES, "DRA tells the driver's version of each device"
    labelled = [
        f"{name_of(node)} {label}={labels_of(node)[label]}"
        for node in asked.nodes()
        for label in _DRIVER_LABELS
        if label in labels_of(node)
    ]
    for text in labelled:
        asked.note(f"node {text}")
    classes = asked.of_group("node.k8s.io", "runtimeclasses")
    if labelled and classes:
        return Status.YES, "feature discovery labels the driver's version; a RuntimeClass is there"
    if labelled or classes:
        return Status.PARTLY, "only one of driver version and container runtime can be checked"
    return Status.NO, "no DRA driver and no feature discovery tells which driver is installed"


def gpu_sharing(asked: Asked) -> Finding:
    """Is a share of a GPU there to be asked for?"""
    found = asked.accelerators()
    if not found:
        return Status.NOT_APPLICABLE, NO_ACCELERATOR
    shares = [name for name in found if "/mig-" in name or name.endswith(".shared")]
    shares += [
        f"{name_of(node)} {strategy}"
        for node in asked.nodes()
        if (strategy := labels_of(node).get("nvidia.com/gpu.sharing-strategy", "none")) != "none"
    ]
    shares += [
        str(device.get("name") or "a MIG device")
        for device, _ in asked.devices()
        if device.get("attributes", {}).get("type", {}).get("string") == "mig"
    ]
    if shares:
        asked.note(f"shares to ask for: {', '.join(sorted(set(shares))[:8])}")
        return Status.YES, "shares of GPUs are resources that pods ask for"
    return Status.NO, "whole GPUs alone are there to ask for; docs/how-to/gpus.md says how to share"


def virtualized_accelerator(asked: Asked) -> Finding:
    """Is anything here a virtual GPU?"""
    if not asked.accelerators():
        return Status.NOT_APPLICABLE, NO_ACCELERATOR
    virtual = [n for n in asked.nodes() if labels_of(n).get("nvidia.com/vgpu.present") == "true"]
    if virtual:
        asked.note(f"nvidia.com/vgpu.present=true on {', '.join(name_of(n) for n in virtual)}")
        return Status.YES, "nodes with virtual GPUs are labelled, and count them as resources"
    return Status.NOT_APPLICABLE, "no accelerator of this cluster says that it is a virtual one"


def accelerator_metrics(asked: Asked) -> Finding:
    """Does an exporter tell use and memory of each accelerator?"""
    if not asked.accelerators():
        return Status.NOT_APPLICABLE, NO_ACCELERATOR
    exporters = ready(asked.pods(), *_EXPORTERS)
    asked.note(f"pods of metrics exporters that are ready: {len(exporters)}")
    for pod in exporters:
        text = asked.metrics(pod, _port(pod))
        for core in _CORE_METRICS:
            if all(name in text for name in core):
                asked.note(f"{name_of(pod)} tells {' and '.join(core)}")
                return Status.YES, "an exporter tells use and memory of each accelerator"
    if exporters:
        return Status.PARTLY, "an exporter runs, but its use and memory metrics cannot be read"
    return Status.NO, "no exporter of accelerator metrics runs in this cluster"


def secure_accelerator_access(asked: Asked) -> Finding:
    """Who has an accelerator without having asked for it? What a pod sees is not tried here."""
    found = asked.accelerators()
    if not found:
        return Status.NOT_APPLICABLE, NO_ACCELERATOR
    around = [pod for pod in asked.pods() if _has_devices(pod) and not _asks(pod)]
    names = [f"{p['metadata']['namespace']}/{name_of(p)}" for p in around]
    asked.note(f"pods with /dev of the host that ask for no accelerator: {', '.join(names[:8])}")
    more = f"; {len(names)} pods reach the host's devices without asking" if names else ""
    return Status.PARTLY, (
        f"accelerators are asked for through Kubernetes ({', '.join(sorted(found))}); that a pod"
        " without a claim sees none is not tried by this command: run the programme's test"
        f" TestSecureAcceleratorAccess{more}"
    )


def _port(pod: Json) -> int:
    for key, port in _EXPORTERS.items():
        if key in labels_of(pod).values():
            return port
    return 9400


def _has_devices(pod: Json) -> bool:
    paths = [(v.get("hostPath") or {}).get("path", "") for v in pod["spec"].get("volumes") or ()]
    return any(path == "/dev" or path.startswith("/dev/") for path in paths)


def _asks(pod: Json) -> bool:
    if pod["spec"].get("resourceClaims"):
        return True
    limits = [c.get("resources", {}).get("limits") or {} for c in pod["spec"]["containers"]]
    return any("gpu" in name or "/mig-" in name for limit in limits for name in limit)
