"""An informer over a server in memory."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from appliance.kube.client import Json
from appliance.kube.informer import Informer, Pace, Selection
from appliance.kube.resources import CONFIG_MAPS
from tests.fakes.kubeapi import FakeKubeApi
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

QUICK = Pace(watch_s=30, resync_s=60, first_s=0.01, most_s=0.02)


class Told:
    """What an informer told, and the informer."""

    def __init__(self, api: FakeKubeApi, pace: Pace = QUICK, labels: str = "") -> None:
        self.keys: list[str] = []
        self.informer = Informer(
            api, Selection(CONFIG_MAPS.path("t"), labels), slim, self.keys.append, pace
        )

    def held(self) -> dict[str, str]:
        return self.informer.items()


def slim(found: Json) -> str | None:
    value: str = found["data"]["a"]
    return value or None


def put(api: FakeKubeApi, name: str, value: str, **more: str) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
    api.apply(CONFIG_MAPS.path("t", name), {**body, "data": {"a": value, **more}})


@asynccontextmanager
async def told(api: FakeKubeApi, pace: Pace = QUICK) -> AsyncIterator[Told]:
    found = Told(api, pace)
    found.informer.start()
    try:
        await asyncio.wait_for(found.informer.synced.wait(), 5)
        await until(lambda: found.informer.is_connected)
        yield found
    finally:
        await found.informer.close()


def test_it_holds_what_was_there_and_what_comes_and_tells_each_change_once() -> None:
    async def story() -> None:
        api = FakeKubeApi()
        put(api, "x", "1")
        async with told(api) as found:
            assert (found.held(), found.keys) == ({"t/x": "1"}, ["t/x"])
            put(api, "y", "1")
            put(api, "x", "2")
            api.delete(CONFIG_MAPS.path("t", "y"))
            await until(lambda: len(found.keys) == 4)
            assert found.keys[1:] == ["t/y", "t/x", "t/y"]
            assert (found.held(), found.informer.get("t/y")) == ({"t/x": "2"}, None)

    asyncio.run(story())


def test_a_change_that_nobody_reads_is_no_change() -> None:
    async def story() -> None:
        api = FakeKubeApi()
        put(api, "x", "1")
        async with told(api) as found:
            put(api, "x", "1", unread="2")
            put(api, "y", "")
            put(api, "z", "1")
            await until(lambda: "t/z" in found.held())
            assert found.keys == ["t/x", "t/z"]

    asyncio.run(story())


def test_after_a_broken_connection_it_goes_on_where_it_was() -> None:
    async def story() -> None:
        api = FakeKubeApi()
        put(api, "x", "1")
        async with told(api) as found:
            await asyncio.to_thread(api.break_watches)
            put(api, "y", "1")
            await until(lambda: "t/y" in found.held())
            assert (found.informer.lists, found.keys) == (1, ["t/x", "t/y"])

    asyncio.run(story())


def test_a_forgotten_version_leads_to_a_list_that_sees_what_was_deleted() -> None:
    async def story() -> None:
        api = FakeKubeApi()
        put(api, "x", "1")
        put(api, "y", "1")
        async with told(api) as found:
            api.away = True
            await asyncio.to_thread(api.break_watches, away=True)
            api.away = False
            api.delete(CONFIG_MAPS.path("t", "x"))
            api.compact()
            await until(lambda: found.held() == {"t/y": "1"})
            assert found.keys[-1] == "t/x"
            assert found.informer.lists >= 2

    asyncio.run(story())


def test_while_the_server_is_away_what_was_seen_stays() -> None:
    async def story() -> None:
        api = FakeKubeApi()
        put(api, "x", "1")
        async with told(api) as found:
            await asyncio.to_thread(api.break_watches, away=True)
            await until(lambda: not found.informer.is_connected)
            assert found.held() == {"t/x": "1"}
            api.away = False
            await until(lambda: found.informer.is_connected)

    asyncio.run(story())


def test_a_resync_heals_what_no_watch_told() -> None:
    async def story() -> None:
        api = FakeKubeApi()
        put(api, "x", "1")
        async with told(api, Pace(watch_s=30, resync_s=1, first_s=0.01, most_s=0.02)) as found:
            with api.changed:
                api._objects.clear()  # as if a proxy had swallowed the event
            await until(lambda: found.held() == {})
            assert found.keys == ["t/x", "t/x"]

    asyncio.run(story())


def test_a_quiet_watch_goes_on_at_its_bookmark() -> None:
    """Without it, a version of a quiet kind would be forgotten while others change."""

    async def story() -> None:
        api = FakeKubeApi()
        put(api, "x", "1")
        async with told(api, Pace(watch_s=1, resync_s=60, first_s=0.01, most_s=0.02)) as found:
            before = found.informer._since
            other = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}
            api.apply(CONFIG_MAPS.path("elsewhere", "x"), other)
            await until(lambda: found.informer._since != before)
            api.log.clear()
            api.forgotten = int(found.informer._since)
            put(api, "y", "1")
            await until(lambda: "t/y" in found.held())
            assert found.informer.lists == 1

    asyncio.run(story())


def test_what_cannot_be_read_is_left_out_and_the_rest_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story() -> None:
        api = FakeKubeApi()
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "odd"}}
        api.apply(CONFIG_MAPS.path("t", "odd"), body)
        put(api, "x", "1")
        async with told(api) as found:
            assert found.held() == {"t/x": "1"}

    with caplog.at_level(logging.CRITICAL):
        asyncio.run(story())


def test_it_starts_without_a_server_and_ends_in_a_blocked_read() -> None:
    async def story() -> None:
        api = FakeKubeApi()
        api.away = True
        found = Told(api)
        found.informer.start()
        await asyncio.sleep(0.05)
        assert not found.informer.synced.is_set()
        api.away = False
        await until(found.informer.synced.is_set)
        await until(lambda: found.informer.is_connected)
        began = time.monotonic()
        await found.informer.close()
        assert time.monotonic() - began < 1
        assert not found.informer._thread.is_alive()
        put(api, "x", "1")
        await asyncio.sleep(0.05)
        assert found.keys == []

    asyncio.run(story())


def test_closing_what_never_started_is_fine() -> None:
    async def story() -> None:
        await Told(FakeKubeApi()).informer.close()

    asyncio.run(story())
