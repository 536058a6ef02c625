"""The fleet asks, the site decides, bundles bring what is asked for."""

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from appliance.bundle.make import build as builder
from appliance.cli.bundle import cache_folder
from appliance.core.documents import API_VERSION
from appliance.demo.stack import NODE, Stack
from appliance.demo.story import DEPLOYMENT, deployment
from appliance.trust.repository import Repository
from tests.conftest import DEMO_BUNDLE
from tests.e2e.conftest import Running, running_stack

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def fleet() -> Iterator[Running]:
    with running_stack() as found:
        yield found


def named(stack: Stack, name: str) -> dict[str, Any] | None:
    return next((d for d in stack.status()["deployments"] if d["name"] == name), None)


def test_a_local_word_wins_until_it_is_released_and_the_hub_sees_drift(fleet: Running) -> None:
    stack = fleet.stack
    stack.node().call("POST", "/v1/apply", {"documents": [deployment(replicas=0)]})
    stack.wait("the drift at the hub", lambda: DEPLOYMENT in stack.seen_by_hub()["drift"])
    generation = stack.ask_through_hub({**deployment(replicas=1)})
    stack.wait("the generation", lambda: stack.seen_by_hub()["applied"] == generation)
    found = named(stack, DEPLOYMENT)
    assert found is not None
    assert (found["origin"], found["replicas"]) == ("local", 0)
    stack.node().call("POST", f"/v1/deployments/{DEPLOYMENT}/release")
    stack.wait("the fleet's word", lambda: stack.is_ready(DEPLOYMENT, 1))
    stack.wait("the drift to end", lambda: not stack.seen_by_hub()["drift"])


def test_a_fleet_object_taken_away_here_is_drift_too(fleet: Running) -> None:
    stack = fleet.stack
    stack.node().call("DELETE", f"/v1/deployments/{DEPLOYMENT}")
    stack.wait("the drift at the hub", lambda: DEPLOYMENT in stack.seen_by_hub()["drift"])
    assert named(stack, DEPLOYMENT) is None
    stack.node().call("POST", f"/v1/deployments/{DEPLOYMENT}/release")
    stack.wait("it to be back", lambda: stack.is_ready(DEPLOYMENT, 1))


def test_a_word_that_names_a_model_to_come_waits_for_its_bundle(
    fleet: Running, tmp_path: Path
) -> None:
    stack = fleet.stack
    wanted = {
        "apiVersion": API_VERSION,
        "kind": "ModelDeployment",
        "metadata": {"name": "vectors"},
        "spec": {"model": "smollm2-embeddings", "context": 256},
    }
    stack.ask_through_hub(wanted)
    stack.wait(
        "the word to wait", lambda: "smollm2-embeddings" in stack.status()["link"]["waits_for"]
    )
    assert stack.is_ready(DEPLOYMENT, 1)
    stack.import_bundle(embeddings_bundle(stack, tmp_path))
    stack.wait("the vectors", lambda: stack.is_ready("vectors", 1))
    with OpenAI(base_url=fleet.base_url, api_key=fleet.key, max_retries=0) as client:
        answer = client.embeddings.create(model="vectors", input="hello", encoding_format="float")
        assert len(answer.data[0].embedding) == 576
    stack.hub().call("DELETE", f"/api/v1/nodes/{NODE}/documents/ModelDeployment/vectors")
    stack.wait("it to be gone", lambda: named(stack, "vectors") is None)


def embeddings_bundle(stack: Stack, folder: Path) -> Path:
    """The demo's weights, approved once more as a model that makes embeddings."""
    text = DEMO_BUNDLE.read_text().replace("smollm2-135m-instruct\n", "smollm2-embeddings\n", 1)
    text = text.replace("name: demo", "name: vectors")
    text = text.replace(
        "licence: Apache-2.0\n", "licence: Apache-2.0\n      capabilities: [embeddings]\n"
    )
    definition = folder / "vectors.yaml"
    definition.write_text(text)
    builder.lock(builder.read_definition(definition), cache_folder(None))
    built = builder.build(
        builder.read_definition(definition),
        folder / "bundle",
        Repository(stack.keys),
        cache_folder(None),
        datetime.datetime.now(datetime.UTC),
    )
    return built.folder
