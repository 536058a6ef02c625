"""What is in force, in all combinations of what the fleet and local staff said."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.core import reading
from appliance.core.documents import Document
from appliance.core.mirror import Datastore, Mirrored
from appliance.core.state import Origin
from appliance.errors import NotFoundError
from appliance.kube.words import owned
from appliance.kube.words.datastore import Survey
from appliance.kube.words.owned import Seen
from appliance.kube.words.plan import Remove, TakeOver
from appliance.kube.words.projection import plan
from appliance.ledger import mirror
from appliance.ledger.db import Ledger
from appliance.node import desired, site
from appliance.node.desired import FleetWord
from appliance.node.projection import Here, _view
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


# --- what an earlier release took, and this one does not allow ------------------------------------


def stored(document: Document, **changes: Any) -> str:
    """Return a document as an earlier release may have stored it."""
    wire = document.to_wire()
    for part, fields in changes.items():
        wire[part] = {**wire[part], **fields}
    return json.dumps(wire)


BOTH = {"resources": {"gpu": 1, "gpuMemory": "6Gi"}}
FORBIDDEN = [
    ("a", stored(MINE, spec=BOTH)),
    ("n" * 62, stored(MINE, metadata={"name": "n" * 62})),
    ("a", stored(MINE, metadata={"labels": {"line": "paint shop"}})),
]


@pytest.fixture
def put(ledger: Ledger) -> Callable[[str, str], None]:
    def local(name: str, text: str) -> None:
        row = ("ModelDeployment", name, text, "uid 0", "then")
        ledger.record(
            lambda db: db.execute("INSERT OR REPLACE INTO local VALUES (?, ?, ?, ?, ?)", row)
        ).result()

    return local


@pytest.mark.parametrize(("name", "text"), FORBIDDEN)
def test_a_local_word_that_is_not_allowed_any_more_is_kept_out_and_named(
    staff: Staff, ledger: Ledger, put: Callable[[str, str], None], name: str, text: str
) -> None:
    put("b", stored(deployment("b")))
    put(name, text)
    assert staff.in_force() == [("b", Origin.LOCAL, 1)]
    (broken,) = ledger.read(desired.in_force).unreadable
    assert (broken.name, broken.origin, broken.model) == (name, Origin.LOCAL, MINE.spec.model)
    assert broken.why.startswith("the ledger: ")
    assert staff.delete(name) == "removed"
    assert ledger.read(desired.in_force).unreadable == ()


def test_it_still_counts_in_place_of_the_fleets_until_somebody_corrects_or_releases_it(
    staff: Staff, ledger: Ledger, put: Callable[[str, str], None]
) -> None:
    staff.fleet(FLEET)
    put("a", stored(MINE, spec=BOTH))
    assert staff.in_force() == []
    assert staff.apply(MINE) == "changed"
    assert staff.in_force() == [("a", Origin.LOCAL, 1)]
    put("a", stored(MINE, spec=BOTH))
    assert staff.release() == "released; the fleet's word holds again"
    assert staff.in_force() == [("a", Origin.FLEET, 2)]
    assert ledger.read(desired.in_force).unreadable == ()


def test_of_the_fleets_word_only_what_is_not_allowed_is_kept_out(
    staff: Staff, ledger: Ledger
) -> None:
    staff.fleet(FLEET, deployment("b"), SITE)
    texts = [stored(FLEET, spec=BOTH), stored(deployment("b")), stored(SITE)]
    ledger.record(
        lambda db: db.execute("UPDATE fleet SET documents = ?", (f"[{', '.join(texts)}]",))
    ).result()
    assert staff.in_force() == [("b", Origin.FLEET, 1)]
    assert [d.name for d in ledger.read(desired.in_force).unreadable] == ["a"]
    assert staff.delete().startswith("removed here; the fleet still asks for it")
    assert ledger.read(desired.in_force).unreadable == ()


def test_a_projection_leaves_the_object_of_such_a_word_alone(
    ledger: Ledger, put: Callable[[str, str], None]
) -> None:
    ledger.record(mirror.enter).result()
    put("a", stored(MINE, spec=BOTH))
    row = Mirrored("ModelDeployment", "a", Origin.LOCAL, "uid-a", projected=True)
    ledger.record(lambda db: mirror.keep(db, row)).result()
    applied = owned.mark("ModelDeployment", "a", MINE.to_wire())
    notes = {owned.FROM: "box-1", owned.APPLIED: applied}
    ours: Any = {"labels": {owned.OWNER: "local"}, "annotations": notes}
    seen = Seen("ModelDeployment", "a", "uid-a", **ours)
    survey = Survey(Datastore("c", "n", "d", 7), {seen.key: seen})
    here = Here("box-1", "edge-engines", TakeOver.ALWAYS)
    assert plan(ledger.read(lambda db: _view(db, here, survey))).steps == ()
    ledger.record(lambda db: desired.forget_local(db, *row.key)).result()
    (step,) = plan(ledger.read(lambda db: _view(db, here, survey))).steps
    assert isinstance(step, Remove), "once the word is gone the object goes"


def test_a_site_that_is_not_allowed_any_more_is_none(ledger: Ledger) -> None:
    row = ("Site", "a", stored(SITE, spec={"timeZone": "nowhere at all"}), "uid 0", "then")
    ledger.record(lambda db: db.execute("INSERT INTO local VALUES (?, ?, ?, ?, ?)", row)).result()
    assert ledger.read(site.in_force) is None
