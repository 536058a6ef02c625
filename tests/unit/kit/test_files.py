"""A file is wholly there or not at all, on a full or broken disk too."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.errors import ApplianceError, LockedError, NoSpaceError, StateUnusableError
from appliance.kit import files
from tests.helpers.disk import SMALL_BYTES, fill

WRITERS = [files.write_durably, files.replace_quickly]
Write = Callable[[Path, bytes], None]


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_is_replaced_and_nothing_else_stays(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old and longer")
    write(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_the_mode_holds_whatever_the_umask_is(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        files.write_durably(tmp_path / "x", b"", mode=0o664)
        files.replace_quickly(tmp_path / "y", b"", mode=0o640)
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in "xy"] == [0o664, 0o640]


@pytest.mark.parametrize("write", WRITERS)
def test_a_full_disk_leaves_the_old_file_and_nothing_half(write: Write, small_disk: Path) -> None:
    path = small_disk / "x"
    write(path, b"old")
    filler = fill(small_disk)
    with pytest.raises(NoSpaceError, match="no space left while writing") as caught:
        write(path, bytes(8192))
    assert isinstance(caught.value.__cause__, OSError)
    assert path.read_bytes() == b"old"
    assert sorted(small_disk.iterdir()) == [filler, path]
    filler.unlink()
    write(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_disk_that_became_read_only_is_an_unusable_state(
    small_disk: Path, make_read_only: Callable[[], None]
) -> None:
    (small_disk / "x").write_bytes(b"old")
    (small_disk / "folder").mkdir()
    make_read_only()
    attempts: list[Callable[[], object]] = [
        lambda: files.write_durably(small_disk / "x", b"new"),
        lambda: files.move_durably(small_disk / "x", small_disk / "folder" / "x"),
        lambda: files.make_folder(small_disk / "new"),
        lambda: files.locked(small_disk / "lock", what="it").__enter__(),
    ]
    for attempt in attempts:
        with pytest.raises(StateUnusableError, match="Read-only file system") as caught:
            attempt()
        assert caught.value.hint
    assert (small_disk / "x").read_bytes() == b"old"


def test_threads_that_write_one_file_leave_what_one_of_them_wrote(tmp_path: Path) -> None:
    path, wrong = tmp_path / "x", []

    def write(letter: bytes) -> None:
        try:
            for _ in range(20):
                files.replace_quickly(path, letter * 50_000)
                files.write_durably(path, letter * 50_000)
                if path.read_bytes() not in (b"a" * 50_000, b"b" * 50_000):
                    wrong.append("mixed")
        except (OSError, ApplianceError) as error:
            wrong.append(repr(error))

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "family"),
    [(errno.ENOSPC, NoSpaceError), (errno.EDQUOT, NoSpaceError), (errno.EIO, StateUnusableError),
     (errno.EACCES, StateUnusableError), (errno.ENOTDIR, StateUnusableError)],
)  # fmt: skip
def test_what_the_system_says_becomes_a_family_with_its_cause(
    number: int, family: type[ApplianceError]
) -> None:
    cause = OSError(number, os.strerror(number))
    with pytest.raises(family, match="while testing") as caught, files.translated("testing"):
        raise cause
    assert caught.value.__cause__ is cause


def test_what_callers_decide_about_passes_through_untranslated(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.translated("testing"):
        (tmp_path / "none").read_bytes()


def test_a_moved_file_is_at_its_new_place_only(tmp_path: Path) -> None:
    files.make_folder(tmp_path / "a" / "b")
    (tmp_path / "x").write_bytes(b"x")
    files.move_durably(tmp_path / "x", tmp_path / "a" / "b" / "y")
    assert not (tmp_path / "x").exists()
    assert (tmp_path / "a" / "b" / "y").read_bytes() == b"x"


def test_a_folder_is_made_with_those_above_it_and_gets_its_mode(tmp_path: Path) -> None:
    for _ in range(2):
        files.make_folder(tmp_path / "a" / "b", mode=0o700)
        assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    files.make_folder(tmp_path, mode=0o700)
    assert tmp_path.stat().st_mode & 0o7777 == 0o1777


def test_a_file_in_the_way_of_a_folder_is_an_unusable_state(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(StateUnusableError, match="is there, but is not a folder"):
        files.make_folder(tmp_path / "x")
    with pytest.raises(StateUnusableError, match="Not a directory"):
        files.make_folder(tmp_path / "x" / "y")
    with pytest.raises(StateUnusableError, match="Not a directory"):
        files.write_durably(tmp_path / "x" / "y", b"")


def test_a_lock_keeps_others_out_until_its_holder_is_done(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not files.is_locked(path)
    assert not path.exists()
    with files.locked(path, what="the node"):
        assert files.is_locked(path)
        with (
            pytest.raises(LockedError, match="the node is in use"),
            files.locked(path, what="the node"),
        ):
            pytest.fail("two hold it")
        assert files.is_locked(path)
    assert not files.is_locked(path)
    assert path.exists()


def test_who_looks_at_a_lock_keeps_nobody_from_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    descriptor = os.open(path, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_SH)  # as one who looks does, for a moment
    assert not files.is_locked(path), "two who look do not see each other"
    threading.Timer(0.02, os.close, [descriptor]).start()
    with files.locked(path, what="it"):
        assert files.is_locked(path)


def test_a_waiter_gets_the_lock_when_its_holder_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import sys, time; from pathlib import Path; from appliance.kit import files\n"
        "with files.locked(Path(sys.argv[1]), what='it'): print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(LockedError), files.locked(path, what="it"):
            pytest.fail("two hold it")
        threading.Timer(0.05, holder.send_signal, [signal.SIGKILL]).start()
        with files.locked(path, what="it", wait=True):
            assert files.is_locked(path)


def test_missing_space_is_said_before_anything_is_written(small_disk: Path) -> None:
    files.require_space(small_disk, SMALL_BYTES // 2, what="the bundle")
    with pytest.raises(NoSpaceError, match="the bundle needs 3 MiB below") as caught:
        files.require_space(small_disk, (2 << 20) + 1, what="the bundle")
    assert caught.value.hint
    assert caught.value.hint.startswith("free 2 MiB there")  # 1 MiB and a byte, rounded up
