"""What is in force, in all combinations of what the fleet and local staff said."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from appliance.core import reading
from appliance.core.documents import Document
from appliance.core.state import Origin
from appliance.errors import NotFoundError
from appliance.ledger.db import Ledger
from appliance.node import desired
from appliance.node.desired import FleetWord
from tests.helpers.models import deployment, wire_site

FLEET, MINE = deployment("a", replicas=2), deployment("a", replicas=1)
SITE = reading.from_wire(wire_site("a"), "a test")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "node.db")
    yield made
    made.close()


class Staff:
    """Both who may say something, and what holds then."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def fleet(self, *documents: Document, generation: int = 1) -> None:
        word = FleetWord(1, generation, "hash", documents)
        self._ledger.record(partial(desired.set_fleet, word=word)).result()

    def apply(self, document: Document) -> str:
        effect = partial(desired.apply_locally, document=document, by="uid 0", at="now")
        return self._ledger.record(effect).result()

    def delete(self, name: str = "a") -> str:
        effect = partial(desired.delete_locally, name=name, by="uid 0", at="now")
        return self._ledger.record(effect).result()

    def release(self, name: str = "a") -> str:
        return self._ledger.record(partial(desired.release, name=name)).result()

    def in_force(self) -> list[tuple[str, Origin, int]]:
        found = self._ledger.read(desired.in_force)
        return [(d.document.name, d.origin, d.document.spec.replicas) for d in found.deployments]

    def removed(self) -> tuple[str, ...]:
        return self._ledger.read(desired.in_force).removed


@pytest.fixture
def staff(ledger: Ledger) -> Staff:
    return Staff(ledger)


def test_nothing_is_in_force_at_first(staff: Staff, ledger: Ledger) -> None:
    assert staff.in_force() == []
    assert ledger.read(desired.in_force).fleet_generation is None
    assert ledger.read(desired.fleet) == FleetWord()


def test_a_local_document_is_created_changed_and_left_unchanged(staff: Staff) -> None:
    assert [staff.apply(d) for d in (MINE, MINE, FLEET)] == ["created", "unchanged", "changed"]
    assert staff.in_force() == [("a", Origin.LOCAL, 2)]


def test_a_local_document_over_the_fleets_is_a_change_and_drift(
    staff: Staff, ledger: Ledger
) -> None:
    staff.fleet(FLEET)
    assert staff.in_force() == [("a", Origin.FLEET, 2)]
    assert staff.apply(MINE) == "changed"
    assert staff.in_force() == [("a", Origin.LOCAL, 1)]
    (only,) = ledger.read(desired.in_force).deployments
    assert only.drift == "replicas is 1 here, 2 in the fleet"


def test_a_local_word_survives_a_new_generation(staff: Staff) -> None:
    staff.fleet(FLEET)
    staff.apply(MINE)
    staff.fleet(deployment("a", replicas=5), generation=2)
    assert staff.in_force() == [("a", Origin.LOCAL, 1)]
    staff.fleet(generation=3)
    assert staff.in_force() == [("a", Origin.LOCAL, 1)]


def test_releasing_gives_the_fleets_word_back(staff: Staff) -> None:
    staff.fleet(FLEET)
    staff.apply(MINE)
    assert staff.release() == "released; the fleet's word holds again"
    assert staff.in_force() == [("a", Origin.FLEET, 2)]


def test_releasing_what_only_stands_here_ends_it(staff: Staff) -> None:
    staff.apply(MINE)
    assert staff.release() == "released; the fleet does not ask for it, so it ends"
    assert staff.in_force() == []


def test_deleting_what_only_stands_here_forgets_it(staff: Staff) -> None:
    staff.apply(MINE)
    assert staff.delete() == "removed"
    assert staff.in_force() == []
    with pytest.raises(NotFoundError, match="nobody here changed"):
        staff.release()


@pytest.mark.parametrize("with_local", [False, True])
def test_deleting_the_fleets_takes_it_away_until_it_is_released(
    staff: Staff, *, with_local: bool
) -> None:
    staff.fleet(FLEET)
    if with_local:
        staff.apply(MINE)
    assert staff.delete().startswith("removed here; the fleet still asks for it")
    assert staff.in_force() == []
    assert staff.removed() == ("a",)
    staff.fleet(FLEET, generation=2)
    assert staff.in_force() == [], "a new generation does not bring it back"
    assert staff.release() == "released; the fleet's word holds again"
    assert staff.in_force() == [("a", Origin.FLEET, 2)]
    assert staff.removed() == ()


def test_what_was_taken_away_can_be_applied_again(staff: Staff) -> None:
    staff.fleet(FLEET)
    staff.delete()
    assert staff.apply(MINE) == "created"
    assert staff.in_force() == [("a", Origin.LOCAL, 1)]


def test_what_is_not_there_can_be_neither_deleted_nor_released(staff: Staff) -> None:
    staff.fleet(FLEET)
    with pytest.raises(NotFoundError, match="'b' is in force"):
        staff.delete("b")
    with pytest.raises(NotFoundError, match="'b'"):
        staff.release("b")
    staff.delete()
    with pytest.raises(NotFoundError, match="'a' is in force"):
        staff.delete()


def test_another_kind_of_the_same_name_is_another_object(staff: Staff) -> None:
    staff.fleet(SITE)
    staff.apply(MINE)
    assert staff.delete() == "removed"
    staff.apply(MINE)
    assert staff.release() == "released; the fleet does not ask for it, so it ends"
    assert staff.apply(SITE) == "changed"
    assert staff.delete() == "removed"
    with pytest.raises(NotFoundError):
        staff.delete()


def test_all_of_it_survives_a_restart(staff: Staff, ledger: Ledger, tmp_path: Path) -> None:
    staff.fleet(FLEET, deployment("b"), generation=7)
    staff.apply(MINE)
    staff.delete("b")
    before = ledger.read(desired.in_force), ledger.read(desired.fleet)
    ledger.close()
    again = Ledger(tmp_path / "node.db")
    assert (again.read(desired.in_force), again.read(desired.fleet)) == before
    again.close()
