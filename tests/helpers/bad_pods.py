"""Pods that must not run in the engines' namespace, each with the one rule that stops it."""

import copy
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
IMAGE = "localhost/edge-engine-llama-cpp@sha256:" + "1" * 64
FOLDER = "/var/lib/appliance/models/small/1.0.0/Q4_1"
LISTED: Json = {
    "data": {"image." + "1" * 64: "@sha256:" + "1" * 64, "model." + "2" * 64: FOLDER},
}


def good() -> Json:
    """Return the pod of an engine, as the driver renders it."""
    container = {
        "name": "engine",
        "image": IMAGE,
        "args": ["--model", "/models/model.gguf"],
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "startupProbe": {"httpGet": {"path": "/health", "port": "http", "scheme": "HTTP"}},
        "livenessProbe": {"httpGet": {"path": "/health", "port": "http", "scheme": "HTTP"}},
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "3"]}}},
        "volumeMounts": [{"name": "model", "mountPath": "/models", "readOnly": True}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "e", "namespace": "edge-engines"},
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [{"name": "model", "hostPath": {"path": FOLDER, "type": "Directory"}}],
        },
    }


def bad() -> dict[str, tuple[str, Json]]:
    """Return pods by what is wrong with them, each with the rule that stops it."""
    found = {}
    for rule, cases in _CASES.items():
        for what, change in cases.items():
            pod = good()
            change(pod["spec"])
            found[f"{rule}: {what}"] = (rule, pod)
    noted = good()
    noted["metadata"]["annotations"] = {
        "container.apparmor.security.beta.kubernetes.io/engine": "unconfined"
    }
    found["apparmor: switched off by annotation"] = ("apparmor", noted)
    return found


Change = Callable[[Json], object]


def _in(where: str, **values: Any) -> Change:
    """Return a change of fields: ``""`` is the pod, ``c`` its container, ``ps``/``cs`` contexts."""

    def change(spec: Json) -> None:
        first = spec["containers"][0]
        place: Json = {
            "": spec, "c": first, "ps": spec["securityContext"], "cs": first["securityContext"],
        }[where]  # fmt: skip
        place.update(copy.deepcopy(values))

    return change


def _without(where: str, name: str) -> Change:
    def change(spec: Json) -> None:
        first = spec["containers"][0]
        place: Json = {"": spec, "ps": spec["securityContext"], "cs": first["securityContext"]}[
            where
        ]
        del place[name]

    return change


def _volume(**source: Any) -> Change:
    return lambda spec: spec["volumes"].append({"name": "more", **copy.deepcopy(source)})


def _another(kind: str = "initContainers", **changed: Any) -> Change:
    """Return a change that adds a container like the good one, but for ``changed``."""

    def change(spec: Json) -> None:
        other = copy.deepcopy(spec["containers"][0])
        context = {**other["securityContext"], **changed.pop("securityContext", {})}
        spec[kind] = [{**other, "name": "other", "securityContext": context, **changed}]

    return change


def _moved(path: str) -> Change:
    def change(spec: Json) -> None:
        spec["volumes"][0]["hostPath"]["path"] = path

    return change


_TOKEN = {"sources": [{"serviceAccountToken": {"path": "token"}}]}
_WINDOWS = {"hostProcess": True}
_HOST_ASKED = {"httpGet": {"path": "/", "port": 80, "host": "169.254.169.254"}}
_ADMIN = {"drop": ["ALL"], "add": ["SYS_ADMIN"]}
_CASES: dict[str, dict[str, Change]] = {
    "host-namespaces": {
        "network": _in("", hostNetwork=True),
        "processes": _in("", hostPID=True),
        "IPC": _in("", hostIPC=True),
    },
    "host-ports": {
        "a port of the machine": _in("c", ports=[{"containerPort": 80, "hostPort": 80}])
    },
    "host-process": {
        "for the pod": _in("ps", windowsOptions=_WINDOWS),
        "for a container": _in("cs", windowsOptions=_WINDOWS),
    },
    "host-probes": {
        "liveness": _in("c", livenessProbe=_HOST_ASKED),
        "startup by TCP": _in("c", startupProbe={"tcpSocket": {"port": 22, "host": "10.0.0.1"}}),
        "before the end": _in("c", lifecycle={"preStop": _HOST_ASKED}),
    },
    "privileged": {
        "the engine": _in("cs", privileged=True),
        "what runs before it": _another(securityContext={"privileged": True}),
    },
    "no-new-privileges": {
        "unsaid": _without("cs", "allowPrivilegeEscalation"),
        "allowed": _in("cs", allowPrivilegeEscalation=True),
        "to a debugging container": _another(
            "ephemeralContainers", securityContext={"allowPrivilegeEscalation": True}
        ),
    },
    "capabilities": {
        "none dropped": _without("cs", "capabilities"),
        "one dropped": _in("cs", capabilities={"drop": ["NET_RAW"]}),
        "one added": _in("cs", capabilities=_ADMIN),
        "one added before it": _another(securityContext={"capabilities": _ADMIN}),
    },
    "run-as-non-root": {
        "unsaid": _without("ps", "runAsNonRoot"),
        "taken back": _in("cs", runAsNonRoot=False),
    },
    "run-as-user": {
        "root's pod": _in("ps", runAsUser=0),
        "root's container": _in("cs", runAsUser=0),
    },
    "seccomp": {
        "unsaid": _without("ps", "seccompProfile"),
        "off": _in("ps", seccompProfile={"type": "Unconfined"}),
        "off for one": _in("cs", seccompProfile={"type": "Unconfined"}),
    },
    "proc-mount": {"unmasked": _in("cs", procMount="Unmasked")},
    "sysctls": {"of the machine": _in("ps", sysctls=[{"name": "kernel.msgmax", "value": "1"}])},
    "apparmor": {"switched off": _in("cs", appArmorProfile={"type": "Unconfined"})},
    "selinux": {
        "type": _in("ps", seLinuxOptions={"type": "spc_t"}),
        "user": _in("cs", seLinuxOptions={"user": "system_u"}),
        "role": _in("cs", seLinuxOptions={"role": "sysadm_r"}),
    },
    "volume-types": {
        "NFS": _volume(nfs={"server": "a", "path": "/"}),
        "iSCSI": _volume(iscsi={"targetPortal": "a", "iqn": "b", "lun": 0}),
    },
    "host-path-read-only": {
        "writable models": _in("c", volumeMounts=[{"name": "model", "mountPath": "/models"}]),
        "writable for another": _another(volumeMounts=[{"name": "model", "mountPath": "/m"}]),
    },
    "no-token": {
        "unsaid": _without("", "automountServiceAccountToken"),
        "asked for": _in("", automountServiceAccountToken=True),
        "projected": _volume(projected=_TOKEN),
    },
    "read-only-root": {
        "unsaid": _without("cs", "readOnlyRootFilesystem"),
        "writable": _in("cs", readOnlyRootFilesystem=False),
    },
    "verified-image": {
        "a tag": _in("c", image="localhost/edge-engine-llama-cpp:0.1.0"),
        "an unknown digest": _in("c", image="localhost/x@sha256:" + "3" * 64),
        "an unknown one before it": _another(image="busybox"),
        "a debugging container": _another("ephemeralContainers", image="busybox"),
    },
    "verified-model": {
        "another model": _moved("/var/lib/appliance/models/other/1.0.0/Q4_1"),
        "all models": _moved("/var/lib/appliance/models/small"),
        "what lies below": _moved(FOLDER + "/deeper"),
    },
}
ALSO: dict[str, Json] = {}
"""Hosts' paths outside the models are stopped by two policies: one alone must do."""
for _name, _path in {
    "root": "/",
    "the models' folder itself": "/var/lib/appliance/models/",
    "the state": "/var/lib/appliance/identity",
    "a name like it": "/var/lib/appliance/models-of-mine",
    "a way out": "/var/lib/appliance/models/../identity",
    "the runtime's socket": "/run/containerd/containerd.sock",
}.items():
    ALSO[_name] = good()
    _moved(_path)(ALSO[_name]["spec"])
