"""The schema of ``node.db``: from any earlier step to the newest, with what was in it."""

from pathlib import Path

import pytest
from sqlite_utils import Database

from appliance.ledger import streams
from appliance.ledger.db import Ledger
from appliance.ledger.migrations import migrations
from appliance.ledger.streams import Fact, Stream

STEPS = [
    "m001_streams", "m002_catalogue", "m003_desired", "m004_gateway", "m005_floor", "m006_receipts",
    "m007_care",
]  # fmt: skip
TABLES = {
    "meta", "streams", "outbox", "batches", "variants", "fleet", "local", "api_keys", "spools",
    "floor", "receipts", "activations", "blobs", "needs", "scrub", "uses", "choices", "site_pins",
}  # fmt: skip


def test_the_steps_are_these_in_this_order() -> None:
    assert [m.name for m in migrations.pending(Database(memory=True))][: len(STEPS)] == STEPS


def test_every_table_is_strict_so_that_no_text_hides_in_a_number() -> None:
    database = Database(memory=True)
    migrations.apply(database)
    ours = [t for t in database.tables if t.name in TABLES]
    assert {t.name for t in ours} == TABLES
    assert all(t.schema.rstrip().endswith("STRICT") for t in ours)
    database.close()


@pytest.mark.parametrize("newest", STEPS[1:])
def test_an_older_ledger_is_brought_up_to_date_with_what_it_holds(
    tmp_path: Path, newest: str
) -> None:
    path = tmp_path / "node.db"
    database = Database(path)
    migrations.apply(database, stop_before=newest)
    with database.conn:
        database.conn.execute("INSERT INTO meta VALUES ('epoch', 'as before')")
        streams.append(database.conn, Fact(Stream.AUDIT, "old", "", {}))
    database.close()
    for _ in range(2):
        ledger = Ledger(path)
        assert ledger.epoch == "as before"
        (kept,) = ledger.read(lambda db: list(streams.waiting(db, Stream.AUDIT, 9)))
        assert kept.record["kind"] == "old"
        ledger.close()
