"""A hub that was put back has gaps where records were: they vouch for nothing, accuse nobody."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.core import wire
from appliance.hub import heads, receipts, resume
from appliance.hub.migrations import migrations
from appliance.kit.commit import GroupCommit
from appliance.ledger.chain import Head
from tests.helpers.hubs import TalkingNode

OF = ("box-1", "e1")
AT = "2026-12-01T00:00:00.000Z"
INSERT = "INSERT INTO records (node, epoch, stream, seq, record) VALUES (?, ?, ?, ?, ?)"
RECORDS = [{"at": AT, "kind": "test", "body": {"n": n}} for n in range(1, 7)]


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
        self.do(partial(heads.extend, of=OF, first=first, records=records, at=AT))

    def lose(self, first: int, upto: int) -> None:
        self.do(lambda db: resume._put_gap(db, (*OF, "audit"), (first, upto), AT))

    def suspects(self) -> dict[str, str]:
        return self.db.read(receipts.suspects)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    made = Hub(tmp_path)
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
