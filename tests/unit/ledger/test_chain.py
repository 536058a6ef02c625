"""The audit chain: a record that was cut, changed or swapped shows against a witness."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.core import wire
from appliance.errors import ApplianceError, CorruptError, IncompleteError
from appliance.ledger import chain, streams
from appliance.ledger.chain import GENESIS, Head, verify
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream

RECORDS = [(n, f"record {n}".encode()) for n in range(1, 8)]


def heads() -> dict[int, str]:
    found, at = {}, Head()
    for seq, record in RECORDS:
        at = at.after(record)
        found[seq] = at.hash
    return found


HEADS = heads()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "node.db")
    yield made
    made.close()


def audit(number: int) -> Fact:
    return Fact(Stream.AUDIT, "test", "now", {"number": number})


def test_a_head_is_the_hash_of_the_head_before_it_and_of_the_records_hash() -> None:
    record = hashlib.sha256(b"record 1").digest()
    assert HEADS[1] == hashlib.sha256(bytes(32) + record).hexdigest()
    second = hashlib.sha256(b"record 2").digest()
    assert HEADS[2] == hashlib.sha256(bytes.fromhex(HEADS[1]) + second).hexdigest()


def test_a_run_that_is_whole_verifies_from_any_witness_to_any_other() -> None:
    assert verify(RECORDS, {7: HEADS[7]}) == Head(7, HEADS[7])
    assert verify(RECORDS, {}) == Head(7, HEADS[7])
    assert verify(RECORDS[3:], {3: HEADS[3], 5: HEADS[5]}) == Head(7, HEADS[7])
    assert verify([], {}) == Head()


@pytest.mark.parametrize("seq", range(1, 8))
def test_a_changed_record_shows_at_the_next_witness(seq: int) -> None:
    changed = [(n, b"another" if n == seq else r) for n, r in RECORDS]
    with pytest.raises(CorruptError):
        verify(changed, {7: HEADS[7]})
    with pytest.raises(CorruptError, match=f"up to {seq} "):
        verify(changed, HEADS)


@pytest.mark.parametrize("seq", range(1, 8))
def test_a_record_that_is_missing_shows(seq: int) -> None:
    with pytest.raises(IncompleteError):
        verify([r for r in RECORDS if r[0] != seq], {7: HEADS[7]})
    renumbered = enumerate((r for n, r in RECORDS if n != seq), start=1)
    with pytest.raises(ApplianceError):
        verify(renumbered, {7: HEADS[7]})


def test_two_records_in_each_others_place_show() -> None:
    swapped = [(1, RECORDS[1][1]), (2, RECORDS[0][1]), *RECORDS[2:]]
    with pytest.raises(CorruptError):
        verify(swapped, {2: HEADS[2]})


def test_the_loss_of_the_tail_shows_only_against_a_witness() -> None:
    assert verify(RECORDS[:5], {3: HEADS[3]}).seq == 5
    with pytest.raises(IncompleteError, match="ends at 5, but a witness saw 7"):
        verify(RECORDS[:5], {7: HEADS[7]})
    with pytest.raises(IncompleteError, match="ends at 0"):
        verify([], {1: HEADS[1]})


def test_without_a_witness_for_what_lies_before_it_a_run_proves_nothing() -> None:
    with pytest.raises(IncompleteError, match="before the audit record 4"):
        verify(RECORDS[3:], {7: HEADS[7]})


def test_the_ledger_links_audit_records_alone_and_in_their_own_transaction(ledger: Ledger) -> None:
    assert ledger.read(chain.head) == Head(0, GENESIS)
    ledger.note(audit(1), Fact(Stream.USAGE, "test", "now", {}), audit(2)).result()

    def fails(_: object) -> None:
        raise CorruptError("the effect failed")

    with pytest.raises(CorruptError):
        ledger.record(fails, audit(3)).result()
    waiting = ledger.read(lambda db: list(streams.waiting(db, Stream.AUDIT, 9)))
    records = [(r.seq, wire.dumps(r.record)) for r in waiting]
    found = ledger.read(chain.head)
    assert found.seq == 2
    assert verify(records, {found.seq: found.hash}) == found
    assert ledger.read(chain.start) == Head()


def test_the_chain_of_an_older_ledger_begins_where_it_stood(ledger: Ledger) -> None:
    ledger.note(audit(1), audit(2)).result()
    ledger.record(lambda db: db.execute("DELETE FROM meta WHERE key GLOB 'audit-*'")).result()
    ledger.note(audit(3)).result()
    assert ledger.read(chain.start) == Head(2, GENESIS)
    (_, _, last) = ledger.read(lambda db: list(streams.waiting(db, Stream.AUDIT, 9)))
    assert ledger.read(chain.head) == Head(2, GENESIS).after(wire.dumps(last.record))
