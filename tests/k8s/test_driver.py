"""The Kubernetes driver against a real cluster: what is ours, what is not, and what it says."""

import asyncio
import http.client
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from appliance.core.state import ObservedReplica, Phase
from appliance.kube.pods.driver import KubernetesDriver
from appliance.kube.resources import DEPLOYMENTS, SERVICES, Resource
from tests.contract.test_driver import gone, replica, until
from tests.helpers.enginepods import EngineWorld, engines

__all__ = ["engines"]
_QUIET_S = 30.0
Story = Callable[[KubernetesDriver], Awaitable[None]]


def run(driver: KubernetesDriver, story: Story) -> None:
    async def whole() -> None:
        await driver.open(lambda: None)
        try:
            await story(driver)
        finally:
            await driver.close()

    asyncio.run(whole())


async def there(world: EngineWorld, what: Resource, name: str) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while (found := world.get(what, name)) is None:
            await asyncio.sleep(0.05)
    return found


def says(text: str) -> Callable[[ObservedReplica], bool]:
    return lambda seen: text in seen.message


def test_what_stands_costs_no_call_and_what_somebody_changes_is_put_right(
    engines: EngineWorld,
) -> None:
    async def story(driver: KubernetesDriver) -> None:
        await driver.start(replica())
        await until(driver, "notes-0", lambda s: s.phase is Phase.READY)
        engine = engines.identity(driver, "notes-0")
        await asyncio.sleep(6)  # what was written is believed for 5 s without a watch's word
        calls = engines.api.calls
        await asyncio.sleep(_QUIET_S)
        assert engines.api.calls == calls

        service = await there(engines, SERVICES, "notes")
        engines.api.delete(engines.path(SERVICES, "notes"))
        async with asyncio.timeout(30):
            while (await there(engines, SERVICES, "notes")) == service:
                await asyncio.sleep(0.05)
        assert engines.identity(driver, "notes-0") == engine

        path = engines.path(DEPLOYMENTS, "notes-0")
        before = (await there(engines, DEPLOYMENTS, "notes-0"))["spec"]
        engines.api.merge(path, {"spec": {"replicas": 3, "revisionHistoryLimit": 7}})
        async with asyncio.timeout(30):
            while (await there(engines, DEPLOYMENTS, "notes-0"))["spec"] != before:
                await asyncio.sleep(0.05)

    run(engines.new(), story)


@pytest.mark.parametrize("what", [DEPLOYMENTS, SERVICES])
def test_a_foreign_object_is_left_alone(engines: EngineWorld, what: Resource) -> None:
    name = "notes-0" if what is DEPLOYMENTS else "notes"
    theirs = engines.api.create(what.path(engines.namespace), _theirs(what, name))

    async def story(driver: KubernetesDriver) -> None:
        await driver.start(replica())
        words = f"there is a {what.kind} {name} that this controller did not make"
        await until(driver, "notes-0", says(words))
        await driver.stop("notes-0")
        await gone(driver, "notes-0")
        found = engines.get(what, name)
        assert found is not None
        assert (found["spec"], found["metadata"]["uid"]) == (
            theirs["spec"],
            theirs["metadata"]["uid"],
        )

    run(engines.new(), story)


def test_a_replica_that_finds_no_machine_says_why(engines: EngineWorld) -> None:
    async def story(driver: KubernetesDriver) -> None:
        await driver.start(replace(replica(), nodes=("no-such-machine",)))
        seen = await until(driver, "notes-0", says("finds no machine: 0/"))
        assert seen.phase is Phase.BACKOFF
        (node,) = {n["metadata"]["name"] for n in engines.nodes()[:1]}
        await driver.start(replace(replica(), nodes=(node,)))
        await until(driver, "notes-0", lambda s: s.phase is Phase.READY)

    run(engines.new(), story)


def test_an_image_that_cannot_be_had_is_named_and_another_one_is_taken(
    engines: EngineWorld,
) -> None:
    async def bad(driver: KubernetesDriver) -> None:
        await driver.start(replica())
        seen = await until(driver, "notes-0", says("cannot start: "))
        assert seen.phase is Phase.BACKOFF
        assert "localhost/no-such-engine:1" in seen.message

    async def good(driver: KubernetesDriver) -> None:
        await until(driver, "notes-0", lambda s: s.phase is Phase.READY)

    run(engines.new(image="localhost/no-such-engine:1"), bad)
    run(engines.new(), good)


def test_an_engine_that_ends_is_quoted(engines: EngineWorld) -> None:
    async def story(driver: KubernetesDriver) -> None:
        broken = replace(replica(), variant=replace(replica().variant, file="missing.gguf"))
        await driver.start(broken)
        seen = await until(driver, "notes-0", lambda s: bool(s.log_tail))
        assert seen.phase is Phase.BACKOFF
        assert "ended with status 1" in seen.message
        assert seen.failures >= 1

    run(engines.new(), story)


def test_all_goes_with_the_model_deployment_while_no_controller_runs(
    engines: EngineWorld,
) -> None:
    async def story(driver: KubernetesDriver) -> None:
        await driver.start(replica())
        await until(driver, "notes-0", lambda s: s.phase is Phase.READY)

    run(engines.new(), story)
    engines.remove_owner()
    asyncio.run(_nothing_left(engines))


def test_a_request_that_runs_is_answered_before_its_pod_ends(engines: EngineWorld) -> None:
    async def story(driver: KubernetesDriver) -> None:
        await driver.start(replica(context=2048))
        found = await until(driver, "notes-0", lambda s: s.phase is Phase.READY)
        assert found.endpoint is not None
        answer = await asyncio.to_thread(_ask, found.endpoint, 200)
        await driver.stop("notes-0")
        last = await asyncio.to_thread(_last_line, answer)
        assert json.loads(last[5:])["stop"] is True
        await gone(driver, "notes-0")

    run(engines.new(drain_s=60), story)


def test_an_idle_engine_is_gone_soon(engines: EngineWorld) -> None:
    """Not after ``drain_s``, nor when the kubelet deletes the object, which takes it 10 s."""

    async def story(driver: KubernetesDriver) -> None:
        await driver.start(replica())
        await until(driver, "notes-0", lambda s: s.phase is Phase.READY)
        await driver.stop("notes-0")
        async with asyncio.timeout(7):
            await gone(driver, "notes-0")

    run(engines.new(drain_s=60), story)


def _ask(endpoint: str, tokens: int) -> http.client.HTTPResponse:
    """Ask for a text, and return the answer once its first line has come."""
    connection = http.client.HTTPConnection(endpoint.removeprefix("http://"), timeout=60)
    body = {"prompt": "Once", "n_predict": tokens, "ignore_eos": True, "stream": True}
    connection.request("POST", "/completion", json.dumps(body), {"Connection": "close"})
    answer = connection.getresponse()
    assert answer.readline().startswith(b"data:")
    return answer


def _last_line(answer: http.client.HTTPResponse) -> bytes:
    with answer:
        return [line for line in answer if line.startswith(b"data:")][-1]


async def _nothing_left(world: EngineWorld) -> None:
    async with asyncio.timeout(60):
        while (
            world.get(DEPLOYMENTS, "notes-0")
            or world.get(SERVICES, "notes")
            or world.pods("notes-0")
        ):
            await asyncio.sleep(0.2)


def _theirs(what: Resource, name: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "apiVersion": what.api_version,
        "kind": what.kind,
        "metadata": {"name": name},
        "spec": {"ports": [{"port": 9}]},
    }
    if what is DEPLOYMENTS:
        labels = {"app": "theirs"}
        container = {"name": "theirs", "image": "localhost/theirs:1", "imagePullPolicy": "Never"}
        body["spec"] = {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        }
    return body
