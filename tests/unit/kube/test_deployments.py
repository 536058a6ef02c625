"""ModelDeployments as who plans reads them, from objects that anybody may have written."""

import json
from typing import Any

import pytest

from appliance.core.state import Origin
from appliance.kube.objects.deployments import Reader
from appliance.kube.words import owned
from tests.helpers.models import wire_deployment

Json = dict[str, Any]
MARK = {
    owned.FROM: "box-1",
    owned.APPLIED: json.dumps({"name": "notes", "spec": {"model": "small"}}),
}


def found(labels: Json, annotations: Json) -> Json:
    body = wire_deployment("notes")
    metadata = {
        "name": "notes", "namespace": "engines", "uid": "1",
        "labels": labels, "annotations": annotations,
    }  # fmt: skip
    return {**body, "metadata": metadata}


@pytest.mark.parametrize(
    ("annotations", "owner"),
    [({}, Origin.CLUSTER), ({owned.FROM: "box-1"}, Origin.CLUSTER), (MARK, Origin.FLEET)],
)
def test_a_label_alone_makes_nobody_the_owner(annotations: Json, owner: Origin) -> None:
    seen = Reader("engines")(found({owned.OWNER: "fleet"}, annotations))
    assert seen is not None
    assert seen.origin is owner


def test_labels_and_annotations_that_would_fill_the_memory_are_refused_and_not_kept() -> None:
    huge = found({owned.OWNER: "fleet"}, {**MARK, "x": "A" * 250_000})
    seen = Reader("engines")(huge)
    assert seen is not None
    assert seen.document is None
    assert seen.finding is not None
    assert "allowed: 32768" in seen.finding.message
    assert owned.seen_of(huge).annotations == MARK
    forged = found({}, {owned.FROM: "A" * 250_000})
    assert owned.seen_of(forged).annotations == {}
