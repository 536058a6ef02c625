"""What an API server promises us, held against the fake and a real server."""

import threading
import time
import uuid
from collections.abc import Iterator

import pytest

from appliance.errors import NotFoundError
from appliance.kube.client import Json, KubeApi
from appliance.kube.errors import ConflictError, ExistsError
from appliance.kube.resources import CONFIG_MAPS, LEASES, MODELS
from tests.fakes.kubeapi import FakeKubeApi
from tests.helpers.definitions import install


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.k8s)])
def server(request: pytest.FixtureRequest) -> KubeApi:
    if request.param == "fake":
        return FakeKubeApi()
    found: KubeApi = request.getfixturevalue("api")
    install(found)
    return found


@pytest.fixture
def space(request: pytest.FixtureRequest, server: KubeApi) -> str:
    if isinstance(server, FakeKubeApi):
        return "t"
    name: str = request.getfixturevalue("namespace")
    return name


@pytest.fixture
def model(server: KubeApi) -> Iterator[str]:
    name = f"m-{uuid.uuid4().hex[:8]}"
    yield name
    server.delete(MODELS.path(name=name))


def config_map(name: str = "x", **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def owned(server: KubeApi, space: str, path: str, **data: str) -> None:
    server.apply(CONFIG_MAPS.path(space, path), config_map(path, **data))


def test_applying_the_same_again_changes_nothing(server: KubeApi, space: str) -> None:
    path = CONFIG_MAPS.path(space, "x")
    made = server.apply(path, config_map(a="1"))
    again = server.apply(path, config_map(a="1"))
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    assert again["metadata"]["uid"] == made["metadata"]["uid"]


def test_what_is_applied_no_more_goes_and_what_others_own_stays(
    server: KubeApi, space: str
) -> None:
    path = CONFIG_MAPS.path(space, "x")
    server.apply(path, config_map(a="1", b="2"))
    server.apply(path, config_map(b="2", c="3"), manager="other")
    found = server.apply(path, config_map())
    assert found["data"] == {"b": "2", "c": "3"}


def test_a_conflict_names_the_fields_and_force_takes_them(server: KubeApi, space: str) -> None:
    path = CONFIG_MAPS.path(space, "x")
    server.apply(path, config_map(a="1"))
    with pytest.raises(ConflictError) as caught:
        server.apply(path, config_map(a="2"), manager="other")
    assert caught.value.fields == (".data.a",)
    server.apply(path, config_map(a="2"), manager="other", force=True)
    assert server.apply(path, config_map(b="1"))["data"] == {"a": "2", "b": "1"}


def test_an_update_owns_what_it_changed(server: KubeApi, space: str) -> None:
    path = CONFIG_MAPS.path(space, "x")
    server.apply(path, config_map(a="1"), manager="first")
    server.merge(path, {"data": {"a": "2"}})
    with pytest.raises(ConflictError):
        server.apply(path, config_map(a="1"), manager="first")


def test_list_entries_belong_to_who_applied_them(server: KubeApi, model: str) -> None:
    path = MODELS.path(name=model)
    server.apply(path, model_of(model, "1", "Q4"), manager="n1")
    server.apply(path, model_of(model, "1", "Q8"), manager="n2")
    server.apply(path, model_of(model, "1", "Q4"), manager="n2")
    found = server.get(path)
    assert [v["name"] for v in found["spec"]["variants"]] == ["Q4"]
    server.apply(path, model_of(model, "1"), manager="n1")
    assert [v["name"] for v in server.get(path)["spec"]["variants"]] == ["Q4"]


def test_status_is_written_apart_from_the_rest(server: KubeApi, model: str) -> None:
    path = MODELS.path(name=model)
    server.apply(path, model_of(model, "1", "Q4"))
    status = {**bare(model), "status": {"nodes": [{"name": "n", "held": []}]}}
    found = server.apply(MODELS.path(name=model, sub="status"), status, manager="s")
    assert found["status"] == status["status"]
    assert [v["name"] for v in found["spec"]["variants"]] == ["Q4"]
    assert found["metadata"]["generation"] == 1


def test_a_list_is_emptied_at_the_version_that_was_read(server: KubeApi, model: str) -> None:
    """By a patch: server-side apply makes an empty list null on old servers, and refuses that."""
    path = MODELS.path(name=model)
    made = server.apply(path, model_of(model, "1", "Q4"), manager="n1")
    at = {"resourceVersion": made["metadata"]["resourceVersion"]}
    found = server.merge(path, {"metadata": at, "spec": {"variants": []}})
    assert found["spec"]["variants"] == []
    assert found["metadata"]["generation"] == 2
    assert {m["manager"] for m in found["metadata"].get("managedFields", [])} <= {"n1"}
    with pytest.raises(ConflictError):
        server.merge(path, {"metadata": at, "spec": {"variants": []}})


def test_the_status_of_what_is_not_there_is_not_found(server: KubeApi, model: str) -> None:
    with pytest.raises(NotFoundError):
        server.apply(MODELS.path(name=model, sub="status"), {**bare(model), "status": {}})


def test_create_replace_and_delete_say_what_was_there(server: KubeApi, space: str) -> None:
    folder, path = CONFIG_MAPS.path(space), CONFIG_MAPS.path(space, "x")
    made = server.create(folder, config_map(a="1"))
    with pytest.raises(ExistsError):
        server.create(folder, config_map(a="1"))
    server.replace(path, {**made, "data": {"a": "2"}})
    with pytest.raises(ConflictError):
        server.replace(path, {**made, "data": {"a": "3"}})
    assert not server.delete(path, uid=str(uuid.uuid4()))
    assert server.delete(path, uid=made["metadata"]["uid"])
    assert not server.delete(path)
    with pytest.raises(NotFoundError):
        server.get(path)
    with pytest.raises(ConflictError):  # not "not found": it names an object that was
        server.replace(path, made)


def test_a_finalizer_keeps_what_is_deleted(server: KubeApi, space: str) -> None:
    path = CONFIG_MAPS.path(space, "x")
    body = config_map(a="1")
    body["metadata"]["finalizers"] = ["edge-appliance.dev/test"]
    server.create(CONFIG_MAPS.path(space), body)
    assert server.delete(path)
    assert server.get(path)["metadata"]["deletionTimestamp"]
    server.merge(path, {"metadata": {"finalizers": None}})
    with pytest.raises(NotFoundError):
        server.get(path)


def test_lists_are_selected_by_labels(server: KubeApi, space: str) -> None:
    for name, of in (("a", "us"), ("b", "them")):
        body = config_map(name)
        body["metadata"]["labels"] = {"of": of}
        server.create(CONFIG_MAPS.path(space), body)
    items, _ = server.list(CONFIG_MAPS.path(space), labels="of=us")
    assert [i["metadata"]["name"] for i in items] == ["a"]


def test_a_watch_tells_what_came_after_a_version(server: KubeApi, space: str) -> None:
    owned(server, space, "a", x="1")
    _, version = server.list(CONFIG_MAPS.path(space))
    owned(server, space, "b", x="1")
    owned(server, space, "b", x="2")
    server.delete(CONFIG_MAPS.path(space, "a"))
    watch = server.watch(CONFIG_MAPS.path(space), version)
    seen = []
    for event in watch:
        seen.append((event["type"], event["object"]["metadata"]["name"]))
        if len(seen) == 3:
            watch.close()
            break
    assert seen == [("ADDED", "b"), ("MODIFIED", "b"), ("DELETED", "a")]


def test_what_leaves_a_selection_is_told_as_deleted(server: KubeApi, space: str) -> None:
    body = config_map("a")
    body["metadata"]["labels"] = {"of": "us"}
    server.create(CONFIG_MAPS.path(space), body)
    _, version = server.list(CONFIG_MAPS.path(space), labels="of=us")
    server.merge(CONFIG_MAPS.path(space, "a"), {"metadata": {"labels": {"of": "them"}}})
    watch = server.watch(CONFIG_MAPS.path(space), version, labels="of=us")
    assert next(iter(watch))["type"] == "DELETED"
    watch.close()


def test_a_watch_ends_by_itself_and_from_outside(server: KubeApi, space: str) -> None:
    _, version = server.list(LEASES.path(space))
    began = time.monotonic()
    quiet = [e["type"] for e in server.watch(LEASES.path(space), version, timeout_s=1)]
    assert set(quiet) <= {"BOOKMARK"}
    watch = server.watch(LEASES.path(space), version)
    threading.Timer(0.2, watch.close).start()
    assert list(watch) == []
    assert time.monotonic() - began < 5


def model_of(name: str, version: str, *variants: str) -> Json:
    entries = [entry(version, variant) for variant in variants]
    return {**bare(name), "spec": {"variants": entries}}


def entry(version: str, name: str) -> Json:
    return {
        "version": version,
        "name": name,
        "manifest": "sha256:" + "a" * 64,
        "weights": "sha256:" + "b" * 64,
        "weightsBytes": 98_362_432,
        "format": "gguf",
        "file": "model.gguf",
        "licence": "MIT",
        "publisher": "acme",
        "capabilities": ["chat"],
    }


def bare(name: str) -> Json:
    return {"apiVersion": MODELS.api_version, "kind": "Model", "metadata": {"name": name}}
