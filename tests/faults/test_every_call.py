"""kill -9 and a power cut in front of every call by which an import changes the disk.

The shim finds the calls; strace shows that it finds them all. A power cut is ext4's shutdown: what
was not brought to the disk is gone.
"""

import errno
import fcntl
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import need_root, need_tool
from tests.faults.conftest import Imports, Story
from tests.faults.judge import check

_PERSISTING = (
    "write,pwrite64,fsync,fdatasync,ftruncate,rename,renameat,renameat2,unlink,unlinkat,rmdir,"
    "link,linkat,symlink,symlinkat,mkdir,mkdirat,chmod,fchmod,fchmodat,fallocate,writev,pwritev,"
    "pwritev2,sendfile,copy_file_range,mknod,mknodat,truncate,msync"
)
_BLOBS_BEFORE = 3
_SHUTDOWN, _WITHOUT_THE_JOURNAL = 0x8004587D, 2


def _points(calls: int, request: pytest.FixtureRequest) -> range:
    return range(1, calls + 1, request.config.getoption("--every"))


def test_kill_in_front_of_every_call(
    imports: Imports, story: Story, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    shutil.copytree(story.template, tmp_path / "whole", symlinks=True)
    whole = imports.run(tmp_path / "whole", story.bundle)
    assert whole.acknowledged
    for number in _points(whole.calls, request):
        state = tmp_path / str(number)
        shutil.copytree(story.template, state, symlinks=True)
        found = imports.run(state, story.bundle, number)
        assert found.killed, f"nothing happened in front of call {number} of {whole.calls}"
        check(state, story.bundle, acknowledged=found.acknowledged)
        shutil.rmtree(state)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_is_full_or_broken_from_every_call_on(
    imports: Imports, story: Story, tmp_path: Path, request: pytest.FixtureRequest,
    error: int,
) -> None:  # fmt: skip
    """It is one of the two errors of a disk; SQLite says of its index only that it failed."""
    shutil.copytree(story.template, tmp_path / "whole", symlinks=True)
    whole = imports.run(tmp_path / "whole", story.bundle)
    for number in _points(whole.calls, request):
        state = tmp_path / str(number)
        shutil.copytree(story.template, state, symlinks=True)
        found = imports.run(state, story.bundle, number, error)
        assert found.acknowledged or found.refused in (6, 24), (number, found)
        check(state, story.bundle, acknowledged=found.acknowledged)
        shutil.rmtree(state)


def test_power_cut_in_front_of_every_call(
    imports: Imports, story: Story, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    image, copy = _image(story, tmp_path), tmp_path / "copy.img"
    with _fresh(image, copy, tmp_path / "disk") as disk:
        calls = imports.run(disk / "node", story.bundle).calls
    for number in _points(calls, request):
        with _fresh(image, copy, tmp_path / "disk") as disk:
            found = imports.run(disk / "node", story.bundle, number)
            cut_power(disk)
        with _mounted(copy, tmp_path / "disk") as disk:
            check(disk / "node", story.bundle, acknowledged=found.acknowledged)


def test_the_shim_sees_what_strace_sees(shim: Path, story: Story, tmp_path: Path) -> None:
    shutil.copytree(story.template, tmp_path / "node", symlinks=True)
    trace = tmp_path / "trace"
    command = [need_tool("strace"), "-f", "-o", str(trace), "-y", "-e", f"trace={_PERSISTING}"]
    traced = Imports(shim, command)
    calls = traced.run(tmp_path / "node", story.bundle).calls
    traced.end()
    seen = [line for line in trace.read_text().splitlines() if _changes_a_file(line)]
    last = next(n for n, line in enumerate(seen) if "acknowledged" in line)
    child = seen[last].split()[0]
    assert child
    mine = [line for line in seen if "acknowledged" not in line and "ended" not in line]
    assert len(mine) == calls, "\n".join(mine)


def _changes_a_file(line: str) -> bool:
    if "<unfinished" in line or "resumed>" in line:
        return "resumed>" not in line
    return bool(re.match(r"\d+ +\w+\(", line)) and not re.search(r"\bwrite\(2<", line)


def _image(story: Story, folder: Path) -> Path:
    """Return a file system of its own with the node in it."""
    need_root()
    image = folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(160 << 20)
    subprocess.run([need_tool("mkfs.ext4"), "-q", "-O", "^metadata_csum", image], check=True)
    with _mounted(image, folder / "disk") as disk:
        shutil.copytree(story.template, disk / "node", symlinks=True)
    return image


@contextmanager
def _fresh(image: Path, copy: Path, at: Path) -> Iterator[Path]:
    """Mount a copy of an image, which stays as it was."""
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
    with _mounted(copy, at) as disk:
        assert len(list((disk / "node" / "store" / "blobs" / "sha256").iterdir())) == _BLOBS_BEFORE
        yield disk


@contextmanager
def _mounted(image: Path, at: Path) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    mount = ["mount", "-o", "loop", str(image), str(at)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this root may not mount, as in most containers: {done.stderr}")
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


def cut_power(mounted: Path) -> None:
    """Have ext4 forget what is not on the disk, as a power cut does."""
    folder = os.open(mounted, os.O_RDONLY)
    try:
        fcntl.ioctl(folder, _SHUTDOWN, struct.pack("I", _WITHOUT_THE_JOURNAL))
    finally:
        os.close(folder)
