"""What lies about and belongs to nobody: found here, with a reason for each, and removed here.

Whoever removes holds the import lock: what an import has just renamed into the store has no row
yet, and must not be taken for something that nobody wants.
"""

import os
import shutil
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from appliance.cache.store import ModelStore
from appliance.core.ids import Digest
from appliance.kit.files import fsync_folder, translated

LOCK = ".lock"
_DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Leftover:
    """One file or folder that may go."""

    path: Path
    size: int
    why: str


def unowned(
    store: ModelStore, held: Container[Digest], present: Mapping[Digest, int]
) -> list[Leftover]:
    """Return the blobs that nobody needs: an import ended between its rename and its commit."""
    return [
        Leftover(store.blobs.path(digest), size, "nothing in the catalogue needs it")
        for digest, size in sorted(present.items())
        if digest not in held
    ]


def old(folder: Path, days: float, now: datetime, why: str) -> Iterator[Leftover]:
    """Yield what lies in a folder, and was not touched for so many days."""
    try:
        entries = sorted(folder.iterdir())
    except FileNotFoundError:
        return
    for path in entries:
        if path.name != LOCK and now.timestamp() - _touched(path) > days * _DAY_S:
            yield Leftover(path, tree_bytes(path), why)


def older(leftovers: list[Leftover], days: float, now: datetime) -> list[Leftover]:
    """Return those that came into the store so many days ago, by the rename that brought them."""
    before = now.timestamp() - days * _DAY_S
    return [found for found in leftovers if found.path.lstat().st_ctime < before]


def half_written(store: ModelStore, days: float, now: datetime) -> Iterator[Leftover]:
    """Yield files in the store that are no blobs: a crash left them beside what they were for."""
    for leftover in old(store.folder, days, now, "a crash left it half written"):
        if leftover.path.name.startswith("."):
            yield leftover


def stray_links(store: ModelStore, expected: Container[Path]) -> Iterator[Leftover]:
    """Yield files below ``models/`` that no variant of the catalogue stands for."""
    for link in store.links():
        if link not in expected:
            found = link.lstat()
            size = found.st_size if found.st_nlink == 1 else 0
            yield Leftover(link, size, "no variant of the catalogue has this file")


def remove(store: ModelStore, leftovers: Iterable[Leftover]) -> None:
    """Delete them, durably."""
    folders = set()
    for leftover in leftovers:
        path = leftover.path
        with translated(f"removing {path}"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        folders.add(path.parent)
    for folder in folders:
        with translated(f"removing files from {folder}"):
            fsync_folder(folder)
    store.prune()


def tree_bytes(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(
        Path(folder, name).lstat().st_size for folder, _, names in os.walk(path) for name in names
    )


def _touched(path: Path) -> float:
    """Return when something of it was written last."""
    times = [path.lstat().st_mtime]
    if path.is_dir() and not path.is_symlink():
        times += [found.lstat().st_mtime for found in path.rglob("*")]
    return max(times)
