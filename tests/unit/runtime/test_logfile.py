"""A log stays small whatever its engine writes and however full the disk is."""

import os
from pathlib import Path

import pytest

from appliance.runtime import logfile
from tests.helpers.disk import SMALL_BYTES, fill


def test_a_log_beyond_its_cap_moves_aside_while_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    with log.open("ab", buffering=0) as writer:
        for number in range(3):
            writer.write(b"%d" % number * 200)
            logfile.cap(log, cap_bytes=100)
            writer.write(b"after")
    assert log.read_bytes() == b"after"
    assert (tmp_path / "engine.log.1").read_bytes() == b"after" + b"2" * 200
    assert len(list(tmp_path.iterdir())) == 2


def test_on_a_full_disk_a_log_is_emptied_and_its_last_part_kept(
    small_disk: Path,
) -> None:
    log = small_disk / "engine.log"
    log.write_bytes(b"old" * 1000 + b"x" * (SMALL_BYTES // 2) + b"last words")
    fill(small_disk)
    logfile.cap(log, cap_bytes=100)
    assert log.stat().st_size == 0
    assert (small_disk / "engine.log.1").read_bytes().endswith(b"last words")


def test_a_log_is_emptied_where_nothing_of_it_can_be_kept(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_bytes(b"x" * 200)
    (tmp_path / "engine.log.1").symlink_to("/dev/full")
    logfile.cap(log, cap_bytes=100)
    assert log.read_bytes() == b""


def test_a_log_that_cannot_be_emptied_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "engine.log").mkdir()
    logfile.cap(tmp_path / "engine.log", cap_bytes=0)
    assert logfile.tail(tmp_path / "engine.log", 5) == []


def test_of_a_log_without_measure_only_the_end_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.touch()
    os.truncate(log, 1 << 40)  # an engine may do so: a terabyte that takes no space
    with log.open("ab") as writer:
        writer.write(b"last words")
    logfile.cap(log)
    assert log.stat().st_size == 0
    kept = (tmp_path / "engine.log.1").read_bytes()
    assert (len(kept), kept[-10:]) == (logfile.CAP_BYTES, b"last words")


def test_a_small_log_and_one_that_is_not_there_are_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    logfile.cap(log)
    assert logfile.tail(log, 5) == []
    log.write_bytes(b"x" * 100)
    logfile.cap(log, cap_bytes=100)
    assert list(tmp_path.iterdir()) == [log]


def test_the_tail_is_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("".join(f"line {n}\n" for n in range(5000)))
    assert logfile.tail(log, 2) == ["line 4998", "line 4999"]
    assert len(logfile.tail(log, 10_000)) < 1000  # a bounded part of the file is read


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"\x1b[2J\x1b]0;title\x07ok", "?[2J?]0;title?ok"),
        (b"\xc2\x9b31mred", "?31mred"),  # the C1 form of ESC [
        ("invoice\u202etxt.exe".encode(), "invoice?txt.exe"),  # turns what follows around
        ("zero\u200bwidth\ufeff".encode(), "zero?width?"),
        (b"tab\there\x00\x7f", "tab?here??"),
        (b"caf\xc3\xa9 \xff", "café �"),
    ],
)
def test_what_an_engine_logs_cannot_steer_a_terminal(
    tmp_path: Path, line: bytes, shown: str
) -> None:
    (tmp_path / "x").write_bytes(b"before\n" + line + b"\n")
    assert logfile.tail(tmp_path / "x", 1) == [shown]


def test_a_log_of_random_bytes_is_printable(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(os.urandom(8192))
    assert all(line.isprintable() for line in logfile.tail(tmp_path / "x", 1000))
