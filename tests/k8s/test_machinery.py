"""Watches, Leases, Events and nodes' entries against a real API server."""

import asyncio
import contextlib
import json
import os
import subprocess
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from appliance.core.ids import Digest
from appliance.core.machine import GpuSurvey, MachineFacts
from appliance.core.model import Variant
from appliance.errors import ApplianceError
from appliance.kube.client import Json, KubeApi
from appliance.kube.events import WARNING, Recorder, reference
from appliance.kube.informer import Informer, Pace, Selection
from appliance.kube.lease import Candidate, Heartbeat, LeaseHolder, Record, Term
from appliance.kube.objects.publish import Own, holdings, read_model, read_site
from appliance.kube.resources import CONFIG_MAPS, EVENTS, LEASES, MODELS, SITES
from appliance.kube.server import detect
from appliance.node.publish import Publisher
from tests.helpers.clusters import Cluster, start_cluster
from tests.helpers.definitions import install
from tests.helpers.kubeproxy import KubeProxy
from tests.helpers.waiting import until

QUICK = Pace(watch_s=60, resync_s=300, first_s=0.02, most_s=0.1)


def put(api: KubeApi, namespace: str, name: str, value: str) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
    api.apply(CONFIG_MAPS.path(namespace, name), {**body, "data": {"a": value}})


def slim(found: Json) -> str | None:
    value: str | None = (found.get("data") or {}).get("a")
    return value


@asynccontextmanager
async def watching(
    api: KubeApi, namespace: str, keys: list[str], pace: Pace = QUICK
) -> AsyncIterator[Informer[str]]:
    informer = Informer(api, Selection(CONFIG_MAPS.path(namespace)), slim, keys.append, pace)
    informer.start()
    try:
        await asyncio.wait_for(informer.synced.wait(), 10)
        await until(lambda: informer.is_connected)
        yield informer
    finally:
        await informer.close()


@pytest.fixture
def proxy(api: KubeApi) -> Iterator[KubeProxy]:
    with KubeProxy(api) as found:
        yield found


@pytest.fixture
def behind(proxy: KubeProxy, tmp_path: Path) -> Iterator[KubeApi]:
    """A client whose connection a test can cut."""
    found = KubeApi.connect(proxy.kubeconfig(tmp_path / "kubeconfig"), manager="m", timeout_s=2)
    yield found
    found.close()


def test_a_server_says_what_it_can_do(api: KubeApi) -> None:
    found = detect(api)
    assert found.release >= (1, 20)
    assert found.events_v1
    assert found.runtime_classes is not None
    if found.release < (1, 25):
        assert not found.budgets_v1 or found.release >= (1, 21)
        assert any("does not check the rules" in said for said in found.cannot())
    if found.release >= (1, 34):
        assert found.admission_policies
        assert found.budgets_v1


def test_a_watch_goes_on_after_its_connection_was_cut(
    api: KubeApi, behind: KubeApi, proxy: KubeProxy, namespace: str
) -> None:
    async def story() -> None:
        keys: list[str] = []
        async with watching(behind, namespace, keys) as informer:
            put(api, namespace, "x", "1")
            await until(lambda: informer.get(f"{namespace}/x") == "1")
            proxy.cut()
            await until(lambda: not informer.is_connected)
            put(api, namespace, "x", "2")
            put(api, namespace, "y", "1")
            api.delete(CONFIG_MAPS.path(namespace, "y"))
            await asyncio.sleep(0.3)
            assert informer.get(f"{namespace}/x") == "1"
            proxy.mend()
            await until(lambda: informer.get(f"{namespace}/x") == "2")
            await until(lambda: keys.count(f"{namespace}/y") == 2)
            assert informer.lists == 1

    asyncio.run(story())


def test_it_ends_within_a_second_in_a_silent_watch(api: KubeApi, namespace: str) -> None:
    async def story() -> None:
        async with watching(api, namespace, []) as informer:
            await asyncio.sleep(0.2)
            began = time.monotonic()
            await informer.close()
            assert time.monotonic() - began < 1
            assert not informer._thread.is_alive()

    asyncio.run(story())


@pytest.fixture(scope="module")
def without_cache(cluster: Cluster) -> Iterator[Cluster]:
    """A server that answers watches from etcd, so that a compaction is felt at once."""
    if not cluster.is_ours and "CLUSTER" not in os.environ:
        pytest.skip("needs an etcd of its own to compact: only clusters that tests start have one")
    name = f"c{os.getpid()}"
    found = start_cluster(name, "--api-only", "--arg", "kube-apiserver:--watch-cache=false")
    try:
        yield found
    finally:
        found.call("down")


def compact(cluster: Cluster) -> None:
    """Have etcd forget all old versions."""
    listing = subprocess.run(
        ["ps", "-ww", "-eo", "args"], check=True, text=True, stdout=subprocess.PIPE
    )
    folder = f"--data-dir={cluster.state}/etcd"
    etcd = [line.split() for line in listing.stdout.splitlines() if folder in line.split()]
    (url,) = (word for word in etcd[0] if word.startswith("--advertise-client-urls="))
    address = url.partition("=")[2]

    def ask(path: str, body: Json) -> Json:
        request = urllib.request.Request(f"{address}/v3/{path}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=5) as answer:
            found: Json = json.loads(answer.read())
        return found

    revision = ask("kv/range", {"key": "AA=="})["header"]["revision"]
    ask("kv/compaction", {"revision": revision, "physical": True})


def test_after_a_compaction_it_lists_again_and_sees_what_was_deleted(
    without_cache: Cluster, tmp_path: Path
) -> None:
    api = KubeApi.connect(without_cache.kubeconfig, manager="m")

    async def story(behind: KubeApi, proxy: KubeProxy) -> None:
        keys: list[str] = []
        put(api, "default", "x", "1")
        put(api, "default", "y", "1")
        async with watching(behind, "default", keys) as informer:
            assert informer.items() == {"default/x": "1", "default/y": "1"}
            proxy.cut()
            await until(lambda: not informer.is_connected)
            api.delete(CONFIG_MAPS.path("default", "x"))
            put(api, "default", "z", "1")
            compact(without_cache)
            proxy.mend()
            await until(lambda: informer.items() == {"default/y": "1", "default/z": "1"})
            assert informer.lists == 2
            assert sorted(keys[2:]) == ["default/x", "default/z"]

    with KubeProxy(api) as proxy:
        behind = KubeApi.connect(proxy.kubeconfig(tmp_path / "k"), manager="m", timeout_s=2)
        asyncio.run(story(behind, proxy))
        behind.close()
    api.close()


@asynccontextmanager
async def running(holder: LeaseHolder) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(holder.run())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


TERM = Term(3, 2.0, 0.3)


def test_of_two_candidates_one_holds_and_the_other_follows_when_it_ends(
    api: KubeApi, namespace: str
) -> None:
    async def story() -> None:
        where = (namespace, "planner")
        one = LeaseHolder(api, where, Candidate.of("n1", "b", "1"), TERM)
        two = LeaseHolder(api, where, Candidate.of("n2", "b", "1"), TERM)
        both = 0
        async with running(two):
            async with running(one):
                await until(lambda: one.holds or two.holds)
                for _ in range(200):
                    both += one.holds and two.holds
                    await asyncio.sleep(0.01)
                assert one.holds != two.holds
            assert not one.holds
            began = time.monotonic()
            await until(lambda: two.holds)
            assert time.monotonic() - began < TERM.duration_s  # it was given back
        assert both == 0

    asyncio.run(story())


def test_what_a_killed_holder_left_is_taken_when_it_has_run_out(
    api: KubeApi, namespace: str
) -> None:
    async def story() -> None:
        where = (namespace, "planner")
        killed = LeaseHolder(api, where, Candidate.of("n1", "b", "1"), TERM)
        await asyncio.to_thread(killed._try)
        assert killed.holds
        began = time.monotonic()
        two = LeaseHolder(api, where, Candidate.of("n2", "b", "1"), TERM)
        async with running(two):
            await until(lambda: two.holds)
            assert TERM.duration_s <= time.monotonic() - began < TERM.duration_s + 3
            lease = await asyncio.to_thread(api.get, LEASES.path(*where))
            assert lease["spec"]["holderIdentity"].startswith("n2_")
            assert lease["spec"]["leaseTransitions"] == 2

    asyncio.run(story())


def test_a_holder_without_its_api_stops_before_another_begins(
    api: KubeApi, behind: KubeApi, proxy: KubeProxy, namespace: str
) -> None:
    async def story() -> None:
        where = (namespace, "planner")
        one = LeaseHolder(behind, where, Candidate.of("n1", "b", "1"), TERM)
        two = LeaseHolder(api, where, Candidate.of("n2", "b", "1"), TERM)
        async with running(one):
            await until(lambda: one.holds)
            async with running(two):
                proxy.cut()
                await until(lambda: not one.holds)
                assert not two.holds
                await until(lambda: two.holds)
                proxy.mend()
                await asyncio.sleep(1)
                assert (one.holds, two.holds) == (False, True)

    asyncio.run(story())


def test_a_heartbeat_moves_on_the_server(api: KubeApi, namespace: str) -> None:
    heart = Heartbeat(api, (namespace, "node-n1"), "n1")
    heart.beat()
    before = Record.of(api.get(LEASES.path(namespace, "node-n1")))
    heart.beat()
    after = Record.of(api.get(LEASES.path(namespace, "node-n1")))
    assert (before.holder, after.holder) == ("n1", "n1")
    assert before.mark != after.mark


@pytest.mark.parametrize("current", [True, False])
def test_people_find_events_at_what_they_are_about(
    api: KubeApi, namespace: str, *, current: bool
) -> None:
    async def story() -> None:
        recorder = Recorder(api, "n1", has_current=lambda: current)
        task = asyncio.create_task(recorder.run())
        about = reference(CONFIG_MAPS, "x", namespace=namespace, uid=str(uuid.uuid4()))
        for _ in range(2):
            recorder.note(about, WARNING, "Fenced", "GPU 0 has failed; what ran there has moved")
        recorder.note(about, WARNING, "Moved", "notes-0 is on n2 now")

        def reasons() -> list[str]:
            return sorted(e["reason"] for e in api.list(EVENTS.path(namespace))[0])

        await until(lambda: reasons() == ["Fenced", "Moved"])
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert recorder.dropped == 0

    asyncio.run(story())


def variant(model: str, name: str = "Q4_0", letter: str = "a") -> Variant:
    return Variant(
        model, "1.0.0", name, "acme", "MIT", Digest("sha256:" + letter * 64),
        Digest("sha256:" + "f" * 64), 1000, "model.gguf", "gguf", ("chat",), 8192, 23040,
    )  # fmt: skip


class Member:
    """A node that publishes, with watches of its own."""

    def __init__(self, api: KubeApi, name: str, site: str, *variants: Variant) -> None:
        facts = MachineFacts(None, None, 8 << 30, None, GpuSurvey((), "none"))
        self.own = Own(name, f"id-{name}", "0.4", variants, {}, facts)
        self.models = Informer(api, Selection(MODELS.path()), read_model, lambda _: None, QUICK)
        self.sites = Informer(api, Selection(SITES.path()), read_site, lambda _: None, QUICK)
        self.publisher = Publisher(api, self.models, self.sites, lambda: self.own, site=site)

    def hold(self, *variants: Variant) -> None:
        self.own = Own(self.own.node, self.own.id, self.own.version, variants, {}, self.own.machine)

    def sees(self) -> dict[str, set[tuple[str, str]]]:
        found = holdings(self.models.items().values(), self.sites.items().values())
        return {h.node: {(v.model, v.name) for v in h.variants} for h in found}

    async def look(self) -> None:
        for _ in range(5):
            try:
                await self.publisher.look()
            except ApplianceError:
                await asyncio.sleep(0.1)
            else:
                return
        raise AssertionError("it does not come through")


def test_nodes_tell_what_they_hold_and_take_it_back(api: KubeApi) -> None:
    async def story(model: str, site: str) -> None:
        one = Member(api, f"{site}-1", site, variant(model), variant(model, "Q8_0", "b"))
        two = Member(api, f"{site}-2", site, variant(model))
        for member in (one, two):
            member.models.start()
            member.sites.start()
        try:
            await one.look()
            await until(lambda: f"{site}-1" in two.sees())
            await two.look()
            both = {(model, "Q4_0"), (model, "Q8_0")}
            await until(lambda: one.sees().get(f"{site}-2") == {(model, "Q4_0")})
            assert one.sees()[f"{site}-1"] == both
            before = api.calls
            await one.look()
            await two.look()
            assert api.calls == before
            one.hold(variant(model, letter="c"))
            await one.look()
            await until(lambda: one.sees()[f"{site}-1"] == {(model, "Q4_0")})
            await until(lambda: one.sees()[f"{site}-2"] == set())
            one.hold()
            await until(lambda: two.sees()[f"{site}-1"] == {(model, "Q4_0")})
            await one.look()
            await until(lambda: two.sees()[f"{site}-1"] == set())
            await two.look()
            await until(lambda: one.sees()[f"{site}-2"] == {(model, "Q4_0")})
            two.hold()
            await two.look()
            await until(lambda: one.models.get(model) is None)
        finally:
            for member in (one, two):
                await asyncio.gather(member.models.close(), member.sites.close())

    install(api)
    model, site = f"m-{uuid.uuid4().hex[:8]}", f"s-{uuid.uuid4().hex[:8]}"
    try:
        asyncio.run(story(model, site))
    finally:
        api.delete(MODELS.path(name=model))
        api.delete(SITES.path(name=site))
