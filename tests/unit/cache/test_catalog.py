"""One row for each variant that a signature vouched for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.cache import catalog
from appliance.core.model import Variant
from appliance.ledger.db import Ledger
from tests.helpers.models import digest_of, variant

AT = "2026-12-01T00:00:00.000Z"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "node.db")
    yield made
    made.close()


def add(ledger: Ledger, found: Variant) -> bool:
    return ledger.record(lambda db: catalog.add(db, found, AT)).result()


def test_variants_come_back_as_they_were_in_order(ledger: Ledger) -> None:
    rows = [
        variant("b"),
        variant("a", "2.0.0"),
        variant("a", "1.0.0", "Q8_0", context_max=None, kv_bytes_per_token=None),
        variant("a", "1.0.0", "Q4_0", capabilities=("embeddings",)),
    ]
    assert [add(ledger, row) for row in rows] == [True] * 4
    assert ledger.read(catalog.variants) == rows[::-1]
    assert ledger.read(catalog.digests) == {row.manifest for row in rows}


def test_what_is_there_is_not_added_again(ledger: Ledger) -> None:
    assert add(ledger, variant())
    assert not add(ledger, variant(licence="another"))
    assert ledger.read(catalog.variants) == [variant()]


def test_a_name_that_was_approved_with_other_bytes_replaces_the_row(ledger: Ledger) -> None:
    newer = variant(manifest=digest_of("newer"))
    assert add(ledger, variant())
    assert add(ledger, newer)
    assert ledger.read(catalog.variants) == [newer]


def test_bytes_that_were_approved_under_another_name_move_there(ledger: Ledger) -> None:
    renamed = variant("renamed", manifest=variant().manifest)
    assert add(ledger, variant())
    assert add(ledger, renamed)
    assert ledger.read(catalog.variants) == [renamed]


def test_what_comes_from_another_publisher_now_is_known_by_its_new_path(ledger: Ledger) -> None:
    assert add(ledger, variant(publisher="vendor"))
    assert add(ledger, variant(publisher="acme"))
    assert [row.path for row in ledger.read(catalog.variants)] == [variant(publisher="acme").path]
