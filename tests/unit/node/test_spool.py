"""Usage facts are taken in exactly once, whichever of the two processes dies, and when."""

import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.core import wire
from appliance.core.usage import Outcome, UsageRecord, begin_line, end_line
from appliance.ledger import streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Stream
from appliance.node import spool
from tests.helpers.clock import ScriptedClock

NAME = "usage-1.jsonl"


class Site:
    """A spool folder and a ledger; ``restart`` is what a killed controller does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spool = folder / "spool"
        self.spool.mkdir()
        self.ledger = Ledger(folder / "node.db")

    def take(self) -> int:
        return spool.take_in(self.spool, self.ledger, ScriptedClock())

    def restart(self) -> None:
        self.ledger.close()
        self.ledger = Ledger(self.folder / "node.db")

    def write(self, *lines: bytes, name: str = NAME) -> None:
        with (self.spool / name).open("ab") as file:
            file.write(b"".join(lines))

    @contextmanager
    def gateway(self, name: str = NAME) -> Iterator[None]:
        """Hold a spool file as a gateway that is alive."""
        descriptor = os.open(self.spool / name, os.O_RDWR | os.O_CREAT)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(descriptor)

    def taken(self) -> list[tuple[str, str]]:
        """Return id and outcome of every record in the ledger, in order."""
        found = self.ledger.read(lambda db: list(streams.waiting(db, Stream.USAGE, 1000)))
        return [(r.record["body"]["id"], r.record["body"]["outcome"]) for r in found]

    def damaged(self) -> list[dict[str, Any]]:
        """Return what the hub will hear of damaged lines."""
        found = self.ledger.read(lambda db: list(streams.waiting(db, Stream.AUDIT, 1000)))
        return [r.record for r in found]

    def known(self) -> list[tuple[str, int]]:
        """Return the files that the ledger knows, and how far it took them in."""
        query = "SELECT file, offset FROM spools ORDER BY file"
        return self.ledger.read(lambda db: [(name, at) for name, at in db.execute(query)])

    def execute(self, statement: str) -> None:
        self.ledger.record(lambda db: db.execute(statement)).result()

    def files(self) -> list[str]:
        return sorted(p.name for p in self.spool.iterdir())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.ledger.close()


def record(name: str) -> UsageRecord:
    return UsageRecord(
        name, "2026-12-01T00:00:00Z", f"r-{name}", "/v1/completions", None, None, stream=False
    )


def begin(name: str) -> bytes:
    return begin_line(record(name))


def end(name: str) -> bytes:
    return end_line(replace(record(name), outcome=Outcome.OK, status=200))


def test_what_ended_is_taken_in_once_while_the_gateway_lives(site: Site) -> None:
    with site.gateway():
        assert site.take() == 0
        site.write(begin("a"), begin("b"), end("b"))
        assert [site.take(), site.take()] == [1, 0]
        site.write(end("a")[:10])
        assert site.take() == 0
        site.write(end("a")[10:], begin("c"))
        assert [site.take(), site.take()] == [1, 0]
        assert site.taken() == [("b", "ok"), ("a", "ok")]
        assert site.files() == [NAME]


def test_what_a_killed_gateway_left_open_was_cut(site: Site) -> None:
    with site.gateway():
        site.write(begin("a"), begin("b"), end("a"))
        site.take()
    assert site.take() == 1
    assert site.taken() == [("a", "ok"), ("b", "cut")]
    assert site.files() == []
    assert site.take() == 0


def test_half_a_line_of_a_killed_gateway_never_counted(site: Site) -> None:
    site.write(begin("a"), end("a"), begin("b")[:-1])
    assert site.take() == 1
    assert site.taken() == [("a", "ok")]
    assert site.files() == []


@pytest.mark.parametrize("alive", [True, False])
def test_a_restarted_controller_goes_on_where_it_was(site: Site, *, alive: bool) -> None:
    with site.gateway():
        site.write(begin("a"), end("a"), begin("b"))
        site.take()
        site.restart()
        site.write(end("b"), begin("c"))
        if alive:
            site.take()
    site.restart()
    site.take()
    assert site.taken() == [("a", "ok"), ("b", "ok"), ("c", "cut")]


def test_a_controller_killed_before_it_removed_the_file_counts_nothing_twice(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write(begin("a"), end("a"), begin("b"), begin("half")[:-5])

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            site.take()
    assert site.files() == [NAME]
    for _ in range(2):
        site.restart()
        assert site.take() == 0
    assert site.taken() == [("a", "ok"), ("b", "cut")]
    assert site.files() == []


def test_several_files_are_taken_in_by_age(site: Site) -> None:
    site.write(begin("b"), end("b"), name="usage-2.jsonl")
    site.write(begin("a"), end("a"), name="usage-1.jsonl")
    site.write(begin("never"), end("never"), name=".usage-3.jsonl")
    assert site.take() == 2
    assert site.taken() == [("a", "ok"), ("b", "ok")]
    assert site.files() == [".usage-3.jsonl"]


DAMAGE = [
    b"\0" * 3 + b"\n",
    b"\n",
    b"{}\n",
    b"[]\n",
    b'{"phase": "begin", "record": {}}\n',
    b'{"phase": "end", "record": {"id": 1, "at": "now"}}\n',
    b'{"phase": "middle", "record": {"id": "a", "at": "now"}}\n',
    begin("torn")[:40] + begin("b"),
    b"\r" + begin("b"),
    begin("b")[:-1] + b"\r\0\n",
]


def damage_fact(line: bytes) -> dict[str, Any]:
    body = {"file": NAME, "sha256": hashlib.sha256(line[:-1]).hexdigest()}
    return {"at": "2026-12-01T00:00:00.000Z", "kind": "usage-damaged", "body": body}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_line_is_passed_over_and_told_once(site: Site, damage: bytes) -> None:
    with site.gateway():
        site.write(begin("a"), end("a"), begin("c"), damage, begin("d"), end("d"), end("e")[:9])
        assert [site.take(), site.take()] == [2, 0]
        site.restart()
        site.write(end("e")[9:], end("c"), begin("f"))
        assert [site.take(), site.take()] == [2, 0]
        assert site.files() == [NAME]
    assert [site.take(), site.take()] == [1, 0]
    expected = [("a", "ok"), ("d", "ok"), ("e", "ok"), ("c", "ok"), ("f", "cut")]
    assert site.taken() == expected
    assert site.damaged() == [damage_fact(damage)]
    assert site.files() == []


def test_damage_in_a_file_that_nobody_holds_is_told_too(site: Site) -> None:
    lines = [b"\0\0\0\n", b"\xff\n"]
    site.write(lines[0], begin("a"), end("a"), lines[1], begin("b"), b"\0" * 40)
    assert site.take() == 2
    assert site.taken() == [("a", "ok"), ("b", "cut")]
    assert site.damaged() == [damage_fact(line) for line in lines]
    assert site.files() == []


def test_a_line_that_is_still_being_written_is_not_damaged(site: Site) -> None:
    with site.gateway():
        site.write(begin("a"), b"\0\0\n", end("a")[:20])
        site.take()
        site.write(end("a")[20:])
        assert site.take() == 1
    assert site.damaged() == [damage_fact(b"\0\0\n")]


@pytest.mark.parametrize("table", ["outbox", "spools"])
@pytest.mark.parametrize("damage", [b"", b"\0\0\0\n"])
def test_records_are_taken_with_their_offset_or_not_at_all(
    site: Site, table: str, damage: bytes
) -> None:
    with site.gateway():
        site.write(begin("a"), end("a"), damage)
        site.execute(
            f"CREATE TRIGGER no BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        with pytest.raises(sqlite3.IntegrityError):
            site.take()
        assert (site.taken(), site.damaged(), site.known()) == ([], [], [])
        site.execute("DROP TRIGGER no")
        site.restart()
        assert [site.take(), site.take()] == [1, 0]
    site.take()
    assert site.taken() == [("a", "ok")]
    assert len(site.damaged()) == (1 if damage else 0)


def test_what_ends_while_the_file_is_read_is_not_taken_for_cut(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Path.read_bytes
    gateway = site.gateway()
    gateway.__enter__()
    site.write(begin("a"))

    def read_just_before_the_gateway_ends(path: Path) -> bytes:
        found = read(path)
        site.write(end("a"))
        gateway.__exit__(None, None, None)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", read_just_before_the_gateway_ends)
        assert site.take() == 0
    assert site.take() == 1
    assert site.taken() == [("a", "ok")]
    assert site.files() == []


def test_what_a_power_cut_takes_from_the_file_was_not_counted_yet(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The offset survives; without the lines before it, what is open would never count as cut."""
    disk = {NAME: begin("a")}

    def bring_to_disk(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        disk[path.name] = path.read_bytes()

    monkeypatch.setattr(os, "fdatasync", bring_to_disk)
    with site.gateway():
        site.write(begin("a"), begin("b"), end("b"))
        assert site.take() == 1
    (site.spool / NAME).write_bytes(disk[NAME])
    site.restart()
    site.take()
    assert site.taken() == [("b", "ok"), ("a", "cut")]


def test_a_file_that_is_gone_is_forgotten(site: Site) -> None:
    with site.gateway():
        site.write(begin("a"), end("a"))
        site.take()
        assert site.known() == [(NAME, len(begin("a") + end("a")))]
    site.take()
    assert (site.files(), site.known()) == ([], [])


def test_a_file_is_forgotten_although_its_remover_was_killed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write(begin("a"), end("a"))
    synced: list[Path] = []

    def killed(_: Path) -> None:
        if not site.files():  # before, it is the file's coming that is brought to the disk
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(spool, "fsync_folder", killed)
        with pytest.raises(KeyboardInterrupt):
            site.take()
    assert site.files() == []
    assert len(site.known()) == 1
    site.restart()
    monkeypatch.setattr(spool, "fsync_folder", synced.append)
    assert site.take() == 0
    assert site.known() == []
    assert synced == [site.spool], "forgotten before it was gone for good"


def test_a_fact_keeps_all_its_fields(site: Site) -> None:
    site.write(begin("a"), end("a"))
    site.take()
    (found,) = site.ledger.read(lambda db: list(streams.waiting(db, Stream.USAGE, 9)))
    expected: dict[str, Any] = replace(record("a"), outcome=Outcome.OK, status=200).to_wire()
    assert found.record == {
        "at": expected["at"],
        "kind": "request",
        "body": wire.loads(wire.dumps(expected), what="it"),
    }


def test_no_file_is_no_error(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "node.db")
    assert spool.take_in(tmp_path / "never made", ledger) == 0
    ledger.close()
