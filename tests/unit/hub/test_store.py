"""What nodes send is committed once and in order, or refused; a generation is always one text."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from appliance.errors import EquivocationError, NotFoundError, UsageError
from appliance.hub import store
from appliance.hub.migrations import migrations
from appliance.hub.store import Ask, Position
from appliance.kit.commit import GroupCommit
from appliance.sync.batch import Batch
from tests.helpers.models import deployment

AT = "2026-12-01T00:00:00.000Z"
LONG_AGO = "2020-01-01T00:00:00.000Z"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[GroupCommit]:
    made = GroupCommit(tmp_path / "hub.db", migrations)
    made.submit(partial(store.admit, node="box-1", key="key", at=AT)).result()
    yield made
    made.close()


def batch(first: int, count: int = 2, previous: str = "", mark: str = "") -> Batch:
    records = tuple({"body": n} for n in range(first, first + count))
    return Batch("usage", "e1", first, previous, f"{mark}hash-{first}", records)


CHAIN = [batch(1), batch(3, previous="hash-1"), batch(5, previous="hash-3")]


def ingest(db: GroupCommit, found: Batch) -> bool:
    return db.submit(partial(store.ingest, name="box-1", batch=found, at=AT)).result()


def bodies(db: GroupCommit, after: int = 0) -> list[int]:
    found = db.read(lambda c: store.records(c, "box-1", ("e1", "usage"), after, 1000))
    return [r["body"] for r in found]


def test_a_node_is_admitted_once_and_by_one_key(db: GroupCommit) -> None:
    db.submit(partial(store.admit, node="box-1", key="key", at="later")).result()
    assert [(n.node, n.key, n.admitted_at) for n in db.read(store.nodes)] == [("box-1", "key", AT)]
    with pytest.raises(UsageError, match="another key"):
        db.submit(partial(store.admit, node="box-1", key="other", at=AT)).result()
    with pytest.raises(NotFoundError, match="no node 'box-2'"):
        db.read(partial(store.node, name="box-2"))


def test_batches_in_order_are_committed(db: GroupCommit) -> None:
    assert [ingest(db, b) for b in CHAIN] == [True, True, True]
    assert bodies(db) == [1, 2, 3, 4, 5, 6]
    assert bodies(db, after=4) == [5, 6]
    assert db.read(partial(store.positions, name="box-1")) == [Position("e1", "usage", 6, "hash-5")]
    assert [b["first"] for b in db.read(partial(store.batches, name="box-1"))] == [1, 3, 5]


def test_a_repetition_changes_nothing(db: GroupCommit) -> None:
    assert [ingest(db, b) for b in (CHAIN[0], CHAIN[0], CHAIN[1], CHAIN[0], CHAIN[1])] == [
        True, False, True, False, False,
    ]  # fmt: skip
    assert bodies(db) == [1, 2, 3, 4]


def test_what_comes_too_early_waits_to_be_sent_again(db: GroupCommit) -> None:
    assert [ingest(db, b) for b in (CHAIN[1], CHAIN[2], CHAIN[0], CHAIN[2], CHAIN[1])] == [
        False, False, True, False, True,
    ]  # fmt: skip
    assert bodies(db) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "other",
    [
        batch(1, mark="x"),
        batch(2),
        batch(3, previous="hash-1", mark="x"),
        batch(4, previous="hash-1"),
        batch(5, previous="hash-1"),
        batch(5, previous=""),
    ],
)
def test_what_does_not_continue_what_was_committed_is_equivocation(
    db: GroupCommit, other: Batch
) -> None:
    for found in CHAIN[:2]:
        ingest(db, found)
    with pytest.raises(EquivocationError, match="box-1"):
        ingest(db, other)
    assert bodies(db) == [1, 2, 3, 4]
    assert ingest(db, CHAIN[2])


def test_epochs_and_streams_count_for_themselves(db: GroupCommit) -> None:
    ingest(db, CHAIN[0])
    other_epoch = Batch("usage", "e2", 1, "", "h", ({"body": 7},))
    other_stream = Batch("audit", "e1", 1, "", "h", ({"body": 8},))
    assert ingest(db, other_epoch)
    assert ingest(db, other_stream)
    assert bodies(db) == [1, 2]
    assert db.read(lambda c: store.records(c, "box-1", ("e2", "usage"), 0, 9))[0]["body"] == 7
    assert ingest(db, CHAIN[1])


def test_only_a_report_says_that_a_node_was_heard(db: GroupCommit) -> None:
    ingest(db, CHAIN[0])
    assert db.read(partial(store.node, name="box-1")).heard_at is None


@pytest.mark.parametrize(
    ("epoch", "number", "is_news"),
    [("e1", 6, True), ("e1", 5, False), ("e1", 4, False), ("e2", 1, True)],
)
def test_a_report_counts_once_and_never_backwards(
    db: GroupCommit, epoch: str, number: int, *, is_news: bool
) -> None:
    def report(epoch: str, number: int, at: str) -> bool:
        payload = {"dbEpoch": epoch, "report": number}
        return db.submit(lambda c: store.set_reported(c, "box-1", payload, number, at)).result()

    assert report("e1", 5, "first")
    assert report(epoch, number, "second") is is_news
    row = db.read(partial(store.node, name="box-1"))
    assert row.heard_at == ("second" if is_news else "first")
    assert row.reported == {"dbEpoch": row.db_epoch, "report": row.report}


def test_a_ledger_that_was_left_does_not_come_back(db: GroupCommit) -> None:
    def report(epoch: str, number: int) -> bool:
        payload = {"dbEpoch": epoch, "report": number}
        return db.submit(lambda c: store.set_reported(c, "box-1", payload, number, AT)).result()

    assert [report("e0", 7), report("e1", 10)] == [True, True]
    assert [report("e0", 8), report("e1", 5), report("e1", 11)] == [False, False, True]
    assert db.read(partial(store.node, name="box-1")).db_epoch == "e1"


class Sealer:
    """Seals different bytes each time, so that a second sealing shows."""

    def __init__(self) -> None:
        self.asks: list[Ask] = []

    def __call__(self, ask: Ask) -> bytes:
        self.asks.append(ask)
        return f"{ask.generation} {len(self.asks)}".encode()


def test_a_generation_is_always_the_same_bytes(db: GroupCommit) -> None:
    seal = Sealer()

    def sealed(now: str = AT, too_old: str = LONG_AGO) -> bytes | None:
        return db.submit(lambda c: store.sealed(c, "box-1", now, too_old, seal)).result()

    def heard(epoch: str) -> None:
        db.submit(lambda c: store.set_reported(c, "box-1", {"dbEpoch": epoch}, 1, AT)).result()

    def put(replicas: int) -> int:
        asked = deployment(replicas=replicas)
        return db.submit(lambda c: store.put_documents(c, "box-1", [asked])).result()

    assert sealed() is None
    assert put(1) == 1
    assert sealed() is None, "a node whose epoch nobody knows cannot be addressed"
    heard("e1")
    assert [sealed(), sealed()] == [b"1 1", b"1 1"]
    assert put(2) == 2
    assert [sealed(), sealed()] == [b"2 2", b"2 2"]
    assert [a.documents[0]["spec"]["replicas"] for a in seal.asks] == [1, 2]
    heard("e2")
    assert sealed() == b"3 3", "a new ledger gets the word anew, under a number of its own"
    assert seal.asks[-1].db_epoch == "e2"
    assert sealed(now="2027-01-01T00:00:00.000Z", too_old="2026-12-31T00:00:00.000Z") == b"4 4"
    assert db.read(partial(store.generation, name="box-1")) == 4


def test_what_is_asked_no_more_is_a_new_generation(db: GroupCommit) -> None:
    db.submit(
        lambda c: store.put_documents(c, "box-1", [deployment("a"), deployment("b")])
    ).result()
    gone = partial(store.delete_document, name="box-1", kind="ModelDeployment", document="a")
    assert db.submit(gone).result() == 2
    left = db.read(partial(store.documents, name="box-1"))
    assert [d["metadata"]["name"] for d in left] == ["b"]
    with pytest.raises(NotFoundError, match="is not asked for"):
        db.submit(gone).result()
    assert db.read(partial(store.generation, name="box-1")) == 2


def test_nothing_is_asked_of_a_node_that_was_not_admitted(db: GroupCommit) -> None:
    with pytest.raises(NotFoundError):
        db.submit(lambda c: store.put_documents(c, "box-2", [deployment()])).result()
    assert db.read(partial(store.generation, name="box-2")) is None


def test_the_newest_thousand_refusals_are_kept(db: GroupCommit) -> None:
    for number in range(1005):
        row = (AT, "box-1", "topic", "scope", str(number))
        last = db.submit(partial(store.refuse, refusal=row))
    last.result()
    assert db.read(partial(store.refusals, name="box-1"))[0]["why"] == "1004"
    (count,) = db.read(lambda c: c.execute("SELECT count(*) FROM refusals").fetchone())
    assert count == 1000
