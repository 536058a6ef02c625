"""Receipts in the ledger: a nonce counts once, refusals are bounded, activations are news."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.ledger import receipts
from appliance.ledger.db import Ledger
from appliance.ledger.receipts import MOST_REFUSALS, ReceiptRow


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "node.db")
    yield made
    made.close()


def refuse(ledger: Ledger, event: str, kind: str = "refusal") -> bool:
    def effect(db: sqlite3.Connection) -> bool:
        if kind == "refusal" and not receipts.may_refuse(db, event):
            return False
        last = receipts.newest(db)
        row = ReceiptRow(1 if last is None else last.seq + 1, kind, event, "h", b"e")
        receipts.add(db, row)
        return True

    return ledger.record(effect).result()


def test_one_nonce_waits_until_it_is_answered_once(ledger: Ledger) -> None:
    assert ledger.read(receipts.nonce) is None
    first = ledger.record(receipts.ask_for_time).result()
    assert len(bytes.fromhex(first)) == 32
    assert ledger.record(receipts.ask_for_time).result() == first
    assert not ledger.record(lambda db: receipts.use_nonce(db, "00" * 32)).result()
    assert ledger.read(receipts.nonce) == first
    assert ledger.record(lambda db: receipts.use_nonce(db, first)).result()
    assert not ledger.record(lambda db: receipts.use_nonce(db, first)).result()
    assert ledger.record(receipts.ask_for_time).result() != first


def test_a_refusal_that_repeats_itself_is_counted_not_kept(ledger: Ledger) -> None:
    assert refuse(ledger, "a")
    assert not refuse(ledger, "a")
    assert refuse(ledger, "b")
    assert not refuse(ledger, "a")
    assert ledger.record(receipts.take_omitted).result() == 2
    assert ledger.record(receipts.take_omitted).result() == 0


def test_refusals_end_when_there_are_too_many_until_something_else_happens(ledger: Ledger) -> None:
    assert [refuse(ledger, str(n)) for n in range(100)].count(True) == MOST_REFUSALS
    assert refuse(ledger, "", kind="import")
    assert [refuse(ledger, str(n)) for n in range(100)].count(True) == MOST_REFUSALS
    assert ledger.record(receipts.take_omitted).result() == 200 - 2 * MOST_REFUSALS


def test_only_another_manifest_is_an_activation(ledger: Ledger) -> None:
    def activate(deployment: str, manifest: str) -> bool:
        return ledger.record(lambda db: receipts.set_active(db, deployment, manifest)).result()

    assert activate("notes", "one")
    assert not activate("notes", "one")
    assert activate("other", "one")
    assert activate("notes", "two")
    assert activate("notes", "one")
