"""The kubelet's thresholds, as a real server passes them on."""

from appliance.hardware import kubelet
from appliance.kube.client import KubeApi
from appliance.kube.resources import NODES


def test_a_kubelet_says_its_thresholds_through_the_server(api: KubeApi) -> None:
    nodes, _ = api.list(NODES.path())
    found = api.get(NODES.path(name=nodes[0]["metadata"]["name"], sub="proxy/configz"))
    hard, *_ = kubelet.thresholds(found["kubeletconfig"])
    assert {"nodefs.available", "imagefs.available"} <= set(hard)
