"""The manifests on a real server: what it takes, and what it drops."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance.kube.client import KubeApi
from appliance.kube.resources import Resource
from appliance.wiring.places import DEFAULT_STATE
from scripts.manifests import render

Json = dict[str, Any]
CLUSTER_WIDE = {
    "Namespace", "PriorityClass", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition",
    "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
}  # fmt: skip


def overlay_for(api: KubeApi) -> str:
    groups = api.get("/apis")["groups"]
    served = {v["groupVersion"] for g in groups for v in g["versions"]}
    has = "admissionregistration.k8s.io/v1" in served and any(
        r["name"] == "validatingadmissionpolicies"
        for r in api.get("/apis/admissionregistration.k8s.io/v1")["resources"]
    )
    return "k3s" if has else "old-server"


def path_of(body: Json) -> str:
    group, _, version = body["apiVersion"].rpartition("/")
    kind = body["kind"]
    plural = kind.lower()
    plural = (
        plural[:-1] + "ies"
        if plural.endswith("y")
        else plural + ("es" if plural[-1] == "s" else "s")
    )
    resource = Resource(group, version, plural, kind, namespaced=kind not in CLUSTER_WIDE)
    return resource.path(body["metadata"].get("namespace"), body["metadata"]["name"])


def install(api: KubeApi, state: Path = DEFAULT_STATE) -> list[Json]:
    """Apply our manifests, for a state folder; return them. Twice is the same as once."""
    text = render(overlay_for(api)).replace(str(DEFAULT_STATE), str(state))
    bodies: list[Json] = list(yaml.safe_load_all(text))
    bodies.sort(key=lambda b: b["kind"] not in ("Namespace", "CustomResourceDefinition"))
    for body in bodies:
        api.apply(path_of(body), body, manager="test-install", force=True)
    return bodies


def lost(wanted: object, found: object, where: str = "") -> list[str]:
    """Return the paths of what was asked for and is not there."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return [
            path
            for key, value in wanted.items()
            for path in (
                lost(value, found[key], f"{where}.{key}") if key in found else [f"{where}.{key}"]
            )
            if value not in ({}, [], None, "")
        ]
    if isinstance(wanted, list) and isinstance(found, list):
        pairs = zip(wanted, found, strict=False)
        return [p for i, (a, b) in enumerate(pairs) for p in lost(a, b, f"{where}[{i}]")]
    return []


@pytest.fixture(scope="module")
def installed(api: KubeApi) -> list[Json]:
    return install(api)


def test_the_server_keeps_all_of_the_overlay_for_it(api: KubeApi, installed: list[Json]) -> None:
    gone = [p for body in installed for p in lost(body, api.get(path_of(body)))]
    assert gone == []


def test_applying_them_again_changes_nothing(api: KubeApi, installed: list[Json]) -> None:
    def versions() -> dict[str, str]:
        paths = (path_of(body) for body in installed if body["kind"] != "DaemonSet")
        return {path: api.get(path)["metadata"]["resourceVersion"] for path in paths}

    before = versions()
    install(api)
    assert versions() == before
