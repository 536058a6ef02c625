"""Whose an object is and in what two differ, in the words that people read."""

from typing import Any

import pytest

from appliance.core.state import Origin
from appliance.kube.words import owned
from appliance.kube.words.owned import seen_of

KIND = "ModelDeployment"


def found(name: str = "a", **meta: Any) -> dict[str, Any]:
    return {"kind": KIND, "metadata": {"name": name, "uid": "u", **meta}, "spec": {"model": "m"}}


def marked(of: str = "a") -> dict[str, Any]:
    notes = {owned.FROM: "n1", owned.APPLIED: owned.mark(KIND, of, {"spec": {"model": "m"}})}
    return {"labels": {owned.OWNER: "fleet"}, "annotations": notes}


def test_what_is_the_default_anyway_is_no_difference() -> None:
    filled = {"model": "m", "replicas": 1, "engine": "auto", "context": 4096, "resources": None}
    assert owned.normal(KIND, filled) == owned.normal(KIND, {"model": "m"}) == {"model": "m"}
    assert owned.normal(KIND, {"model": 3}) == {"model": 3}, "what is invalid is taken as it is"


def test_drift_names_each_field_with_both_values() -> None:
    here, fleet = {"model": "m", "context": 8192}, {"model": "n@1.0.0"}
    assert owned.in_words(owned.drift(KIND, here, fleet)) == (
        "context is 8192 here, not set in the fleet; model is 'm' here, 'n@1.0.0' in the fleet"
    )


@pytest.mark.parametrize(
    ("meta", "owner"),
    [
        ({}, Origin.CLUSTER),
        (marked(), Origin.FLEET),
        (marked(of="b"), Origin.CLUSTER),
        ({"labels": {owned.OWNER: "fleet"}}, Origin.CLUSTER),
        ({**marked(), "labels": {}}, Origin.CLUSTER),
        ({**marked(), "labels": {owned.OWNER: "boss"}}, Origin.CLUSTER),
    ],
)
def test_only_a_whole_mark_of_this_very_object_counts(meta: dict[str, Any], owner: Origin) -> None:
    assert seen_of(found(**meta)).owner is owner


def test_who_else_sets_a_field_is_read_from_its_managers() -> None:
    def by(manager: str, *fields: str, **more: str) -> dict[str, Any]:
        spec: dict[str, Any] = {f"f:{field}": {} for field in fields}
        return {"manager": manager, "fieldsV1": {"f:spec": spec}, **more}

    ours = by("edge-appliance-fleet", "model", "replicas")
    assert not seen_of(found(managedFields=[ours])).touched
    both = seen_of(found(managedFields=[ours, by("kubectl", "context")]))
    assert (both.others, both.touched, both.scaled) == (frozenset({"context"}), True, False)
    scaled = seen_of(found(managedFields=[ours, by("hpa", "replicas", subresource="scale")]))
    assert (scaled.others, scaled.scaled) == (frozenset({"replicas"}), True)
    assert seen_of(found()).touched, "nobody noted who: better asked for than overrun"


def test_demand_and_versions_are_no_change() -> None:
    one = seen_of(found(resourceVersion="1"))
    two = seen_of(found(resourceVersion="2", annotations={owned.DEMAND: "2026-12-01T00:00:00Z"}))
    assert one == two
