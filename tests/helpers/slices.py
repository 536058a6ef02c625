"""EndpointSlices as a server's controller writes them."""

from collections.abc import Mapping
from typing import Any

from appliance.kube.client import Json

LABEL = "edge-appliance.dev/deployment"


def endpoint_slice(
    deployment: str, addresses: Mapping[str, str], *, port: int = 8080, **conditions: bool
) -> Json:
    """Return a slice of ``v1`` with these pods, by name, and their addresses."""
    said: dict[str, Any] = {"ready": True, "serving": True, "terminating": False, **conditions}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{deployment}-slice", "labels": {LABEL: deployment}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [address],
                "conditions": dict(said),
                "targetRef": {"kind": "Pod", "name": pod},
                "nodeName": "n1",
            }
            for pod, address in addresses.items()
        ],
    }


def in_old_words(found: Json) -> Json:
    """Return it as ``v1beta1`` of a server that knows of no pods that end."""
    endpoints = [
        {
            "addresses": e["addresses"],
            "conditions": {"ready": e["conditions"]["ready"]},
            "targetRef": e["targetRef"],
            "topology": {"kubernetes.io/hostname": e["nodeName"]},
        }
        for e in found["endpoints"]
    ]
    return {**found, "apiVersion": "discovery.k8s.io/v1beta1", "endpoints": endpoints}
