"""What a bundle is read from: regular files, bounded, and never through a link."""

import errno
import os
import socket
from pathlib import Path

import pytest

from appliance.bundle.media.medium import FolderMedium
from appliance.errors import (
    CorruptError,
    IncompleteError,
    InterruptedImportError,
    MalformedError,
)
from tests.helpers.media import wear

DATA = b"a file in a bundle"


def no_file(path: Path, what: str) -> None:
    """Put something that is no regular file at ``path``."""
    if what == "a link":
        path.with_name("good").write_bytes(DATA)
        path.symlink_to("good")
    elif what == "a dangling link":
        path.symlink_to("nowhere")
    elif what == "a pipe":
        os.mkfifo(path)
    elif what == "a folder":
        path.mkdir()
    else:
        made = socket.socket(socket.AF_UNIX)
        made.bind(path.name)  # a socket's path has 108 bytes at most
        made.close()


@pytest.mark.parametrize("what", ["a link", "a dangling link", "a pipe", "a folder", "a socket"])
def test_only_a_regular_file_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    no_file(tmp_path / "it", what)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(CorruptError, match="it in the bundle"):
        FolderMedium(tmp_path).open("it")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_regular_file_is_opened_and_a_missing_one_is_missing(tmp_path: Path) -> None:
    (tmp_path / "it").write_bytes(DATA)
    with FolderMedium(tmp_path).open("it") as file:
        assert file.read() == DATA
    with pytest.raises(IncompleteError, match="lacks nowhere"):
        FolderMedium(tmp_path).open("nowhere")
    with pytest.raises(IncompleteError):
        FolderMedium(tmp_path).open("it/below a file")


def test_reading_begins_where_it_is_asked_to(tmp_path: Path) -> None:
    (tmp_path / "it").write_bytes(DATA)
    medium = FolderMedium(tmp_path)
    with medium.open("it", 2) as file:
        assert file.read() == DATA[2:]
    with medium.open("it", 1000) as file:
        assert file.read() == b""


def test_a_small_file_is_read_up_to_its_cap(tmp_path: Path) -> None:
    (tmp_path / "it").write_bytes(DATA)
    medium = FolderMedium(tmp_path)
    assert medium.read("it", len(DATA)) == DATA
    with pytest.raises(MalformedError, match="it in the bundle is larger than 17 bytes"):
        medium.read("it", len(DATA) - 1)


def test_only_files_have_a_size(tmp_path: Path) -> None:
    (tmp_path / "it").write_bytes(DATA)
    (tmp_path / "link").symlink_to("it")
    medium = FolderMedium(tmp_path)
    assert [medium.size(name) for name in ("it", "link", ".", "none")] == [18, None, None, None]


def test_a_medium_that_cannot_say_what_it_holds_interrupts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    medium = FolderMedium(tmp_path)

    def worn(_: Path) -> os.stat_result:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "lstat", worn)
    with pytest.raises(InterruptedImportError, match="Input/output error"):
        medium.size("tuf/2.root.json")


def test_a_medium_that_fails_interrupts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "it").write_bytes(DATA)
    wear(monkeypatch, "it")
    medium = FolderMedium(tmp_path)
    with pytest.raises(IncompleteError, match="Input/output error"):
        medium.read("it", 100)
    with medium.open("it") as file, pytest.raises(IncompleteError, match="Input/output error"):
        file.read(1)
