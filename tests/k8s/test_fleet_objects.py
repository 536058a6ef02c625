"""The fleet's and local words as custom resources, on a real server."""

import copy
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.core.state import Origin
from appliance.errors import NotFoundError, PeerUnreachableError
from appliance.kube.client import KubeApi
from appliance.kube.resources import DEFINITIONS, NAMESPACES
from appliance.kube.words import owned
from appliance.kube.words.plan import TakeOver
from appliance.ledger import mirror
from appliance.node import desired
from tests.helpers.clusters import SCRIPT, start_cluster
from tests.helpers.projecting import (
    KIND,
    Killed,
    MortalApi,
    ProjectingNode,
    definitions,
    wire,
)
from tests.helpers.waiting import wait_until

Make = Callable[..., ProjectingNode]


@pytest.fixture(scope="module")
def defined(api: KubeApi) -> None:
    for body in definitions():
        path = DEFINITIONS.path(name=body["metadata"]["name"])
        try:
            api.get(path)
        except NotFoundError:
            api.create(DEFINITIONS.path(), body)
        wait_until(partial(_established, api, path))


def _established(api: KubeApi, path: str) -> bool:
    conditions = api.get(path).get("status", {}).get("conditions") or ()
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


@pytest.fixture
def namespaces(api: KubeApi) -> Iterator[Callable[[], str]]:
    """Makes names of namespaces that are not there yet, and deletes those that are then."""
    made: list[str] = []

    def one() -> str:
        made.append(f"t-{uuid.uuid4().hex[:8]}")
        return made[-1]

    yield one
    for name in made:
        api.delete(NAMESPACES.path(name=name))


def need_script() -> None:
    """Skip what stops a cluster, unless there is one of this run's own to stop."""
    if "KUBECONFIG" in os.environ and not os.environ.get("CLUSTER_MAY_END"):
        pytest.skip("KUBECONFIG names the cluster: this test would end it")
    if not SCRIPT.exists() or os.geteuid() != 0:
        pytest.skip("no script beside us that starts clusters, or not root")


@pytest.fixture
def make(
    tmp_path: Path,
    api: KubeApi,
    namespace: str,
    defined: None,  # noqa: ARG001
) -> Iterator[Make]:
    made: list[ProjectingNode] = []

    def one(policy: TakeOver = TakeOver.IF_NO_DIFF, node: str = "n1") -> ProjectingNode:
        made.append(ProjectingNode(tmp_path, api, namespace, policy, node))
        return made[-1]

    yield one
    for node in made:
        node.ledger.close()


@pytest.fixture
def node(make: Make) -> ProjectingNode:
    return make()


def test_the_fleets_and_local_words_become_objects_with_their_owners(node: ProjectingNode) -> None:
    node.fleet(wire("a", replicas=2), wire("b"), generation=7)
    node.apply(wire("c"))
    node.settle()
    found = node.object("a")["metadata"]
    assert (found["labels"][owned.OWNER], found["annotations"][owned.FROM]) == ("fleet", "n1")
    assert found["annotations"][owned.GENERATION] == "7"
    assert {m["manager"] for m in found["managedFields"]} == {"edge-appliance-fleet"}
    assert (node.owner("b"), node.owner("c")) == ("fleet", "local")
    assert node.spec("a") == {"model": "small", "replicas": 2}
    calls = node.api.calls
    assert not node.pass_()
    assert node.api.calls - calls <= 6, "a pass with nothing to do only looks"


def test_what_is_withdrawn_goes_and_what_changes_follows(node: ProjectingNode) -> None:
    node.fleet(wire("a", context=8192, objectives={"concurrency": 2}), wire("b"))
    node.settle()
    uid = node.object("a")["metadata"]["uid"]
    node.fleet(wire("a", replicas=2), generation=2)
    node.settle()
    assert node.names() == {"a"}
    assert node.spec("a") == {"model": "small", "replicas": 2}
    assert node.object("a")["metadata"]["uid"] == uid
    assert node.in_force().deployments[0].drift == ""


@pytest.mark.parametrize("policy", TakeOver)
@pytest.mark.parametrize("equal", [True, False], ids=["equal", "different"])
def test_take_over(make: Make, policy: TakeOver, equal: bool) -> None:  # noqa: FBT001
    node = make(policy)
    node.kubectl_apply(wire("a", context=8192, objectives={"concurrency": 2}))
    wanted = {"context": 8192, "objectives": {"concurrency": 2}} if equal else {"context": 4096}
    node.fleet(wire("a", **wanted))
    node.settle()
    taken = policy is TakeOver.ALWAYS or (policy is TakeOver.IF_NO_DIFF and equal)
    assert node.owner("a") == ("fleet" if taken else "cluster")
    assert node.spec("a").get("context", 4096) == (4096 if taken and not equal else 8192)
    if not taken:
        assert node.findings["a"].reason == "TakeOverRefused"
        (seen,) = node.in_force().deployments
        assert (seen.origin, seen.drift[:17]) == (Origin.CLUSTER, "made with kubectl")
        node.release("a")
        node.settle()
        assert node.owner("a") == "fleet"
    assert node.spec("a") == owned.normal(KIND, {"model": "small", **wanted})
    node.fleet(generation=2)
    node.settle()
    assert node.names() == set()


def test_an_edit_stays_in_force_while_the_fleet_goes_on_around_it(node: ProjectingNode) -> None:
    node.fleet(wire("a"))
    node.settle()
    node.kubectl_apply(wire("a", context=8192))
    node.settle()
    node.fleet(wire("a", "large", objectives={"concurrency": 2}), generation=2)
    node.settle()
    assert node.spec("a") == {"model": "large", "context": 8192, "objectives": {"concurrency": 2}}
    assert node.findings["a"].reason == "LocalEdit"
    (seen,) = node.in_force().deployments
    assert (seen.origin, seen.drift) == (
        Origin.FLEET, "context is 8192 here, not set in the fleet",
    )  # fmt: skip
    assert "released" in node.release("a")
    node.settle()
    assert node.spec("a") == {"model": "large", "objectives": {"concurrency": 2}}
    assert node.in_force().deployments[0].drift == ""


def test_by_always_an_edit_is_taken_back(make: Make) -> None:
    node = make(TakeOver.ALWAYS)
    node.fleet(wire("a"))
    node.settle()
    node.kubectl_apply(wire("a", context=8192, objectives={"concurrency": 2}))
    node.settle()
    assert node.spec("a") == {"model": "small"}
    assert "a" not in node.findings


@pytest.mark.parametrize("scaling", [None, {"min": 1, "max": 5}])
def test_who_scales_is_not_fought(node: ProjectingNode, scaling: dict[str, int] | None) -> None:
    more: dict[str, Any] = {"scaling": scaling} if scaling else {}
    node.fleet(wire("a", **more))
    node.settle()
    node.scale("a", 3)
    node.fleet(wire("a", context=8192, **more), generation=2)
    node.settle()
    node.scale("a", 4)
    node.settle()
    assert node.object("a")["spec"]["replicas"] == 4
    drift = node.in_force().deployments[0].drift
    assert drift == ("" if scaling else "replicas is 4 here, not set in the fleet")


def test_what_somebody_deletes_stays_deleted_until_it_is_released(node: ProjectingNode) -> None:
    node.fleet(wire("a"), wire("b"))
    node.kubectl_apply(wire("mine"))
    node.settle()
    node.kubectl_delete("a")
    node.kubectl_delete("mine")
    node.restart()
    node.settle()
    assert node.names() == {"b"}
    assert node.in_force().removed == ("a",)
    assert (KIND, "mine") not in node.rows()
    node.fleet(wire("a", context=8192), wire("b"), generation=2)
    node.settle()
    assert node.names() == {"b"}
    node.release("a")
    node.settle()
    assert node.spec("a") == {"model": "small", "context": 8192}


def test_local_commands_work_while_the_cluster_is_away(node: ProjectingNode) -> None:
    node.kubectl_apply(wire("mine"))
    node.fleet(wire("a"))
    node.settle()
    away, node.api._configuration.host = node.api._configuration.host, "http://127.0.0.1:1"
    try:
        assert node.apply(wire("b")) == "created"
        assert node.apply(wire("mine", context=8192)) == "changed"
        assert node.delete("a").startswith("removed here")
        with pytest.raises(PeerUnreachableError):
            node.pass_()
        found = {d.document.name: (d.origin, d.drift) for d in node.in_force().deployments}
    finally:
        node.api._configuration.host = away
    assert found["b"] == (Origin.LOCAL, "not in the cluster yet")
    assert found["mine"][0] is Origin.CLUSTER
    assert "a" not in found
    node.settle()
    assert node.names() == {"b", "mine"}
    assert (node.owner("mine"), node.spec("mine")["context"]) == ("local", 8192)


def test_delete_deletes_what_somebody_made_with_kubectl(node: ProjectingNode) -> None:
    node.kubectl_apply(wire("mine"))
    node.settle()
    assert node.findings["mine"].reason == "OnlyHere"
    assert "kubectl" in node.delete("mine")
    node.settle()
    assert node.names() == set()


def test_a_copy_that_carries_our_mark_is_not_ours(node: ProjectingNode) -> None:
    node.fleet(wire("a"))
    node.settle()
    meta = node.object("a")["metadata"]
    marks = {"labels": meta["labels"], "annotations": meta["annotations"]}
    node.kubectl_apply({**wire("copy"), "metadata": {"name": "copy", **marks}})
    node.fleet(generation=2)
    node.settle()
    assert node.names() == {"copy"}


def test_two_nodes_of_a_site_leave_each_others_objects_alone(make: Make) -> None:
    one, two = make(node="n1"), make(node="n2")
    one.fleet(wire("a"))
    two.fleet(wire("a", context=8192), wire("b"))
    for node in (one, two, one, two):
        node.settle()
    assert one.spec("a") == {"model": "small"}
    assert two.findings["a"].reason == "FromOtherNode"
    one.fleet(generation=2)
    for node in (one, two, one):
        node.settle()
    assert two.spec("a") == {"model": "small", "context": 8192}
    assert one.names() == {"a", "b"}


# --- when the datastore is lost ------------------------------------------------------------------


def _live(node: ProjectingNode) -> None:
    """All there can be: fleet, local, kubectl's, edits, a label of somebody's, a removal."""
    node.fleet(wire("a"), wire("b", replicas=2), wire("gone"))
    node.apply(wire("c", scaling={"min": 0, "max": 2}))
    labels = {"team": "ward-3"}
    node.kubectl_apply({**wire("mine"), "metadata": {"name": "mine", "labels": labels}})
    node.settle()
    node.kubectl_apply(wire("b", context=8192))
    node.kubectl_delete("gone")
    node.settle()


def test_objects_that_went_with_their_namespace_come_back(node: ProjectingNode) -> None:
    _live(node)
    before = node.comparable()
    path = NAMESPACES.path(name=node.namespace)
    node.api.delete(path)
    wait_until(lambda: node.pass_() or True, at_most_s=90)  # it takes nothing for deleted
    node.settle()
    assert node.comparable() == before
    assert node.in_force().removed == ("gone",)


def test_a_lost_datastore_is_rebuilt_with_all_that_people_did(tmp_path: Path) -> None:
    """The real thing: one cluster ends with all it held, and a fresh one takes its place."""
    need_script()
    first = start_cluster(f"lost{os.getpid()}", "--api-only")
    try:
        node = ProjectingNode(tmp_path, KubeApi.connect(first.kubeconfig, manager="m"), "edge")
        _settle_once_served(node)
        _live(node)
        before = node.comparable()
    finally:
        first.call("down")
    with pytest.raises(PeerUnreachableError):
        node.pass_()
    assert {d.document.name for d in node.in_force().deployments} == {"a", "b", "c", "mine"}
    second = start_cluster(f"lost{os.getpid()}", "--api-only")
    try:
        node.api = KubeApi.connect(second.kubeconfig, manager="edge-appliance")
        node.restart()
        _settle_once_served(node)
        after = node.comparable()
        mine = node.object("mine")["metadata"]["annotations"]
        found = {d.document.name: (d.origin, d.drift) for d in node.in_force().deployments}
        node.fleet(wire("a", "large"), wire("b", "large"), generation=2)
        node.settle()
        specs = node.spec("a"), node.spec("b")
    finally:
        second.call("down")
        node.ledger.close()
    _same_but_for_namespace_words(before, after)
    assert owned.REBUILT in mine
    assert found["mine"][0] is Origin.CLUSTER
    assert "context is 8192" in found["b"][1]
    assert specs == ({"model": "large"}, {"model": "large", "context": 8192})


def _settle_once_served(node: ProjectingNode) -> None:
    """A fresh server is given its definitions, and serves them a moment later."""
    wait_until(lambda: node.pass_() or True)
    node.settle()


def _same_but_for_namespace_words(before: dict[str, Any], after: dict[str, Any]) -> None:
    for found in (before, after):
        for item in found.values():
            item["metadata"].pop("namespace")
    assert after == before


def test_a_datastore_from_an_old_snapshot_is_not_taken_for_deletions(
    node: ProjectingNode,
) -> None:
    """The version went back: what the snapshot does not hold was made after it."""
    _live(node)
    before = node.comparable()
    node.kubectl_delete("mine")
    node.kubectl_delete("b")
    known = node.ledger.read(mirror.datastore)
    assert known is not None
    later = replace(known, version=known.version + 100_000)
    node.ledger.record(partial(mirror.set_datastore, now=later)).result()
    node.settle()
    assert node.comparable() == before


@pytest.mark.usefixtures("defined")
def test_a_rebuild_killed_anywhere_ends_as_one_that_was_not(
    tmp_path: Path, kubeconfig: Path, namespaces: Callable[[], str]
) -> None:
    mortal = MortalApi.connect(kubeconfig, manager="edge-appliance")
    node = ProjectingNode(tmp_path, mortal, namespaces())
    node.settle()
    _live(node)
    before = node.comparable()
    words = node.ledger.read(lambda db: desired.local(db, KIND))
    kills, n, finished = 0, 0, False
    while not finished:
        n += 1
        for after in (False, True):
            node.move(namespaces())
            mortal.kill_at(n, after=after)
            try:
                node.settle()
                finished = True
            except Killed:
                kills += 1
                mortal.kill_at(0, after=False)
                node.restart()
                node.settle()
            _same_but_for_namespace_words(dict(copy.deepcopy(before)), node.comparable())
            assert node.ledger.read(lambda db: desired.local(db, KIND)) == words
    node.ledger.close()
    assert kills >= 2 * len(before)


def test_a_list_that_comes_short_deletes_nothing(node: ProjectingNode) -> None:
    _live(node)
    before = node.comparable()
    whole, node.api.list = node.api.list, lambda *_, **__: ([], whole(NAMESPACES.path())[1])  # type: ignore[method-assign]
    try:
        node.restart()
        with pytest.raises(PeerUnreachableError, match="left out"):
            node.pass_()
    finally:
        node.api.list = whole  # type: ignore[method-assign]
    node.settle()
    assert node.comparable() == before
    assert node.in_force().removed == ("gone",)
