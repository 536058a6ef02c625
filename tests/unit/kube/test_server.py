"""What is made of what an API server says of itself."""

import asyncio
from typing import Any

import pytest

from appliance.errors import PeerUnreachableError
from appliance.kube.errors import ForbiddenError
from appliance.kube.resources import BUDGETS, OLD_BUDGETS, OLD_ENDPOINT_SLICES
from appliance.kube.server import Abilities, Server, abilities, detect
from tests.fakes.kubeapi import FakeKubeApi

OLD = {"major": "1", "minor": "20", "gitVersion": "v1.20.2"}
K3S = {"major": "1", "minor": "34", "gitVersion": "v1.34.1+k3s1"}
ADMISSION = "admissionregistration.k8s.io/v1"
CLAIMS = "resource.k8s.io/v1"


def groups(*served: str) -> dict[str, Any]:
    return {"groups": [{"name": "x", "versions": [{"groupVersion": v} for v in served]}]}


def current() -> Abilities:
    served = groups("policy/v1", "discovery.k8s.io/v1", "events.k8s.io/v1", "autoscaling/v2")
    resources = {ADMISSION: ["validatingadmissionpolicies"], CLAIMS: ["resourceclaims"]}
    return abilities(K3S, served, resources)


def old() -> Abilities:
    return abilities(OLD, groups("policy/v1beta1", "events.k8s.io/v1"), {ADMISSION: ["x"]})


def test_a_current_server_can_do_all_of_it() -> None:
    found = current()
    assert found.cannot() == []
    assert (found.release, found.budgets) == ((1, 34), BUDGETS)


def test_an_old_server_is_told_apart_and_people_read_what_it_leaves_undone() -> None:
    found = old()
    assert (found.budgets, found.slices) == (OLD_BUDGETS, OLD_ENDPOINT_SLICES)
    assert not (found.claims)
    assert not (found.crd_rules)
    assert not (found.admission_policies)
    assert not (found.sidecars)
    said = " ".join(found.cannot())
    assert "this server (1.20) does not check" in said
    assert "device plugins, not claimed (DRA)" in said
    assert len(found.cannot()) == 5


def test_an_api_that_is_turned_off_is_not_there_whatever_the_version() -> None:
    assert not abilities(K3S, groups(), {CLAIMS: []}).claims


@pytest.mark.parametrize(
    ("version", "release"),
    [
        ({"major": "1", "minor": "27+"}, (1, 27)),
        ({"gitVersion": "v1.31.4-eks-1"}, (1, 31)),
    ],
)
def test_distributions_write_their_version_in_many_ways(
    version: dict[str, str], release: tuple[int, int]
) -> None:
    assert abilities(version, {}, {}).release == release


def test_what_is_no_api_server_is_said_to_be_none() -> None:
    with pytest.raises(PeerUnreachableError):
        abilities({"hello": "world"}, {}, {})


def old_server() -> FakeKubeApi:
    api = FakeKubeApi()
    api.answers = {"/version": OLD, "/apis": groups("events.k8s.io/v1")}
    return api


def test_classes_that_we_may_not_see_are_not_known() -> None:
    api = old_server()
    assert detect(api).runtime_classes == frozenset()

    def refuse(method: str, path: str) -> None:
        if path.endswith("classes"):
            raise ForbiddenError(f"{method} {path}")

    api.before = refuse
    assert detect(api).runtime_classes is None


def test_an_upgrade_of_the_server_is_seen_and_an_outage_forgets_nothing() -> None:
    api = old_server()
    server = Server(api)
    asyncio.run(server.look())
    assert server.abilities is not None
    assert server.abilities.release == (1, 20)
    api.away = True
    with pytest.raises(PeerUnreachableError):
        asyncio.run(server.look())
    assert server.abilities.release == (1, 20)
    api.away = False
    api.answers["/version"] = K3S
    asyncio.run(server.look())
    assert server.abilities.release == (1, 34)
