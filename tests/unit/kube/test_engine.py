"""What replicas are made of, checked against the schemas of a current server."""

import dataclasses
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import kubernetes.client
import kubernetes_validate
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.core.model import Replica
from appliance.errors import EngineError
from appliance.kube.marks import REPLICA
from appliance.kube.pods.rendering import (
    Manifest,
    Owner,
    PodSettings,
    Rendering,
    quantity,
    replica_in,
    service_name,
)
from appliance.runtime.profile import profiles
from tests.helpers.abilities import abilities
from tests.helpers.counting import engine
from tests.helpers.models import variant

LLAMA = profiles()["llama-cpp"]
OWNER = Owner("notes", "0b4c3f6e-0000-4000-8000-000000000000")
SETTINGS = PodSettings("edge-engines", Path("/var/lib/appliance/models"))
NEW, OLD = abilities(), abilities((1, 20))


def replica(**changes: Any) -> Replica:
    plain = Replica("notes-0", "notes", variant(), "llama-cpp", 2048, 2, 1 << 30)
    return dataclasses.replace(plain, **changes)


def render(which: Replica, server: Any = NEW, **changes: Any) -> list[Manifest]:
    how = Rendering(dataclasses.replace(SETTINGS, **changes), server)
    return [*how.replica(which, LLAMA, OWNER), *how.shared(which.deployment, LLAMA, OWNER)]


def body(kind: str, found: list[Manifest]) -> dict[str, Any]:
    one: dict[str, Any]
    (one,) = (m.body for m in found if m.resource.kind == kind)
    return one


def pod(found: list[Manifest]) -> dict[str, Any]:
    spec: dict[str, Any] = body("Deployment", found)["spec"]["template"]["spec"]
    return spec


def container(found: list[Manifest]) -> dict[str, Any]:
    one: dict[str, Any]
    (one,) = pod(found)["containers"]
    return one


def check(found: dict[str, Any]) -> None:
    """Hold an object against the schema, and against the models of the client."""
    kubernetes_validate.validate(found, "1.37", strict=True)
    model = found["apiVersion"].rpartition("/")[2].capitalize() + found["kind"]
    client: Any = kubernetes.client.ApiClient()
    read = client.deserialize(json.dumps(found), model, "application/json")
    assert client.sanitize_for_serialization(read) == found


replicas = st.builds(
    replica,
    context=st.integers(64, 1 << 20),
    slots=st.integers(1, 64),
    memory_limit_bytes=st.integers(1 << 20, 1 << 42),
    priority=st.sampled_from(["critical", "standard", "batch"]),
    nodes=st.lists(st.sampled_from(["a", "b", "c.example"]), unique=True).map(tuple),
).flatmap(
    lambda r: st.sampled_from(
        [r, dataclasses.replace(r, gpus=2), dataclasses.replace(r, mig="1g.10gb")]
    )
)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
    which=replicas,
    claims=st.booleans(),
    runtime_class=st.sampled_from(["", "nvidia"]),
    fenced=st.frozensets(st.sampled_from(["GPU-1", "GPU-2"])),
    seconds=st.floats(0, 600),
)
def test_all_that_is_rendered_is_valid_on_a_current_server(
    which: Replica, *, claims: bool, runtime_class: str, fenced: frozenset[str], seconds: float
) -> None:
    found = render(
        which, abilities(claims=claims), runtime_class=runtime_class, fenced=fenced,
        image="localhost/e@sha256:" + "a" * 64, drain_s=seconds, settle_s=seconds / 10,
    )  # fmt: skip
    for manifest in found:
        check(manifest.body)
        assert manifest.body["metadata"]["ownerReferences"][0]["uid"] == OWNER.uid
        assert manifest.path.endswith("/" + manifest.name)
    assert replica_in(body("Deployment", found)["metadata"]["annotations"]) == which


def test_a_field_that_no_server_knows_is_found() -> None:
    found = body("Deployment", render(replica()))
    found["spec"]["template"]["spec"]["tolerate"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        check(found)


def test_an_engine_has_no_right_that_it_does_not_need() -> None:
    found = pod(render(replica()))
    assert found["automountServiceAccountToken"] is False
    assert found["enableServiceLinks"] is False
    assert found["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert found["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for name in ("hostNetwork", "hostPID", "hostIPC", "serviceAccountName", "tolerations"):
        assert name not in found
    path = "/var/lib/appliance/models/small/1.0.0/Q4_0"
    (volume,) = found["volumes"]
    assert volume == {"name": "model", "hostPath": {"path": path, "type": "Directory"}}
    (mount,) = found["containers"][0]["volumeMounts"]
    assert mount == {"name": "model", "mountPath": "/models", "readOnly": True}


def test_an_engine_is_told_its_model_and_its_address() -> None:
    found = container(render(replica()))
    pairs = dict(zip(found["args"][::2], found["args"][1::2], strict=False))
    assert pairs["--model"] == f"/models/{variant().file}"
    assert (pairs["--ctx-size"], pairs["--parallel"]) == ("4096", "2")
    assert found["args"][found["args"].index("--host") :][:4] == [
        "--host", "0.0.0.0", "--port", "8080",
    ]  # fmt: skip
    assert not any("{" in part or "sock" in part for part in found["args"])
    assert found["image"].startswith("localhost/edge-engine-llama-cpp:")


def test_the_probes_come_from_the_profile() -> None:
    found = container(render(replica()))
    for kind in ("startup", "readiness", "liveness"):
        assert found[f"{kind}Probe"]["httpGet"]["path"] == "/health"
    assert found["startupProbe"]["failureThreshold"] == 600
    assert found["livenessProbe"]["failureThreshold"] == 6


def test_gpus_are_claimed_where_the_server_can_and_counted_where_it_cannot() -> None:
    found = render(replica(gpus=2), image="i")
    claim = body("ResourceClaimTemplate", found)
    (request,) = claim["spec"]["spec"]["devices"]["requests"]
    assert request["exactly"] == {
        "deviceClassName": "gpu.nvidia.com", "allocationMode": "ExactCount", "count": 2,
    }  # fmt: skip
    assert pod(found)["resourceClaims"] == [
        {"name": "gpu", "resourceClaimTemplateName": claim["metadata"]["name"]}
    ]
    assert container(found)["resources"]["claims"] == [{"name": "gpu"}]
    assert "nvidia.com/gpu" not in container(found)["resources"]["limits"]

    found = render(replica(gpus=2), OLD, image="i")
    assert container(found)["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert "resourceClaims" not in pod(found)
    found = render(replica(mig="1g.10gb"), OLD, image="i")
    assert container(found)["resources"]["limits"]["nvidia.com/mig-1g.10gb"] == "1"
    assert not any(m.resource.kind == "ResourceClaimTemplate" for m in found)


def test_a_slice_is_claimed_by_its_profile_and_never_from_a_fenced_gpu() -> None:
    found = render(replica(mig="1g.10gb"), image="i", fenced=frozenset({"GPU-2", "GPU-1"}))
    (request,) = body("ResourceClaimTemplate", found)["spec"]["spec"]["devices"]["requests"]
    domain = 'device.attributes["gpu.nvidia.com"]'
    assert request["exactly"]["deviceClassName"] == "mig.nvidia.com"
    assert [s["cel"]["expression"] for s in request["exactly"]["selectors"]] == [
        f'{domain}.profile == "1g.10gb"',
        f'!({domain}.parentUUID in ["GPU-1", "GPU-2"])',
    ]


def test_a_claim_that_would_be_another_has_another_name() -> None:
    names = {
        body("ResourceClaimTemplate", render(replica(gpus=n), image="i"))["metadata"]["name"]
        for n in (1, 2, 1)
    }
    assert len(names) == 2


def test_an_engine_with_a_gpu_needs_an_image_that_somebody_named() -> None:
    with pytest.raises(EngineError, match="no engine image for cuda") as caught:
        render(replica(gpus=1))
    assert "kubernetes.engine_image" in str(caught.value.hint)
    assert "--n-gpu-layers" in container(render(replica(gpus=1), image="i"))["args"]
    assert "--n-gpu-layers" not in container(render(replica(), image="i"))["args"]


def test_an_old_server_gets_what_it_knows() -> None:
    found = render(replica(), OLD)
    assert container(found)["lifecycle"]["preStop"] == {"exec": {"command": ["sleep", "3"]}}
    assert body("PodDisruptionBudget", found)["apiVersion"] == "policy/v1beta1"
    found = render(replica(), NEW)
    assert container(found)["lifecycle"]["preStop"] == {"sleep": {"seconds": 3}}
    assert body("PodDisruptionBudget", found)["apiVersion"] == "policy/v1"


def test_it_may_finish_what_it_works_on() -> None:
    found = pod(render(replica(), settle_s=3, drain_s=30))
    assert found["terminationGracePeriodSeconds"] == 38


def test_our_images_drain_by_themselves_and_others_by_a_script() -> None:
    ours = "registry.site/edge/edge-engine-llama-cpp@sha256:" + "a" * 64
    found = container(render(replica(), image=ours, drain_s=12))
    assert {"name": "EDGE_DRAIN_S", "value": "12"} in found["env"]
    assert found["lifecycle"]["preStop"] == {"sleep": {"seconds": 3}}
    found = container(render(replica(), image="ghcr.io/ggml-org/llama.cpp:server", drain_s=12))
    (shell, flag, script) = found["lifecycle"]["preStop"]["exec"]["command"]
    assert (shell, flag) == ("sh", "-c")
    assert script.startswith("sleep 3; ")
    assert "127.0.0.1:8080/metrics" in script
    assert "-lt 12 " in script


@pytest.mark.slow
@pytest.mark.parametrize(("busy", "least_s", "most_s"), [(0, 1, 2.5), (1, 3, 4.5)])
def test_the_script_waits_for_what_runs_and_no_longer(
    busy: int, least_s: float, most_s: float
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl on this machine, which others' images have")
    text = f"# TYPE\nllamacpp:requests_processing {busy}\nllamacpp:requests_deferred 0\n"
    with engine(text) as port:
        assert LLAMA.network is not None
        moved = dataclasses.replace(LLAMA, network=dataclasses.replace(LLAMA.network, port=port))
        how = Rendering(dataclasses.replace(SETTINGS, image="i", settle_s=1, drain_s=2), NEW)
        hook = container(how.replica(replica(), moved, OWNER))["lifecycle"]["preStop"]
        begun = time.monotonic()
        subprocess.run(hook["exec"]["command"], check=False)
        assert least_s <= time.monotonic() - begun < most_s


def test_the_machines_that_hold_the_weights_are_where_it_may_run() -> None:
    found = pod(render(replica(nodes=("b", "a"))))["affinity"]["nodeAffinity"]
    ((term,),) = found["requiredDuringSchedulingIgnoredDuringExecution"].values()
    assert term["matchExpressions"] == [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["a", "b"]}
    ]
    assert "affinity" not in pod(render(replica()))


def test_other_machines_make_another_mark_and_the_same_revision() -> None:
    one, other = (render(replica(nodes=nodes))[0] for nodes in (("a",), ("a", "b")))
    assert one.mark != other.mark
    revisions = {
        m.body["metadata"]["annotations"]["edge-appliance.dev/revision"] for m in (one, other)
    }
    assert len(revisions) == 1


def test_an_engine_that_knows_no_network_is_refused() -> None:
    alone = dataclasses.replace(LLAMA, network=None)
    with pytest.raises(EngineError, match="cannot run in a cluster"):
        Rendering(SETTINGS, NEW).replica(replica(), alone, OWNER)


@pytest.mark.parametrize(
    ("count", "text"),
    [(1, "1Mi"), (1 << 20, "1Mi"), (1 << 30, "1Gi"), (3 << 29, "1536Mi"), (1 << 41, "2Ti"),
     ((1 << 30) + 1, "1025Mi")],
)  # fmt: skip
def test_sizes_are_written_as_the_server_writes_them(count: int, text: str) -> None:
    assert quantity(count) == text


@pytest.mark.parametrize(
    ("name", "service"),
    [("notes", "notes"), ("m-7b", "m-7b"), ("7b", "m-7b-925"), ("9" + "a" * 59, "m-9" + "a" * 59)],
)
def test_a_service_begins_with_a_letter(name: str, service: str) -> None:
    found = service_name(name)
    assert found.startswith(service)
    assert len(found) <= 63
    assert found == name or len(found) > 60, "no ModelDeployment has this name for its own"


@pytest.mark.parametrize("text", ["", "{}", "[]", "nonsense", '{"variant": 1}'])
def test_an_annotation_that_names_no_replica_is_none(text: str) -> None:
    assert replica_in({REPLICA: text}) is None


@pytest.mark.parametrize(
    "forged",
    [
        {"engine": "unknown"},
        {"context": "512"},
        {"memory_limit_bytes": None},
        {"nodes": [1]},
        {"variant": {"version": "/etc"}},
        {"variant": {"model": "../.."}},
        {"variant": {"file": 7}},
    ],
    ids=str,
)
def test_an_annotation_that_somebody_forged_is_none(forged: dict[str, Any]) -> None:
    wire = replica().to_wire()
    text = json.dumps(
        {**wire, **forged, "variant": {**wire["variant"], **forged.get("variant", {})}}
    )
    assert replica_in({REPLICA: json.dumps(wire)}) == replica()
    assert replica_in({REPLICA: text}) is None
