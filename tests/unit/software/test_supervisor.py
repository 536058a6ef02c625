"""What a supervisor does beside the tries, which are in ``tests/e2e/test_upgrade.py``."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from appliance.errors import NoSpaceError
from appliance.ledger import streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream
from appliance.software.shelf import Shelf
from appliance.software.supervisor import Patience, Supervisor, backup, without_another_python
from appliance.software.switch import Intent, Switch

pytestmark = pytest.mark.slow


def test_the_ledger_is_copied_while_its_owner_writes(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "node.db")
    copy = tmp_path / "copy"
    for number in range(2):  # the second time over the first
        ledger.note(Fact(Stream.AUDIT, f"fact {number}", "", {})).result()
        backup(tmp_path / "node.db", copy)
    ledger.note(Fact(Stream.AUDIT, "later", "", {})).result()
    ledger.close()
    assert copy.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(copy)) as db:
        found = [r.record["kind"] for r in streams.waiting(db, Stream.AUDIT, 9)]
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert found == ["fact 0", "fact 1"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "node.db"]


def test_without_room_there_is_no_copy_and_no_half_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Ledger(tmp_path / "node.db").close()
    monkeypatch.setattr("appliance.kit.files.free_bytes", lambda _: 1)
    with pytest.raises(NoSpaceError):
        backup(tmp_path / "node.db", tmp_path / "copy")
    assert [p.name for p in tmp_path.iterdir()] == ["node.db"]


def test_a_node_without_a_ledger_has_nothing_to_copy(tmp_path: Path) -> None:
    backup(tmp_path / "node.db", tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_a_staged_release_loads_no_other_files_than_its_own() -> None:
    found = without_another_python({"PYTHONPATH": "/x", "PYTHONHOME": "/y", "PATH": "/bin"})
    assert found == {"PATH": "/bin"}


def test_a_child_that_does_not_listen_is_killed() -> None:
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf'); time.sleep(60)"
    story = (  # in a process of its own: it blocks signals
        "import sys, time\n"
        "from appliance.software.child import Child, Signals\n"
        "signals = Signals()\n"
        "child = Child([sys.executable, '-uc', sys.argv[1]], {}, '/')\n"
        "time.sleep(0.5)\n"
        "child.end(0.2)\n"
        "print(child.status, signals.wait(1))\n"
    )
    said = subprocess.check_output([sys.executable, "-c", story, deaf], text=True, timeout=30)
    assert said.split() == ["deaf", "-9", "False"]


def test_what_a_full_disk_cannot_hold_of_a_switch_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(tmp_path)
    shelf.init()
    intent = Intent("9.9.9", "test", "", tried=True)
    shelf.change(lambda _: Switch(next=intent))
    monkeypatch.setattr("appliance.software.supervisor.Signals", object)  # they block ours
    supervisor = Supervisor(shelf, [], tmp_path / "socket", "1.0", Patience(1, 1, 1))

    def full(*_: object) -> None:
        raise NoSpaceError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr("appliance.software.shelf.write_durably", full)
        assert supervisor._read().next is None, "what ran before runs, and nothing is tried"
        assert shelf.read().next == intent
    assert supervisor._read().next is None
    assert shelf.read().next is None
