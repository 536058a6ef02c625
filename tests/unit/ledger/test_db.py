"""An effect and what the hub must hear of it: both or neither, and a new file a new epoch."""

import datetime
import sqlite3
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from appliance.errors import NoSpaceError, NotFoundError, StateUnusableError
from appliance.ledger import meta, streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream

FACT = Fact(Stream.AUDIT, "test", "2026-12-01T00:00:00.000Z", {})


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "noted.db")
    yield made
    made.close()


def put(db: sqlite3.Connection) -> str:
    db.execute("INSERT INTO meta VALUES ('test', 'there')")
    return "put"


def put_and_fail(db: sqlite3.Connection) -> None:
    put(db)
    raise NotFoundError("no such thing")


def state(ledger: Ledger) -> tuple[int, int]:
    """Return how many effects and how many facts there are."""

    def query(db: sqlite3.Connection) -> tuple[int, int]:
        (effects,) = db.execute("SELECT count(*) FROM meta WHERE key = 'test'").fetchone()
        return int(effects), streams.position(db, Stream.AUDIT).written

    return ledger.read(query)


def test_an_effect_and_its_facts_are_there_together(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "node.db")
    assert ledger.record(put, FACT, FACT).result() == "put"
    assert state(ledger) == (1, 2)
    ledger.close()


def test_a_failed_effect_leaves_no_fact_and_its_neighbours_alone(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "node.db")
    before, failed, after = ledger.note(FACT), ledger.record(put_and_fail, FACT), ledger.note(FACT)
    with pytest.raises(NotFoundError):
        failed.result()
    before.result()
    after.result()
    assert state(ledger) == (0, 2)
    ledger.close()


def test_a_fact_that_cannot_be_written_takes_its_effect_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "node.db")
    bad = Fact(Stream.AUDIT, "test", FACT.at, {"number": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        ledger.record(put, FACT, bad).result()
    assert state(ledger) == (0, 0)
    ledger.close()


def test_what_was_recorded_is_there_after_reopening_in_the_same_epoch(tmp_path: Path) -> None:
    first = Ledger(tmp_path / "node.db")
    done = first.record(put, FACT)
    first.close()
    first.close()
    assert done.done()
    second = Ledger(tmp_path / "node.db")
    assert state(second) == (1, 1)
    assert second.epoch == first.epoch
    second.close()


def test_every_new_file_is_a_new_epoch(tmp_path: Path) -> None:
    ledgers = [Ledger(tmp_path / name) for name in ("a.db", "b.db")]
    assert ledgers[0].epoch != ledgers[1].epoch
    assert all(len(ledger.epoch) == 16 for ledger in ledgers)
    for ledger in ledgers:
        ledger.close()


def test_a_commit_is_announced(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "node.db")
    heard: list[None] = []
    ledger.on_commit(lambda: heard.append(None))
    ledger.note(FACT).result()
    ledger.close()
    assert heard


def test_what_is_no_ledger_is_refused_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "node.db").write_bytes(b"not a database " * 100)
    with pytest.raises(StateUnusableError, match=r"node\.db is damaged"):
        Ledger(tmp_path / "node.db")


def test_the_floor_only_rises(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "node.db")
    assert ledger.read(meta.floor) is None
    moments = [datetime.datetime(2027, month, 1, tzinfo=datetime.UTC) for month in (3, 1, 4)]
    floors = []
    for moment in moments:
        add = partial(meta.add_floor_row, key="aa", at=moment, online=False)
        ledger.record(add).result()
        floors.append(ledger.read(meta.floor))
    assert floors == [moments[0], moments[0], moments[2]]
    ledger.close()


def test_reports_are_numbered_across_restarts(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        ledger = Ledger(tmp_path / "node.db")
        found += [ledger.record(meta.next_report).result() for _ in range(6)]
        ledger.close()
    assert found == list(range(1, 13))


def numbers(ledger: Ledger) -> list[int]:
    found = ledger.read(lambda db: list(streams.waiting(db, Stream.AUDIT, 10_000)))
    return [r.record["body"]["n"] for r in found]


def test_facts_and_effects_keep_the_order_in_which_they_were_handed_in(ledger: Ledger) -> None:
    def fact(number: int) -> Fact:
        return Fact(Stream.AUDIT, "test", "", {"n": number})

    for number in range(0, 3000, 3):
        ledger.note(fact(number))
        ledger.record(lambda _: None, fact(number + 1))
        ledger.note(fact(number + 2))
    ledger.note().result()
    assert numbers(ledger) == list(range(3000))


def test_a_fact_that_is_not_json_fails_alone(ledger: Ledger) -> None:
    good = [ledger.note(Fact(Stream.AUDIT, "test", "", {"n": 1}))]
    bad = [
        ledger.note(Fact(Stream.AUDIT, "test", "", {"n": value}))
        for value in (float("nan"), "\ud800", object())
    ]
    good.append(ledger.note(Fact(Stream.AUDIT, "test", "", {"n": 2})))
    for done in good:
        done.result()
    assert all(isinstance(done.exception(), TypeError | ValueError) for done in bad)
    assert numbers(ledger) == [1, 2]


def test_a_note_that_nobody_wants_any_more_is_not_written(ledger: Ledger) -> None:
    go = threading.Event()
    ledger.record(lambda _: go.wait(10))
    first, unwanted, last = (ledger.note(Fact(Stream.AUDIT, "t", "", {"n": n})) for n in (1, 2, 3))
    assert unwanted.cancel()
    go.set()
    first.result()
    last.result()
    assert numbers(ledger) == [1, 3]


def test_what_cannot_be_written_is_told_to_everyone_who_noted(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise NoSpaceError("no space left")

    monkeypatch.setattr(streams, "append_texts", full)
    found = [ledger.note(Fact(Stream.AUDIT, "t", "", {"n": n})) for n in range(3)]
    assert all(isinstance(done.exception(), NoSpaceError) for done in found)
    monkeypatch.undo()
    ledger.note(Fact(Stream.AUDIT, "t", "", {"n": 9})).result()
    assert numbers(ledger) == [9]
