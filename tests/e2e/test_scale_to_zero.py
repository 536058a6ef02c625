"""A model that nobody asks for goes away, and comes back for whoever asks."""

import time
from typing import Any

import pytest

from appliance.demo.story import DEPLOYMENT, deployment
from appliance.kit.http import HttpClient
from tests.e2e.conftest import Running, running_stack
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.integration

SCALING = {"min": 0, "max": 1, "idleAfter": "2s"}


def sleepy() -> dict[str, Any]:
    asked = deployment(replicas=1)
    return {**asked, "spec": {**asked["spec"], "scaling": SCALING}}


def engines(running: Running) -> list[str]:
    """Return the engines that run in whatever phase."""
    return [e["id"] for e in running.stack.status()["engines"]]


def ask(gateway: HttpClient, **more: Any) -> dict[str, Any]:
    body = {"model": DEPLOYMENT, "messages": [{"role": "user", "content": "Hello"}], **more}
    return gateway.call("POST", "/v1/chat/completions", {"max_tokens": 8, **body})


def test_an_idle_model_goes_to_zero_and_the_next_request_brings_it_back() -> None:
    with running_stack() as running:
        running.stack.ask_through_hub(sleepy())
        gateway = running.stack.gateway(running.key)
        for _ in range(2):
            wait_until(lambda: engines(running) == [], "sleep", 60)
            assert ask(gateway)["choices"][0]["message"]["content"]
            assert engines(running) != []
        began = time.monotonic()
        found = ask(gateway, max_tokens=700, min_tokens=700, ignore_eos=True)
        assert found["usage"]["completion_tokens"] == 700, "a request that takes long is use"
        assert time.monotonic() - began > 2, "it took longer than what counts as idle"
        listed = gateway.call("GET", "/v1/models")
        assert [m["id"] for m in listed["data"]] == [DEPLOYMENT]
