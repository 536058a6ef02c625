"""Disks that are small or cannot be written, where this machine lets a test make one."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import need_root, need_tool
from tests.helpers.disk import SMALL_BYTES


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"this machine lets nobody mount a tmpfs: {done.stderr.strip()}")


@pytest.fixture
def disk_of(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Make a file system of so many bytes, once."""
    need_root()
    need_tool("mount")
    folder = tmp_path / "disk"

    def make(size: int) -> Path:
        folder.mkdir()
        _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
        return folder

    yield make
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def small_disk(disk_of: Callable[[int], Path]) -> Path:
    """A file system of one MiB."""
    return disk_of(SMALL_BYTES)


@pytest.fixture
def make_read_only(small_disk: Path) -> Callable[[], None]:
    """Make the small disk what a worn-out flash card makes itself: read-only."""
    return lambda: _mount("-o", "remount,ro", str(small_disk))
