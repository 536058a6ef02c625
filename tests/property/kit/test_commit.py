"""Whoever is told that an effect was kept finds it kept, and nobody else's failure changes that."""

import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlite_utils import Database, Migrations

from appliance.kit.commit import GroupCommit

migrations = Migrations("test")


@migrations()
def m001_numbers(db: Database) -> None:
    db.table("numbers").create({"n": int}, pk="n", strict=True)


def effect(number: int, how: str) -> Callable[[sqlite3.Connection], int]:
    def carry_out(db: sqlite3.Connection) -> int:
        db.execute("INSERT INTO numbers VALUES (?)", (number,))  # a repeated number is refused
        if how == "raises":
            raise ValueError("no")
        if how == "makes no sense":
            db.execute("SELECT nothing FROM nowhere")
        return number

    return carry_out


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from(["fine", "raises", "makes no sense"])),
        max_size=20,
    )
)
def test_what_is_kept_is_just_what_was_said_to_be_kept(orders: list[tuple[int, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = GroupCommit(Path(folder, "x.db"), migrations)
        futures = [store.submit(effect(number, how)) for number, how in orders]
        store.close()
        kept = [future.result() for future in futures if future.exception() is None]
        again = GroupCommit(Path(folder, "x.db"), migrations)
        rows = again.read(lambda db: db.execute("SELECT n FROM numbers").fetchall())
        again.close()
    assert sorted(kept) == sorted(row["n"] for row in rows)
    assert set(kept) == {number for number, how in orders if how == "fine"}
