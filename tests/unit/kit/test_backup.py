"""A backup is whole or not there, and what a medium forgot shows before anything is changed."""

import json
import sqlite3
from pathlib import Path

import pytest

from appliance.errors import (
    ApplianceError,
    CorruptError,
    IncompleteError,
    MalformedError,
    NotFoundError,
    StateUnusableError,
)
from appliance.kit import backup
from appliance.kit import db as kit_db


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "set-1").mkdir(parents=True)
    (folder / "set-1" / "a.json").write_bytes(b"one")
    (folder / "key.pem").write_bytes(b"secret")
    (folder / "key.pem").chmod(0o600)
    (folder / "current").symlink_to("set-1")
    (folder / ".half.new").write_bytes(b"left by a crash")
    return folder


def made(source: Path, target: Path) -> backup.Backup:
    with backup.making(target, 1) as making:
        making.tree(source, "tuf")
        making.finish({"kind": "test"})
    return backup.read(target)


def test_files_links_and_modes_come_back(source: Path, tmp_path: Path) -> None:
    found = made(source, tmp_path / "b")
    assert found.about == {"kind": "test"}
    assert found.links == {"tuf/current": "set-1"}
    assert set(found.files) == {"tuf/set-1/a.json", "tuf/key.pem"}
    found.verify()
    for name in found.files:
        found.put(name, tmp_path / "back" / name)
    assert (tmp_path / "back/tuf/set-1/a.json").read_bytes() == b"one"
    assert (tmp_path / "back/tuf/key.pem").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "back/tuf/set-1/a.json").stat().st_mode & 0o777 == 0o644
    assert not any(p.is_symlink() for p in (tmp_path / "b").rglob("*"))  # a stick has none
    assert (tmp_path / "b").stat().st_mode & 0o077 == 0


def test_what_fails_on_the_way_leaves_nothing(source: Path, tmp_path: Path) -> None:
    def fails() -> None:
        with backup.making(tmp_path / "b", 1) as making:
            making.tree(source, "tuf")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


def test_nothing_that_is_there_is_overwritten(source: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "precious").write_bytes(b"")
    with pytest.raises(StateUnusableError, match="not empty"):
        made(source, tmp_path / "b")
    with pytest.raises(NotFoundError):
        made(source, tmp_path / "nowhere" / "b")


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda p: p.write_bytes(b"two"), CorruptError),
        (lambda p: p.write_bytes(b"on"), CorruptError),
        (lambda p: p.unlink(), IncompleteError),
        (lambda p: (p.unlink(), p.symlink_to("/etc/hostname")), IncompleteError),
    ],
)
def test_a_medium_that_forgets_shows(
    source: Path, tmp_path: Path, damage: object, error: type[ApplianceError]
) -> None:
    found = made(source, tmp_path / "b")
    damage(tmp_path / "b" / "tuf/set-1/a.json")  # type: ignore[operator]
    with pytest.raises(error):
        found.verify()


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../b", ".hidden", "a//b", ""])
def test_no_name_in_a_list_leads_elsewhere(source: Path, tmp_path: Path, name: str) -> None:
    made(source, tmp_path / "b")
    path = tmp_path / "b" / backup.LIST
    found = json.loads(path.read_bytes())
    for part in ("files", "links"):
        changed = {**found, part: {**found[part], name: next(iter(found[part].values()))}}
        path.write_text(json.dumps(changed))
        with pytest.raises(MalformedError):
            backup.read(tmp_path / "b")
    path.write_text(json.dumps({**found, "links": {"tuf/current": "../../etc"}}))
    with pytest.raises(MalformedError):
        backup.read(tmp_path / "b")


def test_a_database_is_copied_while_it_is_written(tmp_path: Path) -> None:
    live = sqlite3.connect(tmp_path / "live.db", isolation_level=None)
    live.execute("PRAGMA journal_mode=WAL")
    live.execute("CREATE TABLE t (n)")
    live.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(1000)])
    live.execute("BEGIN IMMEDIATE")
    live.execute("INSERT INTO t VALUES (1000)")
    kit_db.copy_online(tmp_path / "live.db", tmp_path / "copy.db")
    live.execute("COMMIT")
    live.close()
    copy = sqlite3.connect(tmp_path / "copy.db")
    assert copy.execute("SELECT count(*) FROM t").fetchone() == (1000,)
    copy.close()
    assert sorted(p.name for p in tmp_path.glob("copy*")) == ["copy.db"]
