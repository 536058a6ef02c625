"""What a chaos suite says was in flight has to be so."""

import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.helpers.players import Player, number, writer_of


def test_who_has_a_transaction_open_is_seen_and_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE t (n INTEGER)")
        assert writer_of(path) is None
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO t VALUES (1)")
        assert writer_of(path) == os.getpid()
        assert number(path, "SELECT count(*) FROM t") == 0
        db.execute("COMMIT")
        assert writer_of(path) is None
        db.execute("BEGIN")
        db.execute("SELECT * FROM t").fetchall()
        assert writer_of(path) is None, "a reader is no writer"
    assert number(path, "SELECT count(*) FROM t") == 1
    assert number(tmp_path / "none.db", "SELECT 1") == -1
    assert writer_of(tmp_path / "none.db") is None


@pytest.mark.slow
def test_one_that_is_held_stands_still_and_one_that_ended_says_so(tmp_path: Path) -> None:
    player = Player("sleeper", [sys.executable, "-c", "input()"], tmp_path / "log")
    player.start()
    assert player.hold()
    assert Path(f"/proc/{player.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    player.go_on()
    player.kill()
    short = Player("short", ["true"], tmp_path / "log")
    short.start()
    os.waitid(os.P_PID, short.pid, os.WEXITED | os.WNOWAIT)
    assert not short.hold()
