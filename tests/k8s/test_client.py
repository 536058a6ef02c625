"""The client against a real API server."""

import threading
import time

import pytest

from appliance.errors import BadDocumentError, NotFoundError, PeerUnreachableError
from appliance.kube.client import Json, KubeApi
from appliance.kube.errors import ConflictError, ExistsError
from appliance.kube.resources import CONFIG_MAPS, DEPLOYMENTS


def config_map(**data: str) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": data}


def test_apply_owns_fields_and_a_conflict_names_them(api: KubeApi, namespace: str) -> None:
    path = CONFIG_MAPS.path(namespace, "x")
    api.apply(path, config_map(a="1"))
    with pytest.raises(ConflictError) as caught:
        api.apply(path, config_map(a="2"), manager="somebody")
    assert caught.value.fields == (".data.a",)
    assert api.apply(path, config_map(a="2"), manager="somebody", force=True)["data"] == {"a": "2"}


def test_create_and_delete_say_what_was_there(api: KubeApi, namespace: str) -> None:
    made = api.create(CONFIG_MAPS.path(namespace), config_map(a="1"))
    with pytest.raises(ExistsError):
        api.create(CONFIG_MAPS.path(namespace), config_map(a="1"))
    path = CONFIG_MAPS.path(namespace, "x")
    assert not api.delete(path, uid="11111111-1111-1111-1111-111111111111")
    assert api.delete(path, uid=made["metadata"]["uid"])
    assert not api.delete(path)
    with pytest.raises(NotFoundError):
        api.get(path)


def test_a_stale_replacement_is_a_conflict(api: KubeApi, namespace: str) -> None:
    path = CONFIG_MAPS.path(namespace, "x")
    old = api.create(CONFIG_MAPS.path(namespace), config_map(a="1"))
    api.merge(path, {"data": {"b": "2"}})
    with pytest.raises(ConflictError):
        api.replace(path, old)


def test_the_servers_words_reach_the_reader(api: KubeApi, namespace: str) -> None:
    bad = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}}
    with pytest.raises(BadDocumentError, match=r"spec\.selector"):
        api.apply(DEPLOYMENTS.path(namespace, "d"), bad)


def test_lists_come_in_pages_and_watches_begin_where_they_end(api: KubeApi, namespace: str) -> None:
    for number in range(5):
        metadata = {"name": f"x{number}", "labels": {"of": "us"}}
        api.create(CONFIG_MAPS.path(namespace), {**config_map(), "metadata": metadata})
    items, version = api.list(CONFIG_MAPS.path(namespace), labels="of=us", page=2)
    assert {i["metadata"]["name"] for i in items} == {f"x{n}" for n in range(5)}
    watch = api.watch(CONFIG_MAPS.path(namespace), version, labels="of=us")
    api.delete(CONFIG_MAPS.path(namespace, "x3"))
    event = next(iter(watch))
    watch.close()
    assert (event["type"], event["object"]["metadata"]["name"]) == ("DELETED", "x3")


def test_a_watch_that_waits_is_ended_from_outside(api: KubeApi, namespace: str) -> None:
    _, version = api.list(CONFIG_MAPS.path(namespace))
    watch = api.watch(CONFIG_MAPS.path(namespace), version, labels="of=nobody")
    threading.Timer(0.2, watch.close).start()
    began = time.monotonic()
    assert list(watch) == []
    assert time.monotonic() - began < 10


def test_a_server_that_is_away_is_unreachable(api: KubeApi) -> None:
    api._configuration.host, host = "http://127.0.0.1:1", api._configuration.host
    try:
        with pytest.raises(PeerUnreachableError):
            api.get("/version")
    finally:
        api._configuration.host = host
