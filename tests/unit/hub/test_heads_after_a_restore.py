"""A hub that was put back has gaps where records were: they vouch for nothing, accuse nobody."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.core import wire
from appliance.hub import heads, receipts, resume, store
from appliance.hub.migrations import migrations
from appliance.kit.commit import GroupCommit
from appliance.ledger.chain import Head
from tests.helpers.hubs import TalkingNode

OF = ("box-1", "e1")
AT = "2026-12-01T00:00:00.000Z"
INSERT = "INSERT INTO records (node, epoch, stream, seq, record) VALUES (?, ?, ?, ?, ?)"
RECORDS = [{"at": AT, "kind": "test", "body": {"n": n}} for n in range(1, 10)]


class Hub:
    def __init__(self, folder: Path) -> None:
        self.db = GroupCommit(folder / "hub.db", migrations)
        self.node = TalkingNode()

    def do(self, effect: Any) -> Any:
        return self.db.submit(effect).result()

    def commit(self, first: int, upto: int) -> None:
        """Have audit records of these numbers come."""
        records = RECORDS[first - 1 : upto]
        for seq, record in enumerate(records, start=first):
            row = (*OF, "audit", seq, wire.dumps(record).decode())
            self.do(lambda db, row=row: db.execute(INSERT, row))
        self.do(partial(self._stand, upto=upto))
        self.do(partial(heads.extend, of=OF, first=first, records=records, at=AT))

    def lose(self, first: int, upto: int) -> None:
        """Have the node say that they were acknowledged once."""
        said = {"acknowledged": upto, "hash": "ab" * 32}
        assert self.db.read(partial(heads._came, of=OF)) == first - 1
        self.do(lambda db: resume._position(db, (*OF, "audit"), said, AT))

    def find(self, first: int, upto: int) -> None:
        """Have a stick bring what was lost."""
        self.do(lambda db: resume.fill(db, (*OF, "audit"), (first, upto), AT))
        self.commit(first, upto)

    def say(self, said: Head) -> None:
        self.do(partial(heads.witness, of=OF, said=said, at=AT))

    def missing(self) -> dict[str, str]:
        return self.db.read(heads.missing)

    @staticmethod
    def _stand(db: Any, upto: int) -> None:
        db.execute(
            "INSERT INTO positions VALUES (?, ?, 'audit', ?, 'cd') ON CONFLICT DO UPDATE"
            " SET upto = max(upto, excluded.upto)",
            (*OF, upto),
        )

    def suspects(self) -> dict[str, str]:
        return self.db.read(receipts.suspects)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    made = Hub(tmp_path)
    made.do(lambda db: store.admit(db, "box-1", "key", AT))
    made.do(lambda db: store.set_reported(db, "box-1", {"dbEpoch": "e1"}, 1, AT))
    yield made
    made.db.close()


def head(seq: int) -> Head:
    found = Head()
    for record in RECORDS[:seq]:
        found = heads.after(found, record)
    return found


@pytest.mark.parametrize("lost", [1, 2])
def test_behind_records_that_the_hub_lost_an_honest_head_is_no_second_history(
    hub: Hub, lost: int
) -> None:
    hub.commit(1, 2)
    hub.lose(3, 2 + lost)
    hub.commit(3 + lost, 5)
    hub.do(partial(heads.witness, of=OF, said=head(5), at=AT))
    assert hub.suspects() == {}


def test_without_a_gap_a_second_history_shows(hub: Hub) -> None:
    hub.commit(1, 5)
    hub.do(partial(heads.witness, of=OF, said=Head(5, "ab" * 32), at=AT))
    assert "two audit logs" in hub.suspects()["box-1"]


@pytest.mark.parametrize("waited", [None, 4, 5])
def test_what_was_lost_here_is_not_said_to_be_missing(hub: Hub, waited: int | None) -> None:
    hub.commit(1, 2)
    if waited is not None:  # the backup holds it
        hub.say(head(waited))
        assert hub.missing()
    hub.lose(3, 5)
    assert hub.missing() == {}
    for _ in range(2):
        hub.say(head(5))
        assert [hub.missing(), hub.suspects()] == [{}, {}]
    hub.say(head(6))
    assert "5 of 6 records came" in hub.missing()["box-1"]
    hub.commit(6, 6)
    assert [hub.missing(), hub.suspects()] == [{}, {}]


@pytest.mark.parametrize("seq", [5, 6, 7, 8, 9])
@pytest.mark.parametrize("anchor", [4, 5, 6])
def test_behind_a_gap_the_chain_goes_on_from_the_next_head(hub: Hub, anchor: int, seq: int) -> None:
    hub.commit(1, 2)
    hub.lose(3, 4)
    hub.say(head(anchor))
    hub.commit(5, 7)
    hub.commit(8, 8)
    hub.say(head(8))
    assert hub.suspects() == {}
    hub.say(Head(seq, "ab" * 32))  # also before the anchor: the records lead to it
    if seq == 9:
        hub.commit(9, 9)
    assert "two audit logs" in hub.suspects()["box-1"]


def test_a_head_that_comes_after_the_records_is_where_the_chain_goes_on(hub: Hub) -> None:
    hub.lose(1, 3)
    hub.commit(4, 6)
    hub.say(head(5))
    hub.commit(7, 8)
    hub.say(head(8))
    hub.say(head(4))
    assert hub.suspects() == {}
    hub.say(Head(7, "ab" * 32))
    assert "two audit logs of 7 records" in hub.suspects()["box-1"]


@pytest.mark.parametrize("honest", [True, False])
def test_what_a_stick_brings_is_held_against_the_head_behind_the_gap(
    hub: Hub, *, honest: bool
) -> None:
    hub.commit(1, 2)
    hub.lose(3, 5)
    hub.commit(6, 7)
    hub.say(head(7) if honest else Head(7, "ab" * 32))
    hub.find(4, 5)
    assert hub.suspects() == {}
    hub.find(3, 3)
    assert bool(hub.suspects()) is not honest
