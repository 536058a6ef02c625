"""A stick is written whole or not at all, and read as something that anybody may have prepared."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.bundle.format import courier
from appliance.errors import CorruptError, NoSpaceError, NotFoundError, StateUnusableError


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    made = tmp_path / "stick"
    made.mkdir()
    return made


def folder(stick: Path) -> Path:
    return courier.receipts_folder(stick, "box-1")


def test_what_is_there_and_equal_is_left_alone(stick: Path) -> None:
    assert courier.write(stick, folder(stick), {"e-1.json": b"1", "e-2.json": b"2"}) == 2
    before = (folder(stick) / "e-1.json").stat()  # all but when it was read
    (folder(stick) / "e-2.json").write_bytes(b"damaged")
    assert courier.write(stick, folder(stick), {"e-1.json": b"1", "e-2.json": b"2"}) == 1
    after = (folder(stick) / "e-1.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [c.data for c in courier.receipts(stick)] == [b"1", b"2"]


def test_receipts_come_by_node_and_number(stick: Path) -> None:
    for node in ("box-2", "box-1"):
        data = {f"e-{n}.json": str(n).encode() for n in (10, 9, 1)}
        courier.write(stick, courier.receipts_folder(stick, node), data)
    (stick / "up" / "Not A Node" / "receipts").mkdir(parents=True)
    (stick / "up" / "Not A Node" / "receipts" / "e-1.json").write_bytes(b"x")
    for name in ("readme.txt", "\x1b[2J-1.json", "e-1.json.bak", "e-.json", "e-1\n.json"):
        (folder(stick) / name).write_text("not a receipt")
    found = [(c.node, c.data) for c in courier.receipts(stick)]
    assert found == [(node, n) for node in ("box-1", "box-2") for n in (b"1", b"9", b"10")]


def test_a_stick_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    nowhere = tmp_path / "stick"
    with pytest.raises(NotFoundError):
        courier.write(nowhere, folder(nowhere), {"e-1.json": b"1"})
    with pytest.raises(NotFoundError):
        list(courier.receipts(nowhere))
    assert not nowhere.exists()


def test_links_on_a_stick_lead_nowhere(stick: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "box-1" / "receipts").mkdir(parents=True)
    (elsewhere / "box-1" / "receipts" / "e-1.json").write_bytes(b"secret")
    (stick / "up").symlink_to(elsewhere)
    with pytest.raises(StateUnusableError, match="not a folder"):
        courier.write(stick, folder(stick), {"e-2.json": b"2"})
    with pytest.raises(CorruptError, match="up is a link"):
        list(courier.receipts(stick))
    assert [p.name for p in elsewhere.rglob("*.json")] == ["e-1.json"]


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_regular_file_is_not_read(stick: Path, kind: str) -> None:
    folder(stick).mkdir(parents=True)
    path = folder(stick) / "e-1.json"
    if kind == "link":
        path.symlink_to("/etc/hostname")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    (folder(stick) / "e-2.json").write_bytes(b"2")
    first, second = courier.receipts(stick)
    assert isinstance(first.error, CorruptError)
    assert str(path) in first.error.what
    assert (second.data, second.error) == (b"2", None)


def test_a_full_stick_holds_the_first_whole_files_that_fit(small_disk: Path) -> None:
    data = {f"e-{n}.json": b"x" * 40_000 for n in range(100)}
    with pytest.raises(NoSpaceError) as caught:
        courier.write(small_disk, folder(small_disk), data)
    there = {path.name: path.read_bytes() for path in folder(small_disk).iterdir()}
    assert 20 <= len(there) < 27
    assert there == {name: data[name] for name in list(data)[: len(there)]}
    left = 100 - len(there)
    assert f"is full: {len(there)} written, {left} files of" in caught.value.what
    assert "MiB do not fit" in caught.value.what
    assert "another stick" in str(caught.value.hint)
    assert "disk" not in str(caught.value.hint)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_in_the_way_of_one_file_keeps_no_other_out(stick: Path, kind: str) -> None:
    folder(stick).mkdir(parents=True)
    path = folder(stick) / "e-1.json"
    if kind == "link":
        path.symlink_to("/etc/hostname")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    files = {"e-1.json": b"1", "e-2.json": b"2"}
    if kind == "folder":
        with pytest.raises(StateUnusableError, match=r"e-1\.json is a folder"):
            courier.write(stick, folder(stick), files)
    else:
        assert courier.write(stick, folder(stick), files) == 2
        assert not path.is_symlink()
        assert path.read_bytes() == b"1"
    assert (folder(stick) / "e-2.json").read_bytes() == b"2"


def test_an_empty_file_is_said(stick: Path) -> None:
    folder(stick).mkdir(parents=True)
    (folder(stick) / "e-1.json").touch()
    (found,) = courier.receipts(stick)
    assert found.error is not None
    assert found.error.what.endswith("e-1.json is empty")


def test_a_read_only_stick_is_said_and_one_that_holds_all_is_fine(
    small_disk: Path, make_read_only: Callable[[], None]
) -> None:
    courier.write(small_disk, folder(small_disk), {"e-1.json": b"1"})
    make_read_only()
    assert courier.write(small_disk, folder(small_disk), {"e-1.json": b"1"}) == 0
    with pytest.raises(StateUnusableError, match="Read-only") as caught:
        courier.write(small_disk, folder(small_disk), {"e-2.json": b"2"})
    assert "write access" in str(caught.value.hint)
    assert [c.data for c in courier.receipts(small_disk)] == [b"1"]


def test_a_stick_that_breaks_on_the_way_leaves_whole_files_only(
    stick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, synced = os.fsync, 0

    def failing(descriptor: int) -> None:
        nonlocal synced
        synced += 1
        if synced > 3:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    data = {f"e-{n}.json": str(n).encode() for n in range(1, 9)}
    with pytest.raises(StateUnusableError):
        courier.write(stick, folder(stick), data)
    monkeypatch.undo()
    left = {p.name: p.read_bytes() for p in folder(stick).iterdir()}
    assert left.items() <= data.items()
    assert len(left) < len(data)
    assert courier.write(stick, folder(stick), data) == len(data) - len(left)


def test_a_link_in_the_way_of_a_half_written_file_is_not_followed(
    stick: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"ours")
    folder(stick).mkdir(parents=True)
    mine = f"{os.getpid()}-{threading.get_native_id()}"
    (folder(stick) / f".e-1.json.{mine}.new").symlink_to(precious)
    assert courier.write(stick, folder(stick), {"e-1.json": b"1"}) == 1
    assert precious.read_bytes() == b"ours"
    assert (folder(stick) / "e-1.json").read_bytes() == b"1"
