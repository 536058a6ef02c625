"""Our kinds on a real API server: what is refused, shown, scaled and explained.

A server that knows CEL refuses everything in ``tests/data/kubernetes/invalid.yaml`` itself. One
that does not lets through what only a rule catches, and the controller's reading finds it.
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from appliance.core.documents import Document
from appliance.core.reading import parse_yaml
from appliance.errors import ApplianceError, BadDocumentError
from appliance.kube.client import KubeApi
from appliance.kube.errors import ExistsError
from appliance.kube.objects import crd, read
from appliance.kube.resources import MODEL_DEPLOYMENTS, MODELS, NAMESPACES
from tests.conftest import ROOT, need_tool
from tests.helpers.definitions import Case, cases, install, resource_of
from tests.unit.kube.test_crd import STATUSES_SEEN

Json = dict[str, Any]

EXAMPLES = ROOT / "examples"


@dataclass(frozen=True)
class Server:
    """A server that has our definitions; ``knows_cel``: it holds objects to their rules."""

    knows_cel: bool


@pytest.fixture(scope="module")
def server(api: KubeApi) -> Server:
    return Server(install(api))


@pytest.fixture
def engines(api: KubeApi) -> str:
    """The namespace that the examples name."""
    with contextlib.suppress(ExistsError):
        api.create(NAMESPACES.path(), {"metadata": {"name": "edge-engines"}})
    return "edge-engines"


@pytest.fixture
def placed(api: KubeApi, namespace: str) -> Iterator["Placed"]:
    made = Placed(api, namespace)
    yield made
    made.clean()


class Placed:
    """Objects of one test, in a namespace of its own or removed at its end."""

    def __init__(self, api: KubeApi, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self._paths: list[str] = []

    def create(self, resource: Json) -> Json:
        """Create an object and return it as the server has it."""
        path, body = self._where(resource)
        return self._api.create(path.rpartition("/")[0], body)

    def apply(self, resource: Json) -> Json:
        """The same by server-side apply."""
        return self._api.apply(*self._where(resource))

    def _where(self, resource: Json) -> tuple[str, Json]:
        where = resource_of(resource["kind"])
        path = where.path(self._namespace, resource["metadata"]["name"])
        self._paths.append(path)
        body = json.loads(json.dumps(resource))
        if where.namespaced:
            body["metadata"]["namespace"] = self._namespace
        return path, body

    def clean(self) -> None:
        for path in self._paths:
            self._api.delete(path)


def name_of(case: Case) -> str:
    return case.id


@pytest.mark.parametrize("case", cases("invalid"), ids=name_of)
def test_a_bad_object_is_refused_or_found(case: Case, placed: Placed, server: Server) -> None:
    if case.caught != "cel" or server.knows_cel:
        with pytest.raises(BadDocumentError) as caught:
            placed.create(case.resource)
        words = case.server or case.says.partition(": ")[2] or case.says
        assert words in caught.value.what
        return
    found = read.document(placed.create(case.resource))
    assert not isinstance(found, Document)
    assert (found.status, found.reason) == ("False", "Invalid")
    assert case.says in found.message


@pytest.mark.parametrize("case", cases("valid"), ids=name_of)
@pytest.mark.usefixtures("server")
def test_a_good_object_is_taken_and_read_back(case: Case, placed: Placed) -> None:
    found = read.document(placed.apply(case.resource))
    assert isinstance(found, Document), found
    wanted = read.document(case.resource)
    assert isinstance(wanted, Document)
    assert found.spec == wanted.spec  # type: ignore[attr-defined]
    assert found.name == wanted.name


@pytest.mark.usefixtures("server")
def test_an_unknown_field_is_refused_by_server_side_apply(placed: Placed) -> None:
    case = cases("valid")[0]
    case.resource["spec"]["contxt"] = 8192
    with pytest.raises(ApplianceError, match="contxt"):
        placed.apply(case.resource)


@pytest.mark.usefixtures("server")
def test_a_status_is_kept_apart_and_each_node_owns_its_entry(
    api: KubeApi, placed: Placed, namespace: str
) -> None:
    case = next(c for c in cases("valid") if c.kind == "Model")
    made = placed.apply({**case.resource, "status": {"nodes": [{"name": "not-here"}]}})
    path = MODELS.path(namespace, made["metadata"]["name"], "status")
    for node in ("box-1", "box-2"):
        entry = {**STATUSES_SEEN["Model"]["nodes"][0], "name": node}
        head = {k: made[k] for k in ("apiVersion", "kind")}
        body = {**head, "metadata": {"name": case.resource["metadata"]["name"]}}
        api.apply(path, {**body, "status": {"nodes": [entry]}}, manager=f"edge-appliance-{node}")
    found = api.get(path)
    assert {node["name"] for node in found["status"]["nodes"]} == {"box-1", "box-2"}
    assert found["metadata"]["generation"] == made["metadata"]["generation"]


@pytest.mark.usefixtures("server")
def test_a_deployment_is_scaled_as_any_other(api: KubeApi, placed: Placed, namespace: str) -> None:
    placed.apply(cases("valid")[0].resource)
    path = MODEL_DEPLOYMENTS.path(namespace, "least", "scale")
    api.merge(path, {"spec": {"replicas": 3}})
    api.merge(
        MODEL_DEPLOYMENTS.path(namespace, "least", "status"),
        {"status": STATUSES_SEEN["ModelDeployment"]},
    )
    scale = api.get(path)
    assert scale["spec"] == {"replicas": 3}
    assert scale["status"] == {"replicas": 2, "selector": "a=b,c=d"}
    with pytest.raises(BadDocumentError, match="less than or equal to 64"):
        api.merge(path, {"spec": {"replicas": 65}})


@pytest.fixture(scope="module")
def kubectl(kubeconfig: Path, server: Server) -> "Kubectl":  # noqa: ARG001  (it has our kinds)
    return Kubectl(need_tool("kubectl"), kubeconfig)


class Kubectl:
    """The current kubectl against the server."""

    def __init__(self, program: str, kubeconfig: Path) -> None:
        self._program = program
        self._environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            [self._program, *arguments],
            env=self._environment, text=True, capture_output=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout


def test_the_examples_are_applied_as_they_stand(
    api: KubeApi, kubectl: Kubectl, engines: str
) -> None:
    documents = [d for p in sorted(EXAMPLES.iterdir()) for d in parse_yaml(p.read_text(), p.name)]
    try:
        kubectl("apply", "-f", str(EXAMPLES))
        for document in documents:
            path = resource_of(document.kind).path(engines, document.name)
            assert read.document(api.get(path)).spec == document.spec  # type: ignore[union-attr,attr-defined]
        lines = kubectl("get", "modeldeployments", "-n", engines).splitlines()
        assert lines[0].split() == [
            "NAME", "MODEL", "VARIANT", "READY", "REPLICAS", "TOKENS/S", "AGE",
        ]  # fmt: skip
        shown = {line.split()[0] for line in lines[1:]}
        assert {d.name for d in documents if d.kind == "ModelDeployment"} <= shown
    finally:
        kubectl("delete", "-f", str(EXAMPLES), "--ignore-not-found")


def test_names_and_columns_are_as_people_type_them(
    api: KubeApi, kubectl: Kubectl, placed: Placed, namespace: str
) -> None:
    for case in cases("valid"):
        if case.id in ("least", "model", "plain-site"):
            placed.apply(case.resource)
    api.merge(
        MODEL_DEPLOYMENTS.path(namespace, "least", "status"),
        {"status": STATUSES_SEEN["ModelDeployment"]},
    )
    wide = kubectl("get", "md", "-n", namespace, "-o", "wide").splitlines()
    assert wide[0].split()[-3:] == ["OWNER", "NODES", "REASON"]
    row = wide[1].split()
    assert row[1:6] == ["m", "Q4_0", "True", "1", "41.5"]
    assert row[-3:] == ["fleet", '["box-1"]', "Serving"]
    assert "1.0.0 Q4_0 Q8_0" in kubectl("get", "mdl")
    everything = kubectl("get", crd.CATEGORY, "-n", namespace, "-o", "name").split()
    assert len(everything) >= 3


def test_explain_reads_well(kubectl: Kubectl) -> None:
    said = " ".join(kubectl("explain", "modeldeployment.spec.objectives").split())
    assert "What callers are to see, instead of which hardware it takes" in said
    assert "How long a caller waits from the request to the first token of the answer." in said
    assert "concurrency <integer>" in said
    assert "timeToFirstToken <Object>" in said


@pytest.mark.usefixtures("server")
def test_what_a_document_becomes_is_what_it_is_read_as(
    api: KubeApi, namespace: str, placed: Placed
) -> None:
    (document,) = parse_yaml((EXAMPLES / "objectives.yaml").read_text(), "objectives.yaml")
    body = json.loads(json.dumps(document.to_wire()))
    labels = {**body["metadata"].get("labels", {}), "edge-appliance.dev/owner": "local"}
    placed.apply(
        {**body, "metadata": {**body["metadata"], "namespace": namespace, "labels": labels}}
    )
    found = read.document(api.get(MODEL_DEPLOYMENTS.path(namespace, document.name)))
    assert isinstance(found, Document)
    assert found.spec == document.spec  # type: ignore[attr-defined]
    assert found.metadata.labels["edge-appliance.dev/owner"] == "local"
    assert found.metadata.namespace == namespace
