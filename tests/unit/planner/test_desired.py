"""A local word wins for its object until it is released; the hub sees it as drift."""

from appliance.core.state import Origin
from appliance.planner.desired import drift, merge
from tests.helpers.models import deployment


def test_what_only_the_fleet_says_holds() -> None:
    found = merge([deployment("a")], {}, 7)
    assert [(d.document.name, d.origin, d.drift) for d in found.deployments] == [
        ("a", Origin.FLEET, "")
    ]
    assert found.fleet_generation == 7


def test_a_local_word_wins_and_says_how_it_departs() -> None:
    found = merge([deployment("a", replicas=2)], {"a": deployment("a", replicas=1)}, 1)
    (only,) = found.deployments
    assert only.origin is Origin.LOCAL
    assert only.document.spec.replicas == 1
    assert only.drift == "replicas is 1 here, 2 in the fleet"


def test_a_local_word_that_says_the_same_is_no_drift() -> None:
    (only,) = merge([deployment("a")], {"a": deployment("a", replicas=1)}, 1).deployments
    assert (only.origin, only.drift) == (Origin.LOCAL, "")


def test_what_only_stands_here_is_drift() -> None:
    (only,) = merge([], {"a": deployment("a")}, 1).deployments
    assert only.drift == "only here; the fleet does not ask for it"


def test_nothing_departs_from_a_fleet_that_never_said_anything() -> None:
    (only,) = merge([], {"a": deployment("a")}, None).deployments
    assert only.drift == ""


def test_what_was_taken_away_here_is_listed_only_while_the_fleet_asks_for_it() -> None:
    asked = merge([deployment("a"), deployment("b")], {"a": None, "gone": None}, 1)
    assert [d.document.name for d in asked.deployments] == ["b"]
    assert asked.removed == ("a",)


def test_deployments_come_in_the_order_of_names() -> None:
    found = merge([deployment("c"), deployment("a")], {"b": deployment("b")}, 1)
    assert [d.document.name for d in found.deployments] == ["a", "b", "c"]


def test_every_field_that_departs_is_named() -> None:
    words = drift(deployment(context=64), deployment(context=128, engine="vllm"))
    assert (
        words == "engine is 'vllm' here, 'auto' in the fleet; context is 128 here, 64 in the fleet"
    )
