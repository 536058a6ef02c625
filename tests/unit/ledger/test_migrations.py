"""The schema of ``node.db``: from any earlier step to the newest, with what was in it."""

from pathlib import Path

import pytest
from sqlite_utils import Database, Migrations

from appliance.ledger import streams
from appliance.ledger.db import Ledger
from appliance.ledger.head import Head
from appliance.ledger.migrations import migrations
from appliance.ledger.streams import Fact, Stream
from appliance.node.auditing import verify

STEPS = [
    "m001_streams", "m002_catalogue", "m003_desired", "m004_gateway", "m005_floor", "m006_receipts",
    "m007_care", "m008_artefacts", "m009_mirror",
]  # fmt: skip
TABLES = {
    "meta", "streams", "outbox", "batches", "variants", "fleet", "local", "api_keys", "spools",
    "floor", "receipts", "activations", "blobs", "needs", "scrub", "uses", "choices", "site_pins",
    "artefacts", "mirror", "datastore", "asked",
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
        database.conn.execute("INSERT INTO streams VALUES ('audit', 2, 0, '', 0, '')")
        record = '{"at":"","body":{},"kind":"old"}'
        database.conn.execute("INSERT INTO outbox VALUES ('audit', 1, ?)", (record,))
        head = f"1:{Head().after(record.encode()).hash}"
        database.conn.execute("INSERT INTO meta VALUES ('audit-head', ?)", (head,))
    database.close()
    for _ in range(2):
        ledger = Ledger(path)
        assert ledger.epoch == "as before"
        (kept,) = ledger.read(lambda db: list(streams.waiting(db, Stream.AUDIT, 9)))
        assert kept.record["kind"] == "old"
        assert verify(ledger, []).last == 1
        ledger.close()


def test_what_an_older_release_wrote_meanwhile_is_not_kept_and_the_rest_verifies(
    tmp_path: Path,
) -> None:
    ledger = Ledger(tmp_path / "node.db")
    fact = Fact(Stream.AUDIT, "new", "", {})
    ledger.note(fact, fact).result()
    ledger.close()
    record = b'{"at":"","body":{},"kind":"old"}'
    database = Database(tmp_path / "node.db")
    with database.conn:  # as the release before this one appends
        (text,) = database.conn.execute(
            "SELECT value FROM meta WHERE key = 'audit-head'"
        ).fetchone()
        head = str(Head.parse(text).after(record))
        database.conn.execute("UPDATE meta SET value = ? WHERE key = 'audit-head'", (head,))
        database.conn.execute("UPDATE streams SET next_seq = 4")
    database.close()
    ledger = Ledger(tmp_path / "node.db")
    ledger.note(fact).result()
    found = verify(ledger, [])
    assert (found.first, found.last) == (4, 4)
    ledger.close()


def test_no_step_changes_what_an_earlier_one_made() -> None:
    """A release goes back to the one before it, which then runs on the newer schema.

    It finds its own tables as it left them. A column more would already be too much: rows are
    inserted without naming columns.
    """
    database, before = Database(memory=True), dict[str, str]()
    for step in [*(m.name for m in migrations.pending(database)), None]:
        migrations.apply(database, stop_before=step)
        found = _schema(database)
        assert found.items() >= before.items(), f"something before {step}"
        tables = {name for name in before if name in database.table_names()}
        added = [sql for name, sql in found.items() if name not in before]
        assert not [s for s in added for t in tables if f"ON [{t}]" in s or f'ON "{t}"' in s]
        before = found
    database.close()


def _schema(database: Database) -> dict[str, str]:
    """Return what each table, index and trigger of ours was made by."""
    rows = database.query("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return {r["name"]: r["sql"] for r in rows if not r["name"].startswith("_sqlite_migrations")}


def test_an_older_release_runs_on_the_schema_of_a_newer_one(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    newer = Migrations("node")
    for known in migrations.pending(Database(memory=True)):
        newer(name=known.name)(known.fn)

    @newer()
    def m900_newer(db: Database) -> None:
        db.table("newer").create({"a": str}, pk="a", strict=True)

    database = Database(path)
    newer.apply(database)
    with database.conn:
        database.conn.execute("INSERT INTO newer VALUES ('kept')")
    database.close()
    for _ in range(2):
        ledger = Ledger(path)
        ledger.note(Fact(Stream.AUDIT, "older", "", {})).result()
        ledger.close()
    database = Database(path)
    assert [row["a"] for row in database.table("newer").rows] == ["kept"]
    assert newer.pending(database) == []  # and the newer one comes back to what it left
    database.close()
