"""Least privilege: every verb of our roles is needed by something, and nothing else is."""

import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance.kube.client import KubeApi
from appliance.kube.errors import ForbiddenError
from appliance.kube.resources import BUDGETS, OLD_BUDGETS
from tests.k8s.operations import SYSTEM, Operation, controller, gateway
from tests.k8s.test_manifests import install, overlay_for, path_of

Json = dict[str, Any]
Right = tuple[str, str, str, str]


@pytest.fixture(scope="module")
def roles(api: KubeApi) -> Iterator[list[Json]]:
    """Our roles, put back in the end."""
    found = [b for b in install(api) if b["kind"] in ("Role", "ClusterRole")]
    yield found
    for role in found:
        api.apply(path_of(role), role, manager="test-install", force=True)


def account(api: KubeApi, kubeconfig: Path, name: str, folder: Path) -> KubeApi:
    """Sign in as a service account, with a token of its own."""
    path = f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/{name}/token"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = api.create(path, body)["status"]["token"]
    found = yaml.safe_load(kubeconfig.read_text())
    for user in found["users"]:
        user["user"] = {"token": token}
    own = folder / f"{name}.yaml"
    own.write_text(yaml.safe_dump(found))
    return KubeApi.connect(own, manager=name)


def of(roles: list[Json], name: str) -> list[Json]:
    return [r for r in roles if r["metadata"]["name"].startswith(name)]


def granted(roles: list[Json]) -> set[Right]:
    return {
        (role["metadata"].get("namespace", ""), group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def operations(api: KubeApi, name: str) -> list[Operation]:
    old = overlay_for(api) == "old-server"
    if name == "edge-gateway":
        return gateway(old=old)
    return controller(OLD_BUDGETS if old else BUDGETS)


def refused(operation: Operation, account: KubeApi) -> str:
    """Return what the server says when it forbids an operation; nothing when it does not."""
    try:
        operation.run(account)
    except ForbiddenError as error:
        return str(error)
    return ""


def settles(operation: Operation, account: KubeApi, *, allowed: bool) -> str:
    """Return the server's last word; it takes a moment to hear of a changed role."""
    for _ in range(100):
        said = refused(operation, account)
        if (said == "") is allowed:
            break
        time.sleep(0.05)
    return said


def less(role: Json, right: Right) -> Json | None:
    """Return a role without one right; None when it does not grant it."""
    where, group, resource, verb = right
    found = copy.deepcopy(role)
    if role["metadata"].get("namespace", "") != where:
        return None
    rules = []
    for rule in found["rules"]:
        if group in rule["apiGroups"] and resource in rule["resources"] and verb in rule["verbs"]:
            others = [r for r in rule["resources"] if r != resource]
            rules += [{**rule, "resources": others}] if others else []
            verbs = [v for v in rule["verbs"] if v != verb]
            rules += [{**rule, "resources": [resource], "verbs": verbs}] if verbs else []
        else:
            rules.append(rule)
    return None if rules == found["rules"] else {**found, "rules": rules}


@pytest.fixture(scope="module", params=["edge-controller", "edge-gateway"])
def who(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def signed_in(
    api: KubeApi,
    kubeconfig: Path,
    roles: list[Json],
    who: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[KubeApi]:
    assert roles
    found = account(api, kubeconfig, who, tmp_path_factory.mktemp(who))
    yield found
    found.close()
    for operation in operations(api, who):
        if operation.verb == "create":
            name = operation.name or "right"
            Operation("", operation.kind, "delete", operation.namespace, name).run(api)


def test_nothing_is_granted_that_nothing_needs(api: KubeApi, roles: list[Json], who: str) -> None:
    assert granted(of(roles, who)) == {o.right for o in operations(api, who)}


def test_with_the_whole_role_nothing_is_forbidden(
    api: KubeApi, signed_in: KubeApi, who: str
) -> None:
    assert {o.what: r for o in operations(api, who) if (r := refused(o, signed_in))} == {}


def test_without_any_one_verb_something_breaks_and_the_server_names_it(
    api: KubeApi, signed_in: KubeApi, roles: list[Json], who: str
) -> None:
    for operation in operations(api, who):
        for role in of(roles, who):
            changed = less(role, operation.right)
            if changed is not None:
                api.apply(path_of(role), changed, manager="test-install", force=True)
                said = settles(operation, signed_in, allowed=False)
                assert operation.verb in said, operation
                assert operation.kind.plural in said, operation
                api.apply(path_of(role), role, manager="test-install", force=True)
                break
        else:
            pytest.fail(f"no role grants {operation.right}")
    assert {
        o.what: r for o in operations(api, who) if (r := settles(o, signed_in, allowed=True))
    } == {}
