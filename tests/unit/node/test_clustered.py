"""Local commands and what is in force under Kubernetes, with no cluster to be seen."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.core import reading
from appliance.core.documents import Document
from appliance.core.mirror import Asked, Mirrored
from appliance.core.state import Origin
from appliance.errors import NotFoundError, UsageError
from appliance.kube.words import owned
from appliance.ledger import mirror
from appliance.ledger.db import Ledger
from appliance.node import desired, site
from appliance.node.desired import FleetWord
from tests.helpers.models import deployment, wire_site

KIND = "ModelDeployment"


class Desk:
    """A node under Kubernetes whose cluster is away; rows are what was seen of it before."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.do(mirror.enter)

    def do(self, effect: Callable[..., Any]) -> Any:
        return self.ledger.record(effect).result()

    def fleet(self, *documents: Document) -> None:
        self.do(partial(desired.set_fleet, word=FleetWord(1, 1, "hash", documents)))

    def saw(
        self, name: str = "a", owner: Origin = Origin.FLEET, kind: str = KIND, **spec: Any
    ) -> Mirrored:
        projected = owner is not Origin.CLUSTER
        spec = {"model": "small", **spec} if kind == KIND else spec
        row = Mirrored(kind, name, owner, f"uid of {name}", 1, projected, spec)
        self.do(partial(mirror.keep, row=row))
        return row

    def saw_another_nodes(self, name: str = "a") -> None:
        notes = {owned.FROM: "n2"}
        row = Mirrored(
            KIND, name, Origin.FLEET, "u", 1, False, {"model": "small"}, annotations=notes
        )
        self.do(partial(mirror.keep, row=row))

    def apply(self, document: Document) -> str:
        return str(self.do(partial(desired.apply_locally, document=document, by="uid 0", at="now")))

    def delete(self, name: str = "a") -> str:
        return str(self.do(partial(desired.delete_locally, name=name, by="uid 0", at="now")))

    def release(self, name: str = "a") -> str:
        return str(self.do(partial(desired.release, name=name)))

    def asked(self) -> list[Asked]:
        return list(self.ledger.read(mirror.asked).values())

    def in_force(self) -> dict[str, tuple[Origin, str]]:
        found = self.ledger.read(desired.in_force).deployments
        return {d.document.name: (d.origin, d.drift) for d in found}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(Ledger(tmp_path / "node.db"))
    yield made
    made.ledger.close()


def test_what_stands_there_is_in_force_and_what_does_not_yet_waits(desk: Desk) -> None:
    desk.fleet(deployment("a"), deployment("b", context=8192), deployment("c"))
    desk.saw("a")
    desk.saw("b", context=4096, replicas=2)
    desk.saw("mine", Origin.CLUSTER)
    assert desk.in_force() == {
        "a": (Origin.FLEET, ""),
        "b": (
            Origin.FLEET,
            "context is not set here, 8192 in the fleet; replicas is 2 here, not set in the fleet",
        ),
        "c": (Origin.FLEET, "not in the cluster yet"),
        "mine": (Origin.CLUSTER, "only here; the fleet does not ask for it"),
    }


def test_who_scales_within_the_fleets_bounds_is_no_drift(desk: Desk) -> None:
    desk.fleet(deployment("a", scaling={"min": 1, "max": 4}))
    desk.saw("a", scaling={"min": 1, "max": 4, "prewarm": "none"}, replicas=3)
    assert desk.in_force()["a"] == (Origin.FLEET, "")


def test_apply_takes_the_place_of_what_stands_there(desk: Desk) -> None:
    desk.saw("a", Origin.CLUSTER, context=8192)
    assert desk.apply(deployment("a")) == "changed"
    assert desk.asked() == [Asked(KIND, "a", "force")]
    desk.saw("a", Origin.LOCAL)
    desk.do(partial(mirror.heard, wish=Asked(KIND, "a", "force")))
    assert desk.apply(deployment("a")) == "unchanged"
    desk.saw("a", Origin.LOCAL, context=8192)  # somebody edited it
    assert desk.apply(deployment("a")) == "changed"
    assert desk.asked() == [Asked(KIND, "a", "force")]


def test_delete_names_the_very_object_that_somebody_made(desk: Desk) -> None:
    row = desk.saw("a", Origin.CLUSTER)
    assert "kubectl" in desk.delete()
    assert desk.asked() == [Asked(KIND, "a", "delete", row.uid)]
    assert desk.in_force() == {}
    with pytest.raises(NotFoundError):
        desk.delete()


def test_delete_of_the_fleets_is_a_local_word(desk: Desk) -> None:
    desk.fleet(deployment("a"))
    desk.saw("a")
    assert desk.delete().startswith("removed here")
    assert (desk.asked(), desk.in_force()) == ([], {})
    assert desk.ledger.read(desired.in_force).removed == ("a",)
    assert desk.release().startswith("released")
    assert desk.in_force()["a"] == (Origin.FLEET, "")


def test_release_gives_back_an_edit_and_what_was_made_with_kubectl(desk: Desk) -> None:
    desk.fleet(deployment("a"), deployment("b"), deployment("c"))
    desk.saw("a", context=8192)
    desk.saw("b", Origin.CLUSTER)
    desk.saw("c")
    desk.release("a")
    desk.release("b")
    assert [(w.name, w.verb) for w in desk.asked()] == [("a", "force"), ("b", "force")]
    with pytest.raises(NotFoundError, match="nobody here changed"):
        desk.release("c")


def test_what_another_node_projects_is_said_to_that_node(desk: Desk) -> None:
    desk.fleet(deployment("a"))
    desk.saw_another_nodes("a")
    calls: list[Callable[[], str]] = [
        desk.delete, desk.release, partial(desk.apply, deployment("a")),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(UsageError, match="n2"):
            call()


def test_an_object_that_its_kind_does_not_allow_is_left_to_its_status(desk: Desk) -> None:
    desk.saw("a", Origin.CLUSTER, replicas="many")
    assert desk.in_force() == {}


def test_a_node_that_leaves_kubernetes_goes_by_its_words_again(desk: Desk) -> None:
    desk.fleet(deployment("a"))
    desk.saw("mine", Origin.CLUSTER)
    desk.do(mirror.leave)
    assert desk.in_force() == {"a": (Origin.FLEET, "")}


def test_the_site_in_force_is_the_one_that_stands_there(desk: Desk) -> None:
    assert desk.ledger.read(site.in_force) is None
    desk.fleet(reading.from_wire(wire_site("fleets"), "a test"))
    assert _zone(desk) == "UTC"
    desk.saw("fleets", Origin.FLEET, "Site", timeZone="Europe/Zurich")
    assert _zone(desk) == "Europe/Zurich"
    desk.saw("kubectls", Origin.CLUSTER, "Site", timeZone="Asia/Tokyo")
    assert _zone(desk) == "Asia/Tokyo"
    desk.apply(reading.from_wire(wire_site("here"), "a test"))
    assert _zone(desk) == "UTC"


def _zone(desk: Desk) -> str:
    found = desk.ledger.read(site.in_force)
    assert found is not None
    return found.spec.time_zone
