"""Events for people: once, bounded, and never in the way."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from appliance.errors import BadDocumentError
from appliance.kube.client import Json
from appliance.kube.events import NORMAL, WARNING, Recorder, reference
from appliance.kube.resources import CORE_EVENTS, EVENTS, MODELS, PODS
from tests.fakes.kubeapi import FakeKubeApi
from tests.helpers.waiting import until

POD = reference(PODS, "notes-0", namespace="edge-engines", uid="u-1")


class Hand:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def running(api: FakeKubeApi, now: Hand, *, current: bool = True) -> AsyncIterator[Recorder]:
    recorder = Recorder(api, "node-a", has_current=lambda: current, now=now)
    task = asyncio.create_task(recorder.run())
    try:
        yield recorder
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def sent(api: FakeKubeApi) -> list[Json]:
    return api.list(EVENTS.path())[0]


def test_the_same_again_is_sent_once_in_ten_minutes() -> None:
    async def story() -> None:
        api, now = FakeKubeApi(), Hand()
        async with running(api, now) as recorder:
            for _ in range(3):
                recorder.note(POD, WARNING, "Fenced", "GPU 0 is gone")
            recorder.note(POD, WARNING, "Fenced", "GPU 1 is gone")
            await until(lambda: len(sent(api)) == 2)
            now.now = 599
            recorder.note(POD, WARNING, "Fenced", "GPU 0 is gone")
            now.now = 601
            recorder.note(POD, WARNING, "Fenced", "GPU 0 is gone")
            await until(lambda: len(sent(api)) == 3)
            found = sent(api)[0]
            assert found["regarding"] == POD
            assert (found["note"], found["reason"]) == ("GPU 0 is gone", "Fenced")
            assert found["metadata"]["namespace"] == "edge-engines"

    asyncio.run(story())


def test_what_has_no_namespace_and_a_server_without_the_new_kind() -> None:
    async def story() -> None:
        api, now = FakeKubeApi(), Hand()
        async with running(api, now, current=False) as recorder:
            recorder.note(reference(MODELS, "small"), NORMAL, "Held", "x" * 5000)
            await until(lambda: api.list(CORE_EVENTS.path())[0])
            (found,) = api.list(CORE_EVENTS.path())[0]
            assert found["metadata"]["namespace"] == "default"
            assert len(found["message"].encode()) <= 1024

    asyncio.run(story())


@pytest.mark.slow
def test_an_outage_keeps_the_newest_and_sends_them_afterwards() -> None:
    async def story() -> None:
        api, now = FakeKubeApi(), Hand()
        api.away = True
        async with running(api, now) as recorder:
            for number in range(250):
                recorder.note(POD, NORMAL, "Started", f"try {number}")
            assert recorder.dropped == 50
            api.away = False
            await until(lambda: len(sent(api)) == 200)
            assert {e["note"] for e in sent(api)} == {f"try {n}" for n in range(50, 250)}

    asyncio.run(story())


def test_what_the_server_does_not_want_is_dropped_and_the_rest_goes_on() -> None:
    async def story() -> None:
        api, now = FakeKubeApi(), Hand()
        refused: list[str] = []

        def refuse(method: str, path: str) -> None:
            if method == "POST" and not refused:
                refused.append(path)
                raise BadDocumentError(f"{method} no")

        api.before = refuse
        async with running(api, now) as recorder:
            recorder.note(POD, NORMAL, "Odd", "one")
            recorder.note(POD, NORMAL, "Fine", "two")
            await until(lambda: [e["reason"] for e in sent(api)] == ["Fine"])
            assert recorder.dropped == 1

    asyncio.run(story())
