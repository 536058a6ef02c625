"""EndpointSlices, as several servers write them, become the engines of a deployment."""

from typing import Any

import pytest

from appliance.core.routes import ApiKey, Endpoint, Route, RouteSnapshot
from appliance.kube.client import Json
from appliance.kube.routes import Slice, by_deployment, read, with_endpoints

LABELS = {"edge-appliance.dev/deployment": "notes", "kubernetes.io/service-name": "notes-svc"}


def endpoint(pod: str = "notes-0-x", address: str = "10.42.0.7", **more: Any) -> Json:
    return {
        "addresses": [address],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "targetRef": {"kind": "Pod", "name": pod},
        "nodeName": "n1",
        **more,
    }


def slice_of(*endpoints: Json, family: str = "IPv4", **more: Any) -> Json:
    return {
        "metadata": {"name": "notes-abc", "labels": LABELS},
        "addressType": family,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": list(endpoints),
        **more,
    }


def test_an_engine_is_its_pod_on_its_machine() -> None:
    assert read(slice_of(endpoint())) == Slice(
        "notes", "IPv4", (Endpoint("notes-0-x", "http://10.42.0.7:8080", "n1"),)
    )


@pytest.mark.parametrize(
    ("conditions", "asked"),
    [
        ({"ready": True, "serving": True, "terminating": False}, True),
        ({"ready": True}, True),
        ({}, True),
        (None, True),
        ({"ready": None, "serving": None, "terminating": None}, True),
        ({"ready": False, "serving": False, "terminating": False}, False),
        ({"ready": False}, False),
        ({"ready": False, "serving": True, "terminating": True}, False),
        ({"ready": True, "serving": True, "terminating": True}, False),
        ({"ready": True, "serving": False, "terminating": False}, False),
    ],
)
def test_only_those_that_are_ready_and_stay_are_asked(
    conditions: dict[str, bool | None] | None, *, asked: bool
) -> None:
    found = read(slice_of(endpoint(conditions=conditions)))
    assert found is not None
    assert bool(found.endpoints) is asked


@pytest.mark.parametrize(
    "more",
    [
        {"nodeName": None, "topology": {"kubernetes.io/hostname": "n1"}},
        {"nodeName": None, "deprecatedTopology": {"kubernetes.io/hostname": "n1"}},
    ],
)
def test_older_servers_say_the_machine_elsewhere(more: Json) -> None:
    found = read(slice_of(endpoint(**more)))
    assert found is not None
    assert found.endpoints[0].node == "n1"


@pytest.mark.parametrize(
    ("ports", "port"),
    [
        ([{"name": "metrics", "port": 9000}, {"name": "http", "port": 8080}], 8080),
        ([{"name": "", "port": 8000}], 8000),
        ([{"name": "http", "port": 53, "protocol": "UDP"}, {"port": 8000}], 8000),
        ([{"name": "http", "port": None}], None),
        ([], None),
        (None, None),
    ],
)
def test_the_port_is_the_one_called_http_or_the_first(
    ports: list[Json] | None, port: int | None
) -> None:
    found = read(slice_of(endpoint(), ports=ports))
    assert (found is None) == (port is None)
    if found is not None:
        assert found.endpoints[0].address == f"http://10.42.0.7:{port}"


def test_a_server_that_leaves_our_label_away_names_the_service() -> None:
    labels = {"kubernetes.io/service-name": "notes"}
    found = read(slice_of(endpoint(), metadata={"name": "x", "labels": labels}))
    assert found is not None
    assert found.deployment == "notes"


@pytest.mark.parametrize(
    "found",
    [
        slice_of(endpoint(), metadata={"name": "x"}),
        slice_of(endpoint(), addressType="FQDN"),
    ],
)
def test_what_is_none_of_ours_is_left_out(found: Json) -> None:
    assert read(found) is None


def test_slices_without_engines_are_no_engines() -> None:
    for found in (slice_of(), slice_of(endpoints=None), slice_of(endpoint(addresses=[]))):
        assert read(found) == Slice("notes", "IPv4", ())


def test_a_pod_with_two_families_or_in_two_slices_is_one_engine() -> None:
    six = slice_of(endpoint(address="fd00::7"), endpoint("notes-1-x", "fd00::8"), family="IPv6")
    four = slice_of(endpoint())
    found = by_deployment(s for s in map(read, (six, four, four)) if s is not None)
    assert found == {
        "notes": (
            Endpoint("notes-0-x", "http://10.42.0.7:8080", "n1"),
            Endpoint("notes-1-x", "http://[fd00::8]:8080", "n1"),
        )
    }


def test_the_snapshot_says_what_is_served_and_the_cluster_where() -> None:
    old, new = Endpoint("a", "http://10.42.0.1:8080"), Endpoint("b", "http://10.42.0.2:8080")
    snapshot = RouteSnapshot(
        (
            Route("notes", ("chat",), (old,), retry_after_s=9),
            Route("gone", ("chat",), (old,), wakes=True),
            Route("large", (), (), cannot="does not fit"),
        ),
        (ApiKey("k", "t", "0" * 64),),
        needs_key=True,
    )
    assert with_endpoints(snapshot, {"notes": (new,), "unasked": (new,)}) == RouteSnapshot(
        (
            Route("notes", ("chat",), (new,), retry_after_s=9),
            Route("gone", ("chat",), (), wakes=True),
            Route("large", (), (), cannot="does not fit"),
        ),
        (ApiKey("k", "t", "0" * 64),),
        needs_key=True,
    )
