"""The Kubernetes driver against a server in memory; ``Cluster`` plays its controllers."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.core.model import Replica
from appliance.core.state import ObservedReplica, Phase
from appliance.errors import EngineError, NotFoundError, PeerUnreachableError
from appliance.kube.client import Json
from appliance.kube.informer import Pace
from appliance.kube.marks import DEPLOYMENT, REPLICA
from appliance.kube.pods.driver import KubernetesContext, KubernetesDriver
from appliance.kube.pods.rendering import Owner, PodSettings, Rendering
from appliance.kube.resources import (
    BUDGETS,
    CLAIM_TEMPLATES,
    DEPLOYMENTS,
    PODS,
    SERVICES,
    Resource,
)
from appliance.runtime.profile import profiles
from tests.fakes.kubeapi import FakeKubeApi
from tests.helpers.abilities import abilities
from tests.helpers.models import variant

pytestmark = pytest.mark.slow


NS = "edge-engines"
REPLICA_0 = Replica("notes-0", "notes", variant(), "llama-cpp", 2048, 2, 1 << 30)
KINDS = (DEPLOYMENTS, SERVICES, BUDGETS, CLAIM_TEMPLATES)
_WAIT_S = 30.0


class Cluster:
    """A server in memory, and what its controllers and kubelets do, by hand."""

    def __init__(self) -> None:
        self.api = FakeKubeApi()
        self.owner: Owner | None = Owner("notes", "0b4c3f6e-0000-4000-8000-000000000000")
        self.settings = PodSettings(NS, Path("/models"), image="i")
        self.may_write = True

    def driver(self) -> KubernetesDriver:
        rendering = Rendering(self.settings, abilities())
        context = KubernetesContext(
            self.api, lambda: rendering, lambda _: self.owner, lambda: self.may_write,
            pace=Pace(watch_s=30, first_s=0.01, most_s=0.05),
        )  # fmt: skip
        return KubernetesDriver(context)

    def objects(self) -> dict[tuple[str, str], Json]:
        found = {}
        for kind in KINDS:
            for item in self.api.list(kind.path(NS))[0]:
                found[kind.kind, item["metadata"]["name"]] = item
        return found

    def get(self, what: Resource, name: str) -> Json | None:
        try:
            return self.api.get(what.path(NS, name))
        except NotFoundError:
            return None

    def pod(self, name: str = "p", **status: Any) -> None:
        """Let the Deployment's pod be as it says."""
        deployment = self.get(DEPLOYMENTS, "notes-0")
        assert deployment is not None
        metadata = {**deployment["spec"]["template"]["metadata"], "name": name}
        owner = {"uid": deployment["metadata"]["uid"]}
        body = {
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {**metadata, "namespace": NS, "ownerReferences": [owner]},
            "spec": {"nodeName": "n1"} if "unplaced" not in status else {},
        }  # fmt: skip
        path = PODS.path(NS, name)
        if self.get(PODS, name) is None:
            self.api.create(PODS.path(NS), body)
        if why := status.pop("unplaced", ""):
            status["conditions"] = [{"type": "PodScheduled", "status": "False", "message": why}]
        self.api.merge(path + "/status", {"status": status})

    def ready(self, restarts: int = 0) -> None:
        self.pod(
            podIP="10.0.0.7",
            conditions=[{"type": "Ready", "status": "True"}],
            containerStatuses=[{"restartCount": restarts, "state": {"running": {}}}],
        )

    def run(self, *stories: Callable[[KubernetesDriver], Awaitable[None]]) -> None:
        """Run each story with a driver of its own, one after the other."""

        async def whole() -> None:
            for story in stories:
                driver = self.driver()
                await driver.open(lambda: None)
                try:
                    await story(driver)
                finally:
                    await driver.close()

        asyncio.run(whole())


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(_WAIT_S):
        while not done():
            await asyncio.sleep(0.005)


async def seen(
    driver: KubernetesDriver, done: Callable[[ObservedReplica], bool]
) -> ObservedReplica:
    await until(lambda: "notes-0" in driver.observe() and done(driver.observe()["notes-0"]))
    return driver.observe()["notes-0"]


async def quiet(cluster: Cluster) -> int:
    """Wait until no more calls are made; return how many there were."""
    calls = -1
    async with asyncio.timeout(_WAIT_S):
        while calls != cluster.api.calls:
            calls = cluster.api.calls
            await asyncio.sleep(0.1)
    return calls


async def started(cluster: Cluster, driver: KubernetesDriver, which: Replica = REPLICA_0) -> None:
    await driver.start(which)
    await until(lambda: cluster.get(DEPLOYMENTS, "notes-0") is not None)
    await quiet(cluster)


NAMES = {("Deployment", "notes-0"), ("Service", "notes"), ("PodDisruptionBudget", "notes")}


def test_a_start_makes_what_a_replica_needs_and_a_stop_takes_it_away() -> None:
    cluster = Cluster()

    async def story(driver: KubernetesDriver) -> None:
        await started(cluster, driver)
        assert cluster.objects().keys() == NAMES
        cluster.ready()
        found = await seen(driver, lambda s: s.phase is Phase.READY)
        assert (found.endpoint, found.node) == ("http://10.0.0.7:8080", "n1")
        await driver.stop("notes-0")
        assert driver.observe()["notes-0"].phase is Phase.STOPPING
        await until(lambda: not driver.observe())
        await quiet(cluster)
        assert cluster.objects() == {}

    cluster.run(story)


def test_what_stands_costs_no_call() -> None:
    cluster = Cluster()

    async def story(driver: KubernetesDriver) -> None:
        await started(cluster, driver)
        cluster.ready()
        before = await quiet(cluster)
        for _ in range(5):
            await driver.start(REPLICA_0)
            driver._wake.set()
            await asyncio.sleep(0.02)
        assert cluster.api.calls == before

    cluster.run(story)


@pytest.mark.parametrize(("what", "name"), [(k, n) for k, n in
    ((DEPLOYMENTS, "notes-0"), (SERVICES, "notes"), (BUDGETS, "notes"))])  # fmt: skip
def test_what_somebody_deletes_is_made_again(what: Resource, name: str) -> None:
    cluster = Cluster()

    async def story(driver: KubernetesDriver) -> None:
        await started(cluster, driver)
        before = cluster.get(what, name)
        assert before is not None
        cluster.api.delete(what.path(NS, name))
        await until(lambda: cluster.get(what, name) not in (None, before))

    cluster.run(story)


EDITS: list[tuple[Resource, str, Json]] = [
    (DEPLOYMENTS, "notes-0", {"spec": {"replicas": 3}}),
    (DEPLOYMENTS, "notes-0", {"spec": {"template": {"spec": {"containers": []}}}}),
    (DEPLOYMENTS, "notes-0", {"spec": {"template": {"spec": {"priorityClassName": "x"}}}}),
    (DEPLOYMENTS, "notes-0", {"metadata": {"annotations": {REPLICA: "{}"}}}),
    (SERVICES, "notes", {"spec": {"selector": {DEPLOYMENT: "other"}}}),
    (BUDGETS, "notes", {"spec": {"maxUnavailable": 0}}),
]


@pytest.mark.parametrize(("what", "name", "edit"), EDITS)
def test_what_somebody_edits_is_put_right_also_while_it_runs(
    what: Resource, name: str, edit: Json
) -> None:
    cluster = Cluster()

    async def story(driver: KubernetesDriver) -> None:
        await started(cluster, driver)
        cluster.ready()
        await seen(driver, lambda s: s.phase is Phase.READY)
        right = content(cluster.get(what, name))
        hand = cluster.api.__class__.merge
        cluster.api.manager, ours = "kubectl-edit", cluster.api.manager
        hand(cluster.api, what.path(NS, name), edit)
        cluster.api.manager = ours
        await until(lambda: content(cluster.get(what, name)) == right)
        calls = await quiet(cluster)
        await asyncio.sleep(0.2)
        assert cluster.api.calls == calls

    cluster.run(story)


def test_a_container_that_somebody_adds_goes_again() -> None:
    cluster = Cluster()

    async def story(driver: KubernetesDriver) -> None:
        await started(cluster, driver)
        cluster.ready()
        found = cluster.get(DEPLOYMENTS, "notes-0")
        assert found is not None
        containers = found["spec"]["template"]["spec"]["containers"]
        containers.append({"name": "spy", "image": "spy"})
        cluster.api.replace(DEPLOYMENTS.path(NS, "notes-0"), found)
        await until(lambda: len(containers_of(cluster)) == 1)

    cluster.run(story)


@pytest.mark.parametrize("what", [DEPLOYMENTS, SERVICES, BUDGETS])
def test_a_foreign_object_is_left_alone_and_named(what: Resource) -> None:
    cluster = Cluster()
    name = "notes-0" if what is DEPLOYMENTS else "notes"
    body = {
        "apiVersion": what.api_version, "kind": what.kind,
        "metadata": {"name": name, "namespace": NS}, "spec": {"theirs": True},
    }  # fmt: skip
    theirs = cluster.api.create(what.path(NS), body)

    async def story(driver: KubernetesDriver) -> None:
        await driver.start(REPLICA_0)
        words = f"there is a {what.kind} {name} that this controller did not make"
        await seen(driver, lambda s: words in s.message)
        await driver.stop("notes-0")
        await until(lambda: not driver.observe())
        await quiet(cluster)
        assert list(cluster.objects().values()) == [theirs]

    cluster.run(story)


def test_a_driver_that_is_killed_at_any_call_leaves_what_the_next_puts_right() -> None:
    steps = 0
    for number in range(1, 40):
        cluster = Cluster()
        if not _killed_at(cluster, number):
            break
        steps = number
        assert cluster.objects().keys() == NAMES
    assert steps >= 6


def _killed_at(cluster: Cluster, number: int) -> bool:
    """Kill a driver at its ``number``-th call; return whether there were as many."""
    strikes = [False]

    async def first(driver: KubernetesDriver) -> None:
        left = [number]

        def strike(method: str, _: str) -> None:
            if method == "WATCH":
                return
            left[0] -= 1
            if left[0] <= 0:
                strikes[0] = True
                raise PeerUnreachableError("killed")

        cluster.api.before = strike
        await driver.start(REPLICA_0)
        await asyncio.sleep(0.1)
        cluster.api.before = lambda *_: None

    async def second(driver: KubernetesDriver) -> None:
        await driver.start(REPLICA_0)
        await until(lambda: cluster.objects().keys() == NAMES)

    cluster.run(first, second)
    return strikes[0]


def test_what_runs_is_not_restarted_for_other_machines_and_what_waits_is() -> None:
    cluster = Cluster()
    moved = dataclasses.replace(REPLICA_0, nodes=("b",))

    async def story(driver: KubernetesDriver) -> None:
        await started(cluster, driver, dataclasses.replace(REPLICA_0, nodes=("a",)))
        cluster.ready()
        await seen(driver, lambda s: s.phase is Phase.READY)
        await driver.start(moved)
        await quiet(cluster)
        assert nodes_of(cluster) == ["a"]
        cluster.api.delete(PODS.path(NS, "p"))
        cluster.pod("q", unplaced="0/2 nodes are available")
        await until(lambda: nodes_of(cluster) == ["b"])

    cluster.run(story)


def test_another_release_of_ours_restarts_nothing_but_still_puts_services_right() -> None:
    cluster = Cluster()

    async def first(driver: KubernetesDriver) -> None:
        await started(cluster, driver)
        cluster.ready()

    async def second(driver: KubernetesDriver) -> None:
        await seen(driver, lambda s: s.phase is Phase.READY)
        await quiet(cluster)
        assert containers_of(cluster)[0]["image"] == "i"
        cluster.pod(
            containerStatuses=[
                {"restartCount": 3, "state": {"waiting": {"reason": "ImagePullBackOff"}}}
            ],
            conditions=[],
        )
        await until(lambda: containers_of(cluster)[0]["image"] == "new")

    cluster.run(first)
    cluster.settings = dataclasses.replace(cluster.settings, image="new")
    cluster.run(second)


def test_without_its_model_deployment_nothing_is_made_again() -> None:
    cluster = Cluster()

    async def story(driver: KubernetesDriver) -> None:
        await started(cluster, driver)
        cluster.owner = None
        for what, name in ((DEPLOYMENTS, "notes-0"), (SERVICES, "notes"), (BUDGETS, "notes")):
            cluster.api.delete(what.path(NS, name))
        found = await seen(driver, lambda s: s.phase is Phase.BACKOFF)
        assert found.message == "there is no ModelDeployment notes in the cluster"
        await quiet(cluster)
        assert cluster.objects() == {}

    cluster.run(story)


def test_who_may_not_write_only_looks_on() -> None:
    cluster = Cluster()
    cluster.may_write = False

    async def story(driver: KubernetesDriver) -> None:
        await driver.start(REPLICA_0)
        await quiet(cluster)
        assert cluster.objects() == {}
        cluster.may_write = True
        driver._wake.set()
        await until(lambda: cluster.objects().keys() == NAMES)

    cluster.run(story)


def test_a_server_that_is_away_at_the_start_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("appliance.kube.pods.driver._OPEN_S", 0.05)
    cluster = Cluster()
    cluster.api.away = True

    async def story(driver: KubernetesDriver) -> None:
        assert driver.observe() == {}
        await driver.start(REPLICA_0)
        assert driver.observe()["notes-0"].phase is Phase.STARTING
        cluster.api.away = False
        await until(lambda: cluster.objects().keys() == NAMES)

    cluster.run(story)


def test_a_claim_template_comes_and_goes_with_its_replica() -> None:
    cluster = Cluster()

    async def story(driver: KubernetesDriver) -> None:
        await started(cluster, driver, dataclasses.replace(REPLICA_0, gpus=2))
        (claim,) = (name for kind, name in cluster.objects() if kind == "ResourceClaimTemplate")
        assert claim.startswith("notes-0-")
        await driver.stop("notes-0")
        await until(lambda: not driver.observe())
        await until(lambda: cluster.objects() == {})

    cluster.run(story)


def test_an_engine_without_an_image_says_so_and_makes_nothing() -> None:
    cluster = Cluster()
    cluster.settings = dataclasses.replace(cluster.settings, image="")

    async def story(driver: KubernetesDriver) -> None:
        await driver.start(dataclasses.replace(REPLICA_0, gpus=1))
        await seen(driver, lambda s: "no engine image for cuda" in s.message)
        assert cluster.objects() == {}

    cluster.run(story)


def test_an_engine_of_no_cluster_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    llama = dataclasses.replace(profiles()["llama-cpp"], network=None)
    monkeypatch.setattr("appliance.kube.pods.driver.profiles", lambda: {"llama-cpp": llama})

    async def story(driver: KubernetesDriver) -> None:
        with pytest.raises(EngineError, match="cannot run in a cluster"):
            await driver.start(REPLICA_0)

    Cluster().run(story)


def content(found: Json | None) -> Any:
    """Return what of an object counts as its content."""
    if found is None:
        return None
    metadata = {k: found["metadata"].get(k) for k in ("labels", "annotations", "ownerReferences")}
    return {"metadata": metadata, "spec": found["spec"]}


def containers_of(cluster: Cluster) -> list[Json]:
    found = cluster.get(DEPLOYMENTS, "notes-0")
    assert found is not None
    containers: list[Json] = found["spec"]["template"]["spec"]["containers"]
    return containers


def nodes_of(cluster: Cluster) -> list[str]:
    found = cluster.get(DEPLOYMENTS, "notes-0")
    assert found is not None
    affinity = found["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    nodes: list[str] = term["matchExpressions"][0]["values"]
    return nodes
