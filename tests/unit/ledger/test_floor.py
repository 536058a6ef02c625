"""The floor never goes down, and no online key takes it far beyond what was signed offline."""

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.ledger import meta
from appliance.ledger.db import Ledger

T0 = datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "node.db")
    yield made
    made.close()


def offline(ledger: Ledger, days: int) -> None:
    at = T0 + days * DAY
    ledger.record(lambda db: meta.add_floor_row(db, "cc", at, online=False)).result()


def online(ledger: Ledger, days: int, key: str = "aa") -> None:
    ledger.record(lambda db: meta.add_online_time(db, key, T0 + days * DAY)).result()


def days(ledger: Ledger) -> int | None:
    found = ledger.read(meta.floor)
    return None if found is None else (found - T0).days


def test_an_online_key_raises_the_floor_and_takes_nothing_back(ledger: Ledger) -> None:
    online(ledger, 10)
    assert days(ledger) is None, "nothing was signed offline yet"
    offline(ledger, 0)
    assert days(ledger) == 10
    online(ledger, 5)
    assert days(ledger) == 10
    online(ledger, 7, key="bb")
    assert days(ledger) == 10
    offline(ledger, 20)
    assert days(ledger) == 20


def test_an_online_key_counts_400_days_beyond_what_was_signed_offline(ledger: Ledger) -> None:
    offline(ledger, 0)
    online(ledger, 100_000)
    assert days(ledger) == 400
    offline(ledger, 30)
    assert days(ledger) == 430, "the bound follows what is signed offline, not the floor itself"
