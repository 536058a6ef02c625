"""Our kinds on a test's API server."""

import contextlib
import time

import yaml

from appliance.errors import NotFoundError
from appliance.kube.client import Json, KubeApi
from appliance.kube.errors import ExistsError
from appliance.kube.resources import DEFINITIONS, GROUP, MODEL_DEPLOYMENTS, MODELS, SITES, Resource
from tests.conftest import ROOT

_FOLDER = ROOT / "manifests" / "base" / "crds"
_LISTS = {"variants": ["version", "name"], "nodes": ["name"]}


def install(api: KubeApi) -> None:
    """Install those that are not there: the manifests', else as little as the tests can do with."""
    written = [yaml.safe_load(path.read_text()) for path in sorted(_FOLDER.glob("*.yaml"))]
    crds = [c for c in written if c and c.get("kind") == "CustomResourceDefinition"]
    for crd in crds or [_least(kind) for kind in (MODEL_DEPLOYMENTS, MODELS, SITES)]:
        with contextlib.suppress(ExistsError):
            api.create(DEFINITIONS.path(), crd)
    for kind in (MODEL_DEPLOYMENTS, MODELS, SITES):
        _wait_for(api, kind)


def _wait_for(api: KubeApi, kind: Resource) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            api.list(kind.path())
        except NotFoundError:
            assert time.monotonic() < deadline, f"{kind.plural} are not served"
            time.sleep(0.05)
        else:
            return


def _least(kind: Resource) -> Json:
    loose = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    lists = {name: _list(keys) for name, keys in _LISTS.items()}
    if kind is MODEL_DEPLOYMENTS:
        lists = {}
    schema = {
        "type": "object",
        "properties": {
            "spec": {**loose, "properties": lists},
            "status": {**loose, "properties": lists},
        },
    }
    version = {
        "name": kind.version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "names": {"plural": kind.plural, "kind": kind.kind},
            "versions": [version],
        },
    }


def _list(keys: list[str]) -> Json:
    return {
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": keys,
        "items": {
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": True,
            "required": keys,
            "properties": {key: {"type": "string"} for key in keys},
        },
    }
