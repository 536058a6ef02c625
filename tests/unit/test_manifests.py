"""What is applied to a cluster, against the schemas of a current one."""

from functools import cache
from typing import Any

import kubernetes_validate
import pytest
import yaml

from appliance import __version__
from scripts.manifests import OVERLAYS, render

pytestmark = pytest.mark.slow

Json = dict[str, Any]


@cache
def objects(overlay: str) -> list[Json]:
    return list(yaml.safe_load_all(render(overlay)))


def named(overlay: str, kind: str, name: str) -> Json:
    (found,) = (
        o for o in objects(overlay) if (o["kind"], o["metadata"]["name"]) == (kind, name)
    )  # fmt: skip
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_one_of_a_current_server(overlay: str) -> None:
    for body in objects(overlay):
        kubernetes_validate.validate(body, "1.37", strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_images_are_named_by_the_overlay(overlay: str) -> None:
    images = {c["image"] for c in containers(overlay)}
    assert images == {f"localhost/edge-appliance:{__version__}"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_container_has_more_rights_than_it_needs(overlay: str) -> None:
    for container in containers(overlay):
        context = container["securityContext"]
        given = ["CHOWN"] if container["name"] == "own" else None
        assert context["capabilities"].get("add") == given
        assert context["capabilities"]["drop"] == ["ALL"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False


def test_an_old_server_gets_all_but_what_it_does_not_know() -> None:
    def keys(overlay: str) -> set[tuple[str, str]]:
        return {(o["kind"], o["metadata"]["name"]) for o in objects(overlay)}

    assert keys("k3s") - keys("old-server") == {
        (kind, name)
        for kind in ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
        for name in ("edge-contained", "edge-verified")
    }
    rolling = named("old-server", "DaemonSet", "edge-gateway")["spec"]["updateStrategy"]
    assert rolling["rollingUpdate"] == {"maxUnavailable": 1}


def test_each_policy_is_bound_to_the_engines_namespace_and_refuses() -> None:
    for name in ("edge-contained", "edge-verified"):
        policy = named("k3s", "ValidatingAdmissionPolicy", name)["spec"]
        bound = named("k3s", "ValidatingAdmissionPolicyBinding", name)["spec"]
        assert policy["failurePolicy"] == "Fail"
        assert (bound["policyName"], bound["validationActions"]) == (name, ["Deny", "Audit"])
        chosen = bound["matchResources"]["namespaceSelector"]["matchLabels"]
        assert chosen == {"kubernetes.io/metadata.name": "edge-engines"}
    assert bound["paramRef"]["parameterNotFoundAction"] == "Deny"


def containers(overlay: str) -> list[Json]:
    pods = [o["spec"]["template"]["spec"] for o in objects(overlay) if o["kind"] == "DaemonSet"]
    return [c for pod in pods for c in (*pod["containers"], *pod.get("initContainers", ()))]
