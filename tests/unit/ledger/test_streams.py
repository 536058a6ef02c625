"""The outbox: a number in the effect's own transaction, sealed once, freed by its hash alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.core import wire
from appliance.ledger import streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Position, Record, SealedBatch, Stream

AT = "2026-12-01T00:00:00.000Z"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "node.db")
    yield made
    made.close()


def fact(number: int, stream: Stream = Stream.AUDIT) -> Fact:
    return Fact(stream, "test", AT, {"number": number})


def make(position: Position, records: list[Record]) -> SealedBatch:
    """Take two records at most."""
    taken = records[:2]
    text = f"{position.sealed_hash}{[r.seq for r in taken]}"
    return SealedBatch(Stream.AUDIT, taken[0].seq, len(taken), text, text.encode())


def seal(ledger: Ledger) -> SealedBatch | None:
    return ledger.record(lambda db: streams.seal(db, Stream.AUDIT, make, most=100)).result()


def sealed(ledger: Ledger) -> SealedBatch:
    found = seal(ledger)
    assert found is not None
    return found


def acknowledge(ledger: Ledger, upto: int, batch_hash: str) -> bool:
    return ledger.record(
        lambda db: streams.acknowledge(db, Stream.AUDIT, upto, batch_hash)
    ).result()


def numbers(ledger: Ledger, stream: Stream = Stream.AUDIT) -> list[int]:
    found = ledger.read(lambda db: list(streams.waiting(db, stream, 100)))
    return [r.seq for r in found]


def unacknowledged(ledger: Ledger) -> list[SealedBatch]:
    return ledger.read(lambda db: streams.unacknowledged(db, Stream.AUDIT, 100))


def position(ledger: Ledger) -> Position:
    return ledger.read(lambda db: streams.position(db, Stream.AUDIT))


def test_facts_are_numbered_from_one_in_the_order_given_each_stream_for_itself(
    ledger: Ledger,
) -> None:
    ledger.note(fact(1), fact(2), fact(1, Stream.USAGE)).result()
    ledger.note(fact(3)).result()
    assert numbers(ledger) == [1, 2, 3]
    assert numbers(ledger, Stream.USAGE) == [1]
    assert position(ledger).written == 3
    (first, *_) = ledger.read(lambda db: list(streams.waiting(db, Stream.AUDIT, 1)))
    assert first.record == {"at": AT, "kind": "test", "body": {"number": 1}}


def test_a_stream_that_was_never_used_stands_at_zero(ledger: Ledger) -> None:
    assert position(ledger) == Position()
    assert seal(ledger) is None
    assert not acknowledge(ledger, 1, "x")
    assert not acknowledge(ledger, 0, "")


def test_a_sealed_batch_leaves_the_waiting_list_and_stays_as_the_same_bytes(
    ledger: Ledger,
) -> None:
    ledger.note(*(fact(n) for n in range(5))).result()
    first, second = sealed(ledger), sealed(ledger)
    assert (first.first, first.upto, second.first, second.upto) == (1, 2, 3, 4)
    assert numbers(ledger) == [5]
    assert unacknowledged(ledger) == [first, second]
    assert position(ledger).sealed_hash == second.hash


def test_an_acknowledgement_frees_all_up_to_the_batch_it_names(ledger: Ledger) -> None:
    ledger.note(*(fact(n) for n in range(6))).result()
    batches = [sealed(ledger) for _ in range(3)]
    assert acknowledge(ledger, batches[1].upto, batches[1].hash)
    assert unacknowledged(ledger) == [batches[2]]
    assert (position(ledger).acked_upto, position(ledger).acked_hash) == (4, batches[1].hash)


@pytest.mark.parametrize(
    ("upto", "batch_hash"),
    [(2, "wrong"), (1, "right"), (3, "right"), (99, "right"), (-1, "right"), (2, "")],
)
def test_an_acknowledgement_of_anything_else_frees_nothing(
    ledger: Ledger, upto: int, batch_hash: str
) -> None:
    ledger.note(fact(1), fact(2), fact(3)).result()
    batch = sealed(ledger)
    assert not acknowledge(ledger, upto, batch.hash if batch_hash == "right" else batch_hash)
    assert unacknowledged(ledger) == [batch]
    assert position(ledger).acked_upto == 0


def test_an_old_acknowledgement_tells_nothing_new(ledger: Ledger) -> None:
    ledger.note(fact(1), fact(2)).result()
    batch = sealed(ledger)
    assert acknowledge(ledger, batch.upto, batch.hash)
    assert not acknowledge(ledger, batch.upto, batch.hash)
    assert numbers(ledger) == []
    assert position(ledger).written == 2


def test_a_seal_that_fails_changes_nothing(ledger: Ledger) -> None:
    ledger.note(fact(1)).result()

    def broken(_: Position, __: list[Record]) -> SealedBatch:
        raise ValueError("no key")

    with pytest.raises(ValueError, match="no key"):
        ledger.record(lambda db: streams.seal(db, Stream.AUDIT, broken, most=1)).result()
    assert numbers(ledger) == [1]
    assert unacknowledged(ledger) == []


def test_records_survive_as_strict_json(ledger: Ledger) -> None:
    body = {"text": "Zürich \u0000 \U0001f600", "none": None, "real": 0.5, "list": [1, {}]}
    ledger.note(Fact(Stream.AUDIT, "k", AT, body)).result()
    (found,) = ledger.read(lambda db: list(streams.waiting(db, Stream.AUDIT, 1)))
    assert found.record["body"] == body
    assert wire.dumps(found.record)
