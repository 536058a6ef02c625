"""The comparer finds what was planted, and nothing where nothing was."""

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.ledger import streams
from appliance.ledger.streams import Fact, Stream
from tests.conftest import ROOT
from tests.helpers.simulation import Sent, SimHub, SimNode
from tests.helpers.spools import Journal, Request
from witness import compare
from witness.compare import Verdict

AT = "2026-12-01T00:00:00.000Z"
Plant = Callable[[sqlite3.Connection], object]


class World:
    """A node of ours whose records are all at a hub of ours, and what the comparer says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = Journal(folder / "journal.jsonl")
        self.hub = SimHub(folder / "hub")
        (folder / "node").mkdir()
        self.node = SimNode(folder / "node", "box-1", self.hub, self.journal)
        self.hub.admit(self.node)

    def live(self) -> None:
        """Serve five requests, of which the last is cut, and note a few facts."""
        self.node.spool.serve([Request(0, n, n) for n in range(1, 6)], self.node.clock.time)
        self.node.spool.close()
        self.node.take_in()
        for n in range(6):
            self.node.write([Fact(Stream.AUDIT, "test", AT, {"n": n})])
            self.node.write([Fact(Stream.EVENTS, "test", AT, {"n": n})])

    def send(self) -> None:
        for stream, envelope in self.node.due(0, 1):
            assert self.hub.take([Sent("box-1", stream, envelope)]) == []
        assert asyncio.run(self.node.hear(self.hub.ack(self.node))) == ""

    def close(self) -> None:
        self.node.close()
        self.hub.close()
        self.journal.close()

    def plant(self, at_hub: Plant) -> None:
        with closing(sqlite3.connect(self.hub.database, isolation_level=None)) as db:
            at_hub(db)

    def verdict(self, *pending: str) -> Verdict:
        nodes = {"box-1": self.node.database}
        return compare.compare(self.hub.database, nodes, [self.folder / "journal.jsonl"], pending)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return a world at rest, whose databases a test may change."""
    made = World(tmp_path)
    made.live()
    made.send()
    made.close()
    return made


def statement(text: str) -> Plant:
    return lambda db: db.executescript(text)


def swap(db: sqlite3.Connection, stream: str) -> None:
    """Have the second and the third record change places."""
    query = "SELECT record FROM records WHERE stream = ? AND seq IN (2, 3) ORDER BY seq"
    second, third = (row[0] for row in db.execute(query, (stream,)))
    change = "UPDATE records SET record = ? WHERE stream = ? AND seq = ?"
    db.executemany(change, [(third, stream, 2), (second, stream, 3)])


def swap_numbers(db: sqlite3.Connection) -> None:
    """Have them change places by their numbers, and tell nobody else."""
    for old, new in ((2, 99), (3, 2), (99, 3)):
        db.execute("UPDATE records SET seq = ? WHERE stream = 'usage' AND seq = ?", (new, old))


def test_where_nothing_was_planted_nothing_is_found(world: World) -> None:
    found = world.verdict()
    assert found.findings == []
    assert {name: count["records"] for name, count in found.streams.items()} == {
        "audit": 6, "events": 6, "usage": 5,
    }  # fmt: skip


@pytest.mark.parametrize("stream", ["audit", "events", "usage"])
@pytest.mark.parametrize("seq", ["1", "3", "(SELECT max(seq) FROM records r WHERE r.stream = {})"])
def test_a_record_that_was_dropped_is_lost(world: World, stream: str, seq: str) -> None:
    where = f"stream = '{stream}' AND seq = {seq.format(repr(stream))}"
    world.plant(statement(f"DELETE FROM records WHERE {where}"))  # noqa: S608 - a test's own words
    assert world.verdict().counts["lost"] >= 1


def test_a_record_that_was_dropped_with_its_number_is_lost(world: World) -> None:
    """The others moved up, and the hub's positions say that all is well."""
    world.plant(statement(
        "DELETE FROM records WHERE stream = 'usage' AND seq = 2;"
        "UPDATE records SET seq = seq - 1 WHERE stream = 'usage' AND seq > 2;"
        "UPDATE batches SET count = count - 1 WHERE stream = 'usage';"
        "UPDATE positions SET upto = upto - 1 WHERE stream = 'usage'"
    ))  # fmt: skip
    assert world.verdict().counts["lost"] >= 1


def test_a_record_that_is_there_twice_is_doubled(world: World) -> None:
    world.plant(statement(
        "UPDATE records SET record ="
        " (SELECT record FROM records WHERE stream = 'usage' AND seq = 1)"
        " WHERE stream = 'usage' AND seq = 2"
    ))  # fmt: skip
    found = world.verdict().counts
    assert found["doubled"] == 1
    assert found["lost"] == 1


def test_a_record_that_came_once_more_is_doubled(world: World) -> None:
    world.plant(statement(
        "INSERT INTO records (node, epoch, stream, seq, record)"
        " SELECT node, epoch, stream, 6, record FROM records WHERE stream = 'usage' AND seq = 2"
    ))  # fmt: skip
    found = world.verdict().counts
    assert found["doubled"] == 1
    assert found["invented"] == 1


@pytest.mark.parametrize("stream", ["audit", "events", "usage"])
def test_two_records_that_changed_places_are_swapped(world: World, stream: str) -> None:
    world.plant(partial(swap, stream=stream))
    assert world.verdict().counts["swapped"] >= 1


def test_numbers_that_changed_places_are_swapped(world: World) -> None:
    world.plant(swap_numbers)
    assert world.verdict().counts["swapped"] == 1


def test_audit_that_was_rewritten_is_found_without_a_journal(world: World) -> None:
    """The chain alone finds it, as on a real node, which writes no journal of its audit."""
    (world.folder / "journal.jsonl").write_text("")
    change = "UPDATE records SET record = replace(record, '\"n\":2', '\"n\":9')"
    world.plant(statement(f"{change} WHERE stream = 'audit'"))
    assert world.verdict().counts == {"swapped": 1, "invented": 0} or world.verdict().counts == {
        "swapped": 1
    }


def test_a_record_that_nobody_made_is_invented(world: World) -> None:
    world.plant(statement("UPDATE records SET record = replace(record, 'box-1-3', 'box-1-9')"))
    found = world.verdict().counts
    assert found["invented"] == 1
    assert found["lost"] == 1


def record(kind: str, body: dict[str, Any], span: int) -> str:
    return json.dumps({"at": AT, "kind": kind, "body": body, "span": span})


def stand_for(text: str, stream: str) -> Plant:
    """Have one record stand for the second to the fourth."""

    def plant(db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM records WHERE stream = ? AND seq IN (3, 4)", (stream,))
        change = "UPDATE records SET record = ? WHERE stream = ? AND seq = 2"
        db.execute(change, (text, stream))

    return plant


def test_a_gap_that_says_what_it_stands_for_is_no_loss(world: World) -> None:
    gap = record("gap", {"why": "budget", "records": 3}, 3)
    world.plant(stand_for(gap, "events"))
    found = world.verdict()
    assert found.findings == []
    assert (found.streams["events"]["gap"], found.streams["events"]["in gap"]) == (1, 3)


@pytest.mark.parametrize(
    ("text", "stream"),
    [
        (record("gap", {"why": "budget", "records": 2}, 3), "events"),
        (record("gap", {"why": "budget", "records": 2}, 2), "events"),
        (record("test", {"n": 2}, 3), "events"),
        (record("gap", {"why": "budget", "records": 3}, 3), "audit"),
        (record("coarse", {}, 3), "usage"),
    ],
)
def test_a_gap_that_says_too_little_or_is_where_none_may_be_is_a_loss(
    world: World, text: str, stream: str
) -> None:
    world.plant(stand_for(text, stream))
    assert world.verdict().counts["lost"] >= 1


def test_what_the_node_still_has_is_pending_and_not_lost(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.live()
    world.close()
    assert world.verdict("audit", "events", "usage").findings == []
    assert world.verdict().counts["pending"] == 17
    with closing(sqlite3.connect(world.node.database, isolation_level=None)) as db:
        db.execute("DELETE FROM outbox WHERE stream = 'events' AND seq = 3")
    assert world.verdict("audit", "events", "usage").counts == {"lost": 1}


def test_what_the_node_was_told_without_the_hub_having_it_is_lost(tmp_path: Path) -> None:
    """The node was acknowledged what the hub then forgot, and freed it."""
    world = World(tmp_path)
    world.live()
    for stream, _ in world.node.due(0, 1):
        name = Stream(stream)
        batch = world.node.window(name)[0]
        world.node.ledger.record(
            partial(streams.acknowledge, stream=name, upto=batch.upto, batch_hash=batch.hash)
        ).result()
    world.close()
    assert world.verdict().counts["lost"] >= 17


def test_it_runs_by_itself_and_imports_nothing_of_ours(world: World) -> None:
    world.plant(statement("DELETE FROM records WHERE stream = 'usage' AND seq = 3"))
    command = [sys.executable, "-I", "-S", str(ROOT / "witness" / "compare.py"), "--hub"]
    arguments = [str(world.hub.database), "--journal", str(world.folder / "journal.jsonl")]
    node = f"box-1={world.node.database}"
    done = subprocess.run([*command, *arguments, node], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["lost"] >= 1
