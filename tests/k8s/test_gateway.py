"""The gateway follows a real cluster's EndpointSlices, and serves while its API is away."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.core.routes import Endpoint, Route, RouteSnapshot
from appliance.errors import NotFoundError
from appliance.gateway.routes import RouteFile
from appliance.kit.clock import SystemClock
from appliance.kit.files import replace_quickly
from appliance.kube.client import KubeApi
from appliance.kube.resources import ENDPOINT_SLICES, OLD_ENDPOINT_SLICES, Resource
from appliance.kube.routes import ClusterRoutes
from tests.fakes import engine
from tests.fakes.engine import FakeEngine
from tests.helpers.gateways import Front, gateway
from tests.helpers.kubeproxy import KubeProxy
from tests.helpers.slices import endpoint_slice, in_old_words
from tests.helpers.waiting import until


def own_address() -> str:
    """Return an address of this machine that may stand in a slice: loopback may not."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("203.0.113.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback, and no slice may name that")
        return str(probe.getsockname()[0])


@dataclass
class Site:
    """A served gateway on a cluster behind a proxy, and engines that slices lead to."""

    front: Front
    routes: ClusterRoutes
    proxy: KubeProxy
    api: KubeApi
    namespace: str
    kind: Resource
    stack: AsyncExitStack

    async def engine(self, name: str) -> FakeEngine:
        """Start an engine that says its name."""
        found = FakeEngine(own_address(), engine.answer({"engine": name}))
        return await self.stack.enter_async_context(found)

    def serve(self, found: FakeEngine | None, *, ready: bool = True) -> None:
        """Let the cluster say that an engine serves ``notes``, or none."""
        host, _, port = (found.address if found else "http://203.0.113.1:1")[7:].partition(":")
        made = endpoint_slice("notes", {"pod": host}, port=int(port), ready=ready)
        if found is None:
            made["endpoints"] = []
        path = self.kind.path(self.namespace, made["metadata"]["name"])
        with suppress(NotFoundError):
            made["metadata"]["resourceVersion"] = self.api.get(path)["metadata"]["resourceVersion"]
            self.api.replace(path, self.worded(made))
            return
        self.api.create(self.kind.path(self.namespace), self.worded(made))

    def worded(self, made: dict[str, object]) -> dict[str, object]:
        return made if self.kind is ENDPOINT_SLICES else in_old_words(made)

    def seen(self) -> list[str]:
        route = self.front_routes().route("notes")
        return [] if route is None else [e.address for e in route.endpoints]

    def front_routes(self) -> RouteSnapshot:
        return self.routes.current()

    async def said(self) -> str:
        """Ask through the gateway; return the name of the engine that answered."""
        found = await self.front.ask()
        assert found.status == 200, found.body
        return str(found.json()["engine"])


Story = Callable[[Site], Awaitable[None]]


def kind_of(api: KubeApi) -> Resource:
    versions = api.get(f"/apis/{ENDPOINT_SLICES.group}")["versions"]
    return ENDPOINT_SLICES if any(v["version"] == "v1" for v in versions) else OLD_ENDPOINT_SLICES


@pytest.fixture
def told(api: KubeApi, namespace: str, tmp_path: Path) -> Callable[[Story], None]:
    """Return what tells a story on a site."""
    logging.getLogger("appliance.kube").setLevel(logging.ERROR)

    def tell(story: Story) -> None:
        async def whole() -> None:
            with KubeProxy(api) as proxy:
                kubeconfig = proxy.kubeconfig(tmp_path / "kubeconfig")
                async with site(api, proxy, kubeconfig, namespace) as found:
                    await story(found)

        asyncio.run(whole())

    return tell


@asynccontextmanager
async def site(
    api: KubeApi, proxy: KubeProxy, kubeconfig: Path, namespace: str
) -> AsyncIterator[Site]:
    made: list[ClusterRoutes] = []

    def source(file: RouteFile) -> ClusterRoutes:
        def connect() -> KubeApi:
            return KubeApi.connect(kubeconfig, manager="gateway", timeout_s=2)

        made.append(ClusterRoutes(file, connect, namespace, SystemClock()))
        return made[0]

    async with gateway(source=source, node="n1") as front, AsyncExitStack() as stack:
        following = asyncio.create_task(made[0].follow())
        front.route(Route("notes", (), ()))
        try:
            yield Site(front, made[0], proxy, api, namespace, kind_of(api), stack)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


def test_slices_become_engines_and_a_held_request_is_answered(
    told: Callable[[Story], None],
) -> None:
    async def story(site: Site) -> None:
        await until(lambda: site.routes.is_following)
        asking = asyncio.create_task(site.said())
        await asyncio.sleep(0.1)
        assert not asking.done()
        one, other = await site.engine("one"), await site.engine("other")
        await asyncio.to_thread(site.serve, one)
        assert await asking == "one"
        await asyncio.to_thread(site.serve, other)
        await until(lambda: site.seen() == [other.address])
        assert await site.said() == "other"
        assert len(one.asked) == 1

    told(story)


def test_an_engine_that_is_not_ready_gets_nothing_new(told: Callable[[Story], None]) -> None:
    async def story(site: Site) -> None:
        found = await site.engine("one")
        await asyncio.to_thread(site.serve, found)
        await until(site.seen)
        await asyncio.to_thread(site.serve, found, ready=False)
        await until(lambda: not site.seen())
        asking = asyncio.create_task(site.said())
        await asyncio.sleep(0.1)
        assert found.asked == []
        await asyncio.to_thread(site.serve, found)
        assert await asking == "one"

    told(story)


def test_while_the_api_is_away_the_last_engines_serve_and_then_news_is_followed(
    told: Callable[[Story], None],
) -> None:
    async def story(site: Site) -> None:
        one, other = await site.engine("one"), await site.engine("other")
        await asyncio.to_thread(site.serve, one)
        await until(lambda: site.seen() == [one.address] and site.routes.is_following)
        site.proxy.cut()
        await until(lambda: not site.routes.is_following)
        await asyncio.to_thread(site.serve, other)
        for _ in range(5):
            assert await site.said() == "one"
            await asyncio.sleep(0.1)
        site.proxy.mend()
        await until(lambda: site.seen() == [other.address])
        assert await site.said() == "other"

    told(story)


def test_an_api_that_is_away_at_the_start_leaves_what_the_controller_saw(
    told: Callable[[Story], None],
) -> None:
    async def story(site: Site) -> None:
        site.proxy.cut()
        one, other = await site.engine("one"), await site.engine("other")
        site.front.route(Route("notes", (), (Endpoint("notes-0", one.address),)))
        await asyncio.to_thread(site.serve, other)
        assert await site.said() == "one"
        site.proxy.mend()
        await until(lambda: site.seen() == [other.address])
        assert await site.said() == "other"

    told(story)


def test_a_change_in_the_cluster_is_followed_within_a_moment(
    told: Callable[[Story], None],
) -> None:
    async def story(site: Site) -> None:
        found = await site.engine("one")
        await asyncio.to_thread(site.serve, found)
        await until(site.seen)
        times = []
        for ready in (False, True) * 10:
            before = asyncio.get_running_loop().time()
            await asyncio.to_thread(site.serve, found, ready=ready)
            await until(lambda ready=ready: bool(site.seen()) == ready)  # type: ignore[misc]
            times.append(asyncio.get_running_loop().time() - before)
        assert sorted(times)[18] < 0.5, "from before the change was asked for"

    told(story)


def test_the_snapshot_alone_says_what_is_served(told: Callable[[Story], None]) -> None:
    async def story(site: Site) -> None:
        found = await site.engine("one")
        await asyncio.to_thread(site.serve, found)
        await until(site.seen)
        replace_quickly(site.front.folder / "routes.json", RouteSnapshot().dump())
        assert (await site.front.ask()).status == 404

    told(story)
