import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlite_utils import Database, Migrations

from appliance.errors import NoSpaceError, StateUnusableError
from appliance.kit import db as kit_db
from tests.helpers.disk import fill


def steps(count: int) -> Migrations:
    """Return a schema of so many numbered steps."""
    migrations = Migrations("test")
    for number in range(count):

        def step(db: Database, number: int = number) -> None:
            db.table(f"t{number}").create({"a": str}, strict=True)

        migrations(name=f"m{number:03}")(step)
    return migrations


def one(db: sqlite3.Connection, query: str) -> object:
    return db.execute(query).fetchone()[0]


def test_what_was_committed_survives_a_power_cut(tmp_path: Path) -> None:
    db = kit_db.open_database(tmp_path / "x.db", steps(1))
    assert one(db.conn, "PRAGMA journal_mode") == "wal"
    assert one(db.conn, "PRAGMA synchronous") == 2  # FULL: NORMAL may roll back what was said
    assert one(db.conn, "PRAGMA foreign_keys") == 1
    db.close()


def test_nobody_else_may_read_any_of_its_files(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        db = kit_db.open_database(tmp_path / "x.db", steps(1))
    finally:
        os.umask(before)
    found = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert found == {"x.db": 0o600, "x.db-wal": 0o600, "x.db-shm": 0o600}
    db.close()


def test_a_file_of_an_earlier_release_keeps_its_rows_and_gets_the_new_schema(
    tmp_path: Path,
) -> None:
    path = tmp_path / "with ? and # and % in it.db"
    old = kit_db.open_database(path, steps(1))
    old.conn.execute("INSERT INTO t0 VALUES ('kept')")
    old.close()
    for _ in range(2):
        new = kit_db.open_database(path, steps(2))
        assert [new.table(name).count for name in ("t0", "t1")] == [1, 0]
        new.close()
    assert path.exists()


def test_a_reader_sees_what_is_committed_and_cannot_write(tmp_path: Path) -> None:
    db = kit_db.open_database(tmp_path / "x.db", steps(1))
    reader = kit_db.open_reader(tmp_path / "x.db")
    db.conn.execute("BEGIN")
    db.conn.execute("INSERT INTO t0 VALUES ('new')")
    assert one(reader, "SELECT count(*) FROM t0") == 0
    db.conn.execute("COMMIT")
    assert one(reader, "SELECT count(*) FROM t0") == 1
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM t0")
    reader.close()
    db.close()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"this is not a database, and is longer than the header of one" * 4, "is damaged"),
        (b"SQLite format 3\0" + b"\xff" * 4080, "is damaged"),
    ],
)
def test_a_damaged_file_is_an_unusable_state(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "x.db").write_bytes(content)
    with pytest.raises(StateUnusableError, match=says) as caught:
        kit_db.open_database(tmp_path / "x.db", steps(1))
    assert caught.value.hint == "restore it from a backup"
    assert (tmp_path / "x.db").read_bytes() == content


def test_a_folder_that_is_not_there_is_an_unusable_state(tmp_path: Path) -> None:
    with pytest.raises(StateUnusableError, match="unable to open"):
        kit_db.open_database(tmp_path / "none" / "x.db", steps(1))
    with pytest.raises(StateUnusableError, match="unable to open"):
        kit_db.open_reader(tmp_path / "none.db")


def test_a_full_disk_is_no_space(small_disk: Path) -> None:
    fill(small_disk)
    with pytest.raises(NoSpaceError, match="no space left for"):
        kit_db.open_database(small_disk / "x.db", steps(1))


def test_a_disk_that_became_read_only_is_an_unusable_state(
    small_disk: Path, make_read_only: Callable[[], None]
) -> None:
    kit_db.open_database(small_disk / "x.db", steps(1)).close()
    make_read_only()
    with pytest.raises(StateUnusableError):
        kit_db.open_database(small_disk / "x.db", steps(2))


@pytest.mark.parametrize("family", [sqlite3.ProgrammingError, sqlite3.OperationalError])
def test_an_error_that_is_not_of_the_file_stays_what_it_is(family: type[Exception]) -> None:
    with pytest.raises(family, match="closed"), kit_db.translated(Path("x.db")):
        raise family("Cannot operate on a closed database")
