"""What every source of routes promises the gateway: a node's file, and a cluster over its file."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol

import pytest

from appliance.core.routes import ApiKey, Endpoint, Route, RouteSnapshot
from appliance.errors import NotFoundError
from appliance.gateway.routes import RouteFile, RouteSource
from appliance.kit.clock import SystemClock
from appliance.kit.files import replace_quickly
from appliance.kube.resources import ENDPOINT_SLICES, OLD_ENDPOINT_SLICES
from appliance.kube.routes import ClusterRoutes
from tests.fakes.kubeapi import FakeKubeApi
from tests.helpers.slices import endpoint_slice, in_old_words
from tests.helpers.waiting import until

KEYS = (ApiKey("app", "ward", "0" * 64),)


class World(Protocol):
    """Where a source's routes come from."""

    path: Path

    def say(self, *models: str) -> None:
        """Be the controller: these are served."""

    def serve(self, model: str, *engines: str) -> None:
        """Let a model's engines be these."""

    def leave(self) -> None:
        """Let whoever tells of engines be away, until ``come_back``."""

    def come_back(self) -> None: ...

    def opened(self) -> AbstractAsyncContextManager[RouteSource]: ...


def address(engine: str) -> str:
    return f"10.42.0.{ord(engine[0])}"


class FileWorld:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.away = False
        self._models: tuple[str, ...] = ()
        self._engines: dict[str, tuple[Endpoint, ...]] = {}

    def say(self, *models: str) -> None:
        self._models = models
        self._write()

    def serve(self, model: str, *engines: str) -> None:
        found = (Endpoint(e, f"http://{address(e)}:8080", "n1") for e in engines)
        self._engines[model] = tuple(found)
        self._write()

    def leave(self) -> None:
        self.away = True

    def come_back(self) -> None:
        self.away = False
        self._write()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[RouteSource]:
        yield RouteFile(self.path)

    def _write(self) -> None:
        if not self.away:
            routes = tuple(Route(m, ("chat",), self._engines.get(m, ())) for m in self._models)
            replace_quickly(self.path, RouteSnapshot(routes, KEYS, needs_key=True).dump())


class ClusterWorld:
    """A server of today, or with ``old`` one that has only ``v1beta1``."""

    def __init__(self, path: Path, *, old: bool = False) -> None:
        self.path = path
        self.api = FakeKubeApi()
        self._old = old
        self._file = FileWorld(path)
        versions = [{"version": "v1beta1"}] if old else [{"version": "v1"}, {"version": "v1beta1"}]
        self.api.answers["/apis/discovery.k8s.io"] = {"versions": versions}

    def say(self, *models: str) -> None:
        self._file.say(*models)

    def serve(self, model: str, *engines: str) -> None:
        made = endpoint_slice(model, {e: address(e) for e in engines})
        kind = OLD_ENDPOINT_SLICES if self._old else ENDPOINT_SLICES
        away, self.api.away = self.api.away, False
        path = kind.path("edge-engines", made["metadata"]["name"])
        with suppress(NotFoundError):
            self.api.delete(path)
        self.api.create(kind.path("edge-engines"), in_old_words(made) if self._old else made)
        self.api.away = away

    def leave(self) -> None:
        self.api.break_watches(away=True)

    def come_back(self) -> None:
        self.api.away = False

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[RouteSource]:
        routes = ClusterRoutes(
            RouteFile(self.path), lambda: self.api, "edge-engines", SystemClock()
        )
        following = asyncio.create_task(routes.follow())
        try:
            if not self.api.away:
                await until(lambda: routes.is_following)
            yield routes
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following


WORLDS: dict[str, Callable[[Path], World]] = {
    "file": FileWorld,
    "cluster": ClusterWorld,
    "old cluster": lambda path: ClusterWorld(path, old=True),
}


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    logging.getLogger("appliance.kube").setLevel(logging.ERROR)
    return WORLDS[request.param](tmp_path / "routes.json")


def heard(source: RouteSource) -> bool:
    return source.was_read


def engines(source: RouteSource, model: str = "notes") -> list[str]:
    route = source.current().route(model)
    return [] if route is None else sorted(e.replica for e in route.endpoints)


def test_nothing_is_known_before_the_controller_spoke(world: World) -> None:
    async def story() -> None:
        world.path.unlink(missing_ok=True)
        async with world.opened() as source:
            assert source.current() == RouteSnapshot()
            assert not heard(source)
            world.say("notes")
            await until(lambda: source.current().route("notes"))
            assert heard(source)
            assert source.current().keys == KEYS
            assert source.current().needs_key

    asyncio.run(story())


def test_engines_that_come_and_go_are_followed(world: World) -> None:
    async def story() -> None:
        world.say("notes", "other")
        world.serve("notes", "a")
        async with world.opened() as source:
            assert engines(source) == ["a"]
            route = source.current().route("notes")
            assert route is not None
            assert route.endpoints == (Endpoint("a", "http://10.42.0.97:8080", "n1"),)
            for now in (["a", "b"], ["b"], [], ["c"]):
                world.serve("notes", *now)
                await until(lambda now=now: engines(source) == now)  # type: ignore[misc]
            assert engines(source, "other") == []

    asyncio.run(story())


def test_what_the_controller_does_not_name_is_not_served(world: World) -> None:
    async def story() -> None:
        world.say("notes")
        world.serve("notes", "a")
        world.serve("secret", "b")
        async with world.opened() as source:
            assert [r.model for r in source.current().routes] == ["notes"]
            world.say("other")
            await until(lambda: source.current().route("notes") is None)

    asyncio.run(story())


def test_the_last_engines_hold_while_nobody_tells_of_them_and_are_followed_again(
    world: World,
) -> None:
    async def story() -> None:
        world.say("notes")
        world.serve("notes", "a")
        async with world.opened() as source:
            world.leave()
            world.serve("notes", "b")
            await asyncio.sleep(0.2)
            assert engines(source) == ["a"]
            world.come_back()
            await until(lambda: engines(source) == ["b"])

    asyncio.run(story())


def test_asking_again_gives_the_same_while_nothing_changed(world: World) -> None:
    async def story() -> None:
        world.say("notes")
        world.serve("notes", "a")
        async with world.opened() as source:
            first = source.current()
            assert source.current() is first

    asyncio.run(story())


def test_a_damaged_word_is_passed_over(world: World) -> None:
    async def story() -> None:
        world.say("notes")
        world.serve("notes", "a")
        async with world.opened() as source:
            assert engines(source) == ["a"]
            replace_quickly(world.path, b"{")
            assert engines(source) == ["a"]
            world.path.unlink()
            assert engines(source) == ["a"]

    asyncio.run(story())


def test_a_cluster_that_is_away_at_the_start_leaves_what_the_controller_saw(tmp_path: Path) -> None:
    """Its own promise: the snapshot names engines too, and they hold until the first list."""

    async def story() -> None:
        path = tmp_path / "routes.json"
        file, cluster = FileWorld(path), ClusterWorld(path)
        file.say("notes")
        file.serve("notes", "a")
        cluster.serve("notes", "b")
        cluster.api.away = True
        async with cluster.opened() as source:
            await asyncio.sleep(0.2)
            assert engines(source) == ["a"]
            cluster.come_back()
            await until(lambda: engines(source) == ["b"])

    asyncio.run(story())
