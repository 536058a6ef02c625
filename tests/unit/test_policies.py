"""The admission policies: each bad pod is stopped by its rule, and by that one alone."""

import copy
from pathlib import Path

import pytest

from appliance.core.ids import Digest
from appliance.kube.objects import verified
from tests.helpers.bad_pods import ALSO, FOLDER, LISTED, bad, good
from tests.helpers.models import variant
from tests.helpers.policies import Json, broken, rules

pytestmark = pytest.mark.slow

BAD = bad()


def in_template(kind: str, pod: Json) -> Json:
    meta = {"annotations": pod["metadata"].get("annotations", {})}
    spec: Json = {"template": {"metadata": meta, "spec": pod["spec"]}}
    if kind == "CronJob":
        spec = {"jobTemplate": {"spec": spec}}
    return {"kind": kind, "metadata": {"name": "e"}, "spec": spec}


def test_an_engine_may_run() -> None:
    assert broken(good(), LISTED) == []


@pytest.mark.parametrize("kind", ["Deployment", "ReplicaSet", "Job", "CronJob"])
def test_what_makes_an_engine_may_be_made(kind: str) -> None:
    assert broken(in_template(kind, good()), LISTED) == []


@pytest.mark.parametrize("what", BAD)
def test_a_bad_pod_is_stopped_by_the_named_rule(what: str) -> None:
    rule, pod = BAD[what]
    assert broken(pod, LISTED) == [rule]


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("kind", ["Deployment", "CronJob"])
def test_so_is_what_would_make_it(what: str, kind: str) -> None:
    rule, pod = BAD[what]
    assert broken(in_template(kind, pod), LISTED) == [rule]


def test_with_a_rule_switched_off_its_own_pods_pass_and_no_others() -> None:
    stopped = {what: set(broken(pod, LISTED)) for what, (_, pod) in BAD.items()}
    for rule in rules():
        pass_now = {what for what, by in stopped.items() if by <= {rule}}
        assert pass_now == {what for what, (own, _) in BAD.items() if own == rule}


@pytest.mark.parametrize("what", ALSO)
def test_a_path_outside_the_models_is_stopped_although_it_were_listed(what: str) -> None:
    pod = ALSO[what]
    path = pod["spec"]["volumes"][0]["hostPath"]["path"]
    listed = {"data": {**LISTED["data"], "model." + "4" * 64: path}}
    assert broken(pod, LISTED) == ["host-path-models", "verified-model"]
    assert broken(pod, listed) == ["host-path-models"]


def test_each_rule_has_a_pod_that_only_it_stops() -> None:
    # An image as a volume is stopped by the types of volumes, too: that field is a young one.
    proven = {rule for rule, _ in BAD.values()} | {"host-path-models", "no-image-volume"}
    assert set(rules()) == proven
    assert len(BAD) + len(ALSO) >= 50


def test_no_image_comes_in_as_a_volume() -> None:
    pod = good()
    pod["spec"]["volumes"].append({"name": "i", "image": {"reference": "busybox"}})
    assert broken(pod, LISTED) == ["volume-types", "no-image-volume"]


def test_without_the_list_nothing_new_runs() -> None:
    assert broken(good(), None) == ["no-list"]
    assert broken(good(), {}) == ["verified-image", "verified-model"]


def test_an_empty_entry_lets_nothing_in() -> None:
    assert broken(good(), {"data": {"image.x": "", "model.y": ""}}) == [
        "verified-image", "verified-model",
    ]  # fmt: skip


def test_what_runs_may_be_wound_down_after_its_digest_was_withdrawn() -> None:
    running = in_template("Deployment", good())
    stopped = copy.deepcopy(running)
    stopped["spec"]["replicas"] = 0
    assert broken(stopped, {}, old=running) == []
    changed = copy.deepcopy(running)
    changed["spec"]["template"]["spec"]["containers"][0]["args"] = ["--other"]
    assert broken(changed, {}, old=running) == ["verified-image", "verified-model"]


def test_what_the_controller_writes_lets_in_what_it_verified() -> None:
    models, image = Path("/var/lib/appliance/models"), Digest("sha256:" + "1" * 64)
    held, other = variant("small", name="Q4_1"), variant("small", name="Q8_0")
    written = verified.body([image], [held], models=models, namespace="edge-system")
    assert list(written["data"].values()) == ["@" + image, FOLDER]
    assert broken(good(), written) == []
    less = verified.body([image], [other], models=models, namespace="edge-system")
    assert broken(good(), less) == ["verified-model"]


def test_an_image_without_a_digest_is_never_listed() -> None:
    digest = "sha256:" + "1" * 64
    assert verified.digest_of(f"localhost/x@{digest}") == digest
    assert verified.digest_of("localhost/x:1") is None
    assert verified.digest_of("localhost/x@sha256:1") is None
