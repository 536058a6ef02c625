"""The controller is killed before and after every change that it makes; the objects end equal."""

import copy
import difflib
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import NotFoundError
from appliance.kube.client import Json, KubeApi
from appliance.kube.resources import (
    BUDGETS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    MODEL_DEPLOYMENTS,
    MODELS,
    NAMESPACES,
    OLD_BUDGETS,
    SERVICES,
    SITES,
    Resource,
)
from tests.helpers.definitions import install
from tests.helpers.kubenode import KubeNode, own_namespace, prepared
from tests.helpers.kubeproxy import Change, KubeProxy, When
from tests.helpers.madeup import have_priorities, made_up_nodes
from tests.helpers.organisation import Organisation
from tests.helpers.waiting import wait_until

_KINDS = (DEPLOYMENTS, SERVICES, BUDGETS, OLD_BUDGETS, CONFIG_MAPS, MODEL_DEPLOYMENTS)
_WIDE = (MODELS, SITES)
_OF_THE_SERVER = (
    "uid", "resourceVersion", "creationTimestamp", "managedFields", "generation", "selfLink",
    "clusterIP", "clusterIPs", "lastTransitionTime", "observedGeneration",
)  # fmt: skip
_SETTLED_S = 60

_KILLS = 4
"""How often one run of the scenario is struck: each change is, in some run, before and after."""

MACHINE = "no-such-machine"
"""A Node that is there and Ready as far as the API server knows, and runs nothing."""

Objects = dict[str, Json]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, organisation: Organisation) -> Path:
    folder = tmp_path_factory.mktemp("box")
    return prepared(folder / "state", organisation, organisation.bundle())


def deployment(**spec: Any) -> Json:
    return {
        "apiVersion": MODEL_DEPLOYMENTS.api_version,
        "kind": "ModelDeployment",
        "metadata": {"name": "notes"},
        "spec": {"model": "small", "context": 256, **spec},
    }


class Run:
    """One run of the scenario: apply, scale, edit, delete; each ends when the world settled."""

    def __init__(self, api: KubeApi, proxy: KubeProxy, box: Path, folder: Path) -> None:
        self.api, self.proxy = api, proxy
        self.namespace = f"k-{uuid.uuid4().hex[:8]}"
        own_namespace(api, self.namespace)
        kubeconfig = proxy.kubeconfig(folder.parent / f"{folder.name}.kubeconfig")
        self.node = KubeNode(box, folder, kubeconfig, self.namespace, name=MACHINE)
        self.path = MODEL_DEPLOYMENTS.path(self.namespace, "notes")

    def play(self) -> list[Objects]:
        """Return the objects after each step."""
        self.node.start()
        found = []
        try:
            for step in (self.apply, self.scale, self.edit, self.delete):
                settled = step()
                wait_until(settled, f"{step.__name__} in {self.node.log}", _SETTLED_S)
                found.append(self.objects())
        finally:
            self.node.stop()
            self.api.delete(NAMESPACES.path(name=self.namespace))
        return found

    def apply(self) -> Callable[[], bool]:
        self.api.apply(self.path, deployment(), manager="somebody")
        return lambda: self.engines() == ["notes-0"] and self.has_settled()

    def scale(self) -> Callable[[], bool]:
        self.api.merge(f"{self.path}/scale", {"spec": {"replicas": 2}})
        return lambda: self.engines() == ["notes-0", "notes-1"] and self.has_settled()

    def edit(self) -> Callable[[], bool]:
        before = self.revisions()
        self.api.merge(self.path, {"spec": {"context": 512}})
        return lambda: (
            len(self.revisions()) == 2 and not before & self.revisions() and self.has_settled()
        )

    def delete(self) -> Callable[[], bool]:
        self.api.delete(self.path)
        return lambda: not self.engines() and not self.small()

    def has_settled(self) -> bool:
        """Whether the status speaks of what is asked, the small objects are there, all is still."""
        found = self.api.get(self.path)
        status = found.get("status", {})
        if status.get("observedGeneration") != found["metadata"]["generation"]:
            return False
        conditions = {c["type"]: c["status"] for c in status.get("conditions", ())}
        if conditions.get("Progressing") != "False":
            return False
        if status.get("replicas") != found["spec"]["replicas"]:
            return False
        return len(self.small()) == 2 and self.is_still()

    def is_still(self) -> bool:
        """Whether nothing is changed any more for a while."""
        seen = len(self.proxy.changes)
        try:
            wait_until(lambda: len(self.proxy.changes) != seen, at_most_s=1.5)
        except AssertionError:
            return True
        return False

    def small(self) -> list[str]:
        """Return the Service and the budget, or what there is of them."""
        budgets = self.objects_of(BUDGETS) or self.objects_of(OLD_BUDGETS)
        return [*self.objects_of(SERVICES), *budgets]

    def engines(self) -> list[str]:
        return sorted(self.objects_of(DEPLOYMENTS))

    def revisions(self) -> set[str]:
        key = "edge-appliance.dev/revision"
        found = self.objects_of(DEPLOYMENTS).values()
        return {d["metadata"]["annotations"][key] + d["metadata"]["name"] for d in found}

    def objects_of(self, kind: Resource) -> Objects:
        try:
            items, _ = self.api.list(kind.path(self.namespace))
        except NotFoundError:
            return {}
        return {
            i["metadata"]["name"]: i for i in items if not i["metadata"].get("deletionTimestamp")
        }

    def objects(self) -> Objects:
        """Return all, without what the server sets."""
        found = {
            f"{kind.kind}/{name}": plain(item, ours=kind is MODEL_DEPLOYMENTS)
            for kind in _KINDS
            for name, item in self.objects_of(kind).items()
            if name != "kube-root-ca.crt"
        }
        for kind in _WIDE:
            items, _ = self.api.list(kind.path())
            found |= {f"{kind.kind}/{i['metadata']['name']}": plain(i, ours=True) for i in items}
        text = json.dumps(found).replace(self.namespace, "NAMESPACE")
        whole: Objects = json.loads(text.replace(str(self.node.state), "STATE"))
        return whole


def plain(item: Json, *, ours: bool) -> Json:
    """Return an object without what a server sets and another run cannot repeat."""
    found: Json = _without(copy.deepcopy(item))
    if not ours:
        found.pop("status", None)
    for mark in ("deployment.kubernetes.io/revision", "edge-appliance.dev/rendered"):
        found["metadata"].get("annotations", {}).pop(mark, None)  # the latter hashes uids in
    return found


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without(v) for k, v in value.items() if k not in _OF_THE_SERVER}
    if isinstance(value, list):
        found = [_without(v) for v in value]
        by_type = all(isinstance(v, dict) and "type" in v for v in found)
        return sorted(found, key=lambda v: str(v["type"])) if by_type else found
    return value


@pytest.fixture
def machine(api: KubeApi) -> Iterator[None]:
    with made_up_nodes(api, MACHINE):
        yield


@pytest.fixture
def proxy(api: KubeApi, machine: None) -> Iterator[KubeProxy]:  # noqa: ARG001
    install(api)
    have_priorities(api)
    for kind in _WIDE:  # what controllers of other tests said of the machines that are there
        for item in api.list(kind.path())[0]:
            api.delete(kind.path(name=item["metadata"]["name"]))
    with KubeProxy(api) as found:
        yield found


def test_whenever_it_is_killed_the_objects_end_equal(
    api: KubeApi, proxy: KubeProxy, box: Path, tmp_path: Path
) -> None:
    calm = Run(api, proxy, box, tmp_path / "calm").play()
    number = len(proxy.changes)
    assert number > 8
    every = max(4, number // _KILLS)
    struck: dict[When, set[int]] = {when: set() for when in When}
    fewest = number  # how often messages change differs by a few from run to run
    for when in When:
        for first in range(1, every + 1):
            proxy.changes.clear()
            run = Run(api, proxy, box, tmp_path / f"{when}-{first}")
            hit = _strike(proxy, run, set(range(first, number + 1, every)), when)
            found = run.play()
            proxy.strike = lambda *_: False
            for before, after in zip(calm, found, strict=True):
                assert after == before, _difference(before, after, f"{when} {hit}")
            struck[when] |= set(hit)
            fewest = min(fewest, len(proxy.changes))
    for when in When:
        assert struck[when] >= set(range(1, fewest + 1)), f"not struck {when}"


def _difference(before: Objects, after: Objects, struck: str) -> str:
    calm, killed = (json.dumps(o, indent=1, sort_keys=True).splitlines() for o in (before, after))
    return "\n".join(difflib.unified_diff(calm, killed, "calm", f"killed {struck}", lineterm=""))


def _strike(proxy: KubeProxy, run: Run, at: set[int], when: When) -> list[int]:
    """Have it killed at each of these changes; return which it came to."""
    hit: list[int] = []

    def strike(change: Change, now: When) -> bool:
        if now is not when or change.number not in at or change.number in hit:
            return False
        hit.append(change.number)
        run.node.kill()
        run.node.start()
        return True

    proxy.strike = strike
    return hit
