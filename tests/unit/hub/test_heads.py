"""What a node signed of its audit log is held against the records that came."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.core import wire
from appliance.errors import MalformedError
from appliance.hub import heads, receipts, store
from appliance.hub.ingest import ingest
from appliance.hub.migrations import migrations
from appliance.kit.commit import GroupCommit
from appliance.ledger.chain import Head
from appliance.sync.batch import Batch

AT, LATER = "2026-12-01T00:00:00.000Z", "2026-12-01T01:00:00.000Z"
OF = ("box-1", "e1")
RECORDS: list[dict[str, Any]] = [{"at": AT, "kind": "import", "body": {"n": n}} for n in range(9)]


def head(count: int) -> Head:
    found = Head()
    for record in RECORDS[:count]:
        found = found.after(wire.dumps(record))
    return found


class Desk:
    """A hub's database, as far as it is about one node's audit log."""

    def __init__(self, folder: Path) -> None:
        self.db = GroupCommit(folder / "hub.db", migrations)
        self.previous = ""
        self.db.submit(lambda c: store.admit(c, "box-1", "key", AT)).result()
        report = {"dbEpoch": "e1"}
        self.db.submit(lambda c: store.set_reported(c, "box-1", report, 1, AT)).result()

    def come(self, first: int, last: int, records: list[dict[str, Any]] = RECORDS) -> None:
        """Have the records of these numbers come in one batch."""
        chosen = tuple(records[first - 1 : last])
        batch = Batch("audit", "e1", first, self.previous, f"hash-{first}", chosen)
        self.previous = batch.hash

        def effect(c: Any) -> None:
            assert ingest(c, "box-1", batch, AT)
            heads.extend(c, OF, first, chosen, AT)

        self.db.submit(effect).result()

    def say(self, said: Head, at: str = AT) -> None:
        self.db.submit(lambda c: heads.witness(c, OF, said, at)).result()

    def report(self, said: Head, before: dict[str, Any]) -> None:
        self.db.submit(lambda c: heads.reported(c, OF, said, before, AT)).result()

    @property
    def suspicion(self) -> str | None:
        return self.db.read(receipts.suspects).get("box-1")

    @property
    def missing(self) -> str | None:
        return self.db.read(heads.missing).get("box-1")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.db.close()


def test_heads_that_fit_raise_no_suspicion_whichever_comes_first(desk: Desk) -> None:
    desk.say(head(2))
    desk.come(1, 3)
    for count in range(6):
        desk.say(head(count))
    desk.come(4, 5)
    desk.say(head(5))
    assert [desk.suspicion, desk.missing] == [None, None]


@pytest.mark.parametrize("seq", [2, 3, 4, 5])
@pytest.mark.parametrize("comes_first", [True, False])
def test_two_heads_for_one_number_are_two_histories(
    desk: Desk, seq: int, *, comes_first: bool
) -> None:
    wrong = Head(seq, "f" * 64)
    if comes_first:
        desk.say(wrong)
        assert desk.suspicion is None, "nothing came yet that speaks against it"
    desk.come(1, 3)
    desk.come(4, 5)
    if not comes_first:
        desk.say(wrong)
    assert desk.suspicion == f"two audit logs of {seq} records in its ledger e1"


def test_two_heads_are_found_out_although_no_record_ever_comes(desk: Desk) -> None:
    desk.say(head(4))
    desk.say(head(4))
    assert desk.suspicion is None
    desk.say(Head(4, "f" * 64))
    assert desk.suspicion == "two audit logs of 4 records in its ledger e1"


def test_records_of_another_history_are_found_out(desk: Desk) -> None:
    desk.say(head(3))
    desk.come(1, 3, [RECORDS[0], RECORDS[2], RECORDS[1]])
    assert desk.suspicion == "two audit logs of 3 records in its ledger e1"


def test_a_tail_that_was_cut_shows_until_it_comes(desk: Desk) -> None:
    desk.come(1, 2)
    desk.say(head(5))
    desk.say(head(7), at=LATER)
    assert desk.missing == f"audit: 2 of 7 records came, the rest is missing since {AT}"
    desk.come(3, 6)
    assert desk.missing == f"audit: 6 of 7 records came, the rest is missing since {LATER}"
    desk.come(7, 7)
    assert [desk.missing, desk.suspicion] == [None, None]


def test_a_log_that_became_shorter_is_suspect(desk: Desk) -> None:
    desk.come(1, 5)
    before = {"dbEpoch": "e1", "audit": head(5).to_wire()}
    desk.report(head(5), before)
    desk.report(head(1), {**before, "dbEpoch": "another"})
    assert desk.suspicion is None
    desk.report(head(4), before)
    assert desk.suspicion == "its audit log had 5 records and has 4 now in its ledger e1"


def test_a_record_that_was_left_out_counts_by_its_hash(desk: Desk) -> None:
    digest = hashlib.sha256(wire.dumps(RECORDS[1])).hexdigest()
    gap = {"at": AT, "kind": "import", "body": {"omitted": {"bytes": 9, "sha256": digest}}}
    desk.come(1, 3, [RECORDS[0], gap, RECORDS[2]])
    desk.say(head(3))
    desk.say(head(2))
    assert desk.suspicion is None


def test_a_log_whose_begin_nobody_saw_vouches_for_nothing(desk: Desk) -> None:
    desk.db.submit(lambda c: heads.extend(c, OF, 5, RECORDS[4:6], AT)).result()
    desk.say(head(6))
    assert desk.suspicion is None


def test_only_the_newest_waiting_heads_are_kept(desk: Desk) -> None:
    for seq in range(1, 211):
        desk.say(Head(seq, "a" * 64))
    kept = desk.db.read(lambda c: c.execute("SELECT min(seq), count(*) FROM witnesses").fetchone())
    assert tuple(kept) == (11, 200)


@pytest.mark.parametrize(
    "audit", [1, {}, {"seq": 1}, {"seq": -1, "hash": "a" * 64}, {"seq": 1, "hash": "A" * 64}]
)
def test_nonsense_is_no_head(audit: object) -> None:
    with pytest.raises(MalformedError):
        heads.named({"audit": audit})


def test_a_report_may_be_silent_of_the_audit_log() -> None:
    assert heads.named({}) is None
    assert heads.named({"audit": head(3).to_wire()}) == head(3)
