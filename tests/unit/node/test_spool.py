"""Usage facts are taken in exactly once, whichever of the two processes dies, and when."""

import fcntl
import os
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

NAME = "usage-1.jsonl"


class Site:
    """A spool folder and a ledger; ``restart`` is what a killed controller does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spool = folder / "spool"
        self.spool.mkdir()
        self.ledger = Ledger(folder / "node.db")

    def take(self) -> int:
        return spool.take_in(self.spool, self.ledger)

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


@pytest.mark.parametrize(
    "damage",
    [
        b"\0" * 40 + b"\n",
        b"{}\n",
        b"[]\n",
        b'{"phase": "begin", "record": {}}\n',
        b'{"phase": "end", "record": {"id": 1, "at": "now"}}\n',
        b'{"phase": "middle", "record": {"id": "a", "at": "now"}}\n',
    ],
)
def test_a_damaged_file_is_set_aside_and_does_not_stop_the_others(
    site: Site, damage: bytes
) -> None:
    site.write(begin("a"), damage)
    site.write(begin("b"), end("b"), name="usage-2.jsonl")
    assert site.take() == 1
    assert site.taken() == [("b", "ok")]
    assert site.files() == ["usage-1.damaged"]
    assert site.take() == 0


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
