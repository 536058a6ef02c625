"""A ModelDeployment on a real server, and the controllers that look after it."""

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.kube.client import Json, KubeApi
from appliance.kube.resources import DEPLOYMENTS, LEASES, MODEL_DEPLOYMENTS, NAMESPACES, NODES
from tests.helpers.definitions import install
from tests.helpers.kubenode import KubeNode, prepared
from tests.helpers.madeup import have_priorities
from tests.helpers.organisation import Organisation
from tests.helpers.waiting import wait_until

_KUBECTL = str(Path(sys.executable).parent / "kubectl")
_MOST_S = 90


class Loop:
    """A namespace that controllers look after, and what kubectl does in it."""

    def __init__(self, api: KubeApi, kubeconfig: Path, box: Path, folder: Path) -> None:
        self.api, self.kubeconfig = api, kubeconfig
        self.namespace = f"loop-{uuid.uuid4().hex[:8]}"
        self.nodes: list[KubeNode] = []
        self._box, self._folder = box, folder
        have_priorities(api)
        api.create(NAMESPACES.path(), {"metadata": {"name": self.namespace}})
        items, _ = api.list(NODES.path())
        self.machine = items[0]["metadata"]["name"] if items else "no-machine"

    def controller(self, name: str = "") -> KubeNode:
        made = KubeNode(
            self._box, self._folder / f"box-{len(self.nodes)}", self.kubeconfig, self.namespace,
            name=name or self.machine, kubernetes_engine_image="localhost/none:1",
        )  # fmt: skip
        me = made.state / "identity" / "node.json"  # two nodes of one name are one, started anew
        me.write_text(me.read_text().replace("box-1", f"box-{len(self.nodes) + 1}"))
        made.start()
        self.nodes.append(made)
        return made

    def kubectl(self, *arguments: str, said: str = "") -> str:
        done = subprocess.run(
            [_KUBECTL, "--kubeconfig", str(self.kubeconfig), "-n", self.namespace, *arguments],
            input=said, text=True, check=True, stdout=subprocess.PIPE,
        )  # fmt: skip
        return done.stdout

    def apply(self, name: str = "notes", **spec: Any) -> None:
        body = {
            "apiVersion": MODEL_DEPLOYMENTS.api_version, "kind": "ModelDeployment",
            "metadata": {"name": name}, "spec": {"model": "small", "context": 256, **spec},
        }  # fmt: skip
        self.kubectl("apply", "--validate=false", "-f", "-", said=json.dumps(body))

    def found(self, name: str = "notes") -> Json:
        return self.api.get(MODEL_DEPLOYMENTS.path(self.namespace, name))

    def ready(self, name: str = "notes") -> tuple[str, str, str]:
        """Return status, reason and message of ``Ready``."""
        stated = self.found(name).get("status", {}).get("conditions", ())
        found = next((c for c in stated if c["type"] == "Ready"), None)
        return ("", "", "") if found is None else (
            found["status"], found["reason"], found["message"]
        )  # fmt: skip

    def engines(self) -> dict[str, str]:
        """Return the engines' Deployments, and the context that each is told."""
        items, _ = self.api.list(DEPLOYMENTS.path(self.namespace))
        return {
            i["metadata"]["name"]: json.dumps(i["spec"]["template"]["spec"]["containers"][0])
            for i in items
            if "deletionTimestamp" not in i["metadata"]
        }

    def generations(self) -> dict[str, int]:
        """Return what changes when somebody writes a spec; the kubelet's tries are in statuses."""
        items = [self.found(), *self.api.list(DEPLOYMENTS.path(self.namespace))[0]]
        return {i["metadata"]["uid"]: i["metadata"]["generation"] for i in items}

    def close(self) -> None:
        for node in self.nodes:
            node.stop()
        self.api.delete(NAMESPACES.path(name=self.namespace))


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, organisation: Organisation) -> Path:
    folder = tmp_path_factory.mktemp("box")
    return prepared(folder / "state", organisation, organisation.bundle())


@pytest.fixture
def loop(api: KubeApi, kubeconfig: Path, box: Path, tmp_path: Path) -> Iterator[Loop]:
    install(api)
    made = Loop(api, kubeconfig, box, tmp_path)
    yield made
    made.close()


def until(holds: Callable[[], object], loop: Loop) -> None:
    logs = ", ".join(str(node.log) for node in loop.nodes)
    wait_until(holds, f"what is waited for (see {logs})", _MOST_S)


def test_apply_scale_edit_and_delete_with_kubectl(loop: Loop) -> None:
    loop.controller()
    loop.apply()
    until(lambda: loop.engines().keys() == {"notes-0"}, loop)
    until(lambda: loop.found().get("status", {}).get("observedGeneration") == 1, loop)
    found = loop.found()["status"]
    assert {c["type"] for c in found["conditions"]} == {
        "Ready", "Progressing", "Degraded", "Fits", "Verified", "Drifted",
    }  # fmt: skip
    assert (found["owner"], found["variant"], found["version"]) == ("cluster", "Q4_0", "1.0.0")

    loop.kubectl("scale", "--replicas=2", "modeldeployment/notes")
    until(lambda: loop.engines().keys() == {"notes-0", "notes-1"}, loop)
    loop.kubectl("scale", "--replicas=1", "modeldeployment/notes")
    until(lambda: loop.engines().keys() == {"notes-0"}, loop)

    loop.apply(scaling={"min": 1, "max": 2})
    loop.kubectl("scale", "--replicas=5", "modeldeployment/notes")
    until(lambda: loop.engines().keys() == {"notes-0", "notes-1"}, loop)
    until(lambda: "5 asked, 2 allowed by scaling.max" in json.dumps(loop.found()["status"]), loop)
    loop.kubectl("scale", "--replicas=1", "modeldeployment/notes")
    until(lambda: loop.engines().keys() == {"notes-0"}, loop)

    before = loop.engines()["notes-0"]
    loop.apply(context=512)
    until(lambda: loop.engines().get("notes-0", before) != before, loop)

    loop.kubectl("delete", "modeldeployment/notes")
    until(lambda: not loop.engines(), loop)


def test_what_may_sleep_sleeps_until_it_is_wanted(loop: Loop) -> None:
    loop.controller()
    loop.apply(scaling={"min": 0, "max": 1, "idleAfter": "1h"})
    until(lambda: loop.ready()[:2] == ("True", "ScaledToZero"), loop)
    assert loop.ready()[2].startswith("idle; a request wakes it")
    assert not loop.engines()
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    loop.kubectl("annotate", "modeldeployment/notes", f"edge-appliance.dev/demand={now}")
    until(lambda: loop.engines().keys() == {"notes-0"}, loop)


def test_what_is_not_in_force_says_why_and_what_runs_goes_on(loop: Loop) -> None:
    loop.controller()
    loop.apply()
    until(lambda: loop.engines().keys() == {"notes-0"}, loop)
    loop.apply(scaling={"min": 3, "max": 1})
    until(lambda: loop.ready()[1] == "Invalid", loop)
    assert "min is above max" in loop.ready()[2]
    assert loop.engines().keys() == {"notes-0"}
    elsewhere = MODEL_DEPLOYMENTS.path("default", f"stray-{loop.namespace}")
    stray = {
        "apiVersion": MODEL_DEPLOYMENTS.api_version, "kind": "ModelDeployment",
        "metadata": {"name": elsewhere.rsplit("/", 1)[1]}, "spec": {"model": "small"},
    }  # fmt: skip
    loop.api.apply(elsewhere, stray)
    try:
        until(lambda: "WrongNamespace" in json.dumps(loop.api.get(elsewhere).get("status")), loop)
    finally:
        loop.api.delete(elsewhere)


def test_logs_are_read_from_the_cluster(loop: Loop) -> None:
    node = loop.controller()
    loop.apply()
    until(lambda: loop.engines().keys() == {"notes-0"}, loop)
    until(lambda: "notes-0" in node.said("logs", "notes"), loop)
    found = json.loads(node.said("logs", "notes", "--json"))
    assert found["notes-0"][0].startswith("(no log: "), "its image cannot be had"
    assert "no deployment 'other'" in node.said("logs", "other")


def test_two_controllers_do_not_fight_and_the_second_takes_over(loop: Loop) -> None:
    first = loop.controller()
    loop.apply()
    until(lambda: loop.engines().keys() == {"notes-0"}, loop)
    loop.controller(name="another-machine")
    until(lambda: len(loop.api.list(LEASES.path(loop.namespace))[0]) >= 3, loop)
    time.sleep(5)
    before = loop.generations()
    time.sleep(10)
    assert loop.generations() == before, "objects that nobody touched were written"
    first.stop()
    loop.kubectl("scale", "--replicas=2", "modeldeployment/notes")
    until(lambda: loop.engines().keys() == {"notes-0", "notes-1"}, loop)


def test_without_the_lease_nobody_is_gone(loop: Loop) -> None:
    """Who was killed comes back as itself, and need not wait for its own lease to run out."""
    node = loop.controller()
    loop.apply()
    until(lambda: loop.engines().keys() == {"notes-0"}, loop)
    node.kill()
    began = time.monotonic()
    node.start()
    loop.kubectl("scale", "--replicas=2", "modeldeployment/notes")
    until(lambda: loop.engines().keys() == {"notes-0", "notes-1"}, loop)
    assert time.monotonic() - began < 60
