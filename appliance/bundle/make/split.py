"""Cutting a bundle into volumes that FAT32 and small sticks can hold; see ``volumes.py``."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.bundle.media.volumes import LEAST_PART_BYTES, MOST_VOLUMES, part_name
from appliance.core import wire
from appliance.errors import NotFoundError, StateUnusableError, UsageError
from appliance.kit.files import make_folder, require_space, translated, write_durably

FAT32_BYTES = (4 << 30) - 1
"""The largest file that FAT32 can hold."""

_SMALL_BYTES = 1 << 20
_COPY_BYTES = 4 << 20
_MOST_PARTS = 1000

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a file: ``length`` bytes from ``offset`` on, under a name of its own."""

    source: Path
    name: str
    offset: int
    length: int


def split(
    bundle: Path,
    folder: Path,
    *,
    part_bytes: int = FAT32_BYTES,
    volume_bytes: int | None = None,
    progress: Progress = lambda _what, _done, _total: None,
) -> list[Path]:
    """Write ``bundle`` as volumes below ``folder``; return their folders.

    Args:
        bundle: A whole bundle.
        folder: Where the volumes' folders are made: ``NAME.vol1``, ``NAME.vol2`` and so on.
        part_bytes: The largest file.
        volume_bytes: The most that one volume holds; None makes one volume.
        progress: Told what is being copied, the bytes done and the bytes in all.

    Raises:
        NotFoundError: there is no bundle.
        UsageError: the sizes make no sense, or too many volumes.
        StateUnusableError: a volume is there already.
    """
    if not (bundle / "bundle.json").is_file():
        raise NotFoundError(f"there is no bundle at {bundle}", hint="name the bundle's folder")
    if part_bytes < LEAST_PART_BYTES:
        raise UsageError(f"parts are at least {LEAST_PART_BYTES >> 20} MiB")
    plan = _plan(bundle, part_bytes, volume_bytes)
    targets = [folder / f"{bundle.name}.vol{n}" for n in range(1, len(plan.volumes) + 1)]
    for target in targets:
        if target.exists():
            raise StateUnusableError(
                f"{target} is there already", hint="remove it, or name another"
            )
    make_folder(folder)
    total = sum(piece.length for pieces in plan.volumes for piece in pieces)
    require_space(folder, total + plan.everywhere_bytes * len(targets), what="the volumes")
    hint = wire.loads((bundle / "bundle.json").read_bytes(), what="bundle.json")
    writer = _Writer(bundle, total, progress)
    for number, (target, pieces) in enumerate(zip(targets, plan.volumes, strict=True), start=1):
        writer.write(target, plan.small, pieces)
        which = {"this": number, "of": len(targets), "partBytes": plan.part_bytes}
        write_durably(target / "bundle.json", wire.dumps({**hint, "volumes": which}))
    return targets


@dataclass(frozen=True, slots=True)
class _Plan:
    """What goes onto every volume, and which pieces onto which."""

    small: list[Path]
    everywhere_bytes: int
    part_bytes: int
    volumes: list[list[Piece]]


def _plan(bundle: Path, part_bytes: int, volume_bytes: int | None) -> _Plan:
    """Decide what goes where; parts become smaller when a volume has no room for a whole one."""
    small, large = list[Path](), list[Path]()
    for file in sorted(p for p in bundle.rglob("*") if p.is_file() and p.name != "bundle.json"):
        goes_along = file.stat().st_size <= _SMALL_BYTES or _is_of_all(file, bundle)
        (small if goes_along else large).append(file)
    everywhere = sum(f.stat().st_size for f in small) + _SMALL_BYTES
    room = None if volume_bytes is None else volume_bytes - everywhere
    if room is not None and room < part_bytes:
        if room < LEAST_PART_BYTES:
            raise UsageError(
                f"{everywhere >> 20} MiB go onto every volume, so {volume_bytes} bytes are too few"
            )
        part_bytes = room
    volumes = _spread(_cut(large, bundle, part_bytes), room)
    if len(volumes) > MOST_VOLUMES:
        raise UsageError(f"that makes {len(volumes)} volumes, more than {MOST_VOLUMES}")
    return _Plan(small, everywhere, part_bytes, volumes)


def _is_of_all(path: Path, bundle: Path) -> bool:
    return path.relative_to(bundle).parts[0] not in ("blobs", "deltas")


def _cut(files: list[Path], bundle: Path, part_bytes: int) -> list[Piece]:
    """Cut every large blob, also one that is not larger than a part: all are read the same way."""
    pieces = []
    for file in files:
        name, size = str(file.relative_to(bundle)), file.stat().st_size
        if size > part_bytes * _MOST_PARTS:
            raise UsageError(f"{name} would need more than {_MOST_PARTS} parts: make them larger")
        pieces += [
            Piece(file, part_name(name, n), offset, min(part_bytes, size - offset))
            for n, offset in enumerate(range(0, size, part_bytes))
        ]
    return pieces


def _spread(pieces: list[Piece], room: int | None) -> list[list[Piece]]:
    """Put pieces onto volumes in their order, so that an import goes from one to the next."""
    volumes: list[list[Piece]] = [[]]
    left = room
    for piece in pieces:
        if left is not None and room is not None and piece.length > left:
            volumes.append([])
            left = room
        volumes[-1].append(piece)
        left = None if left is None else left - piece.length
    return volumes


@dataclass
class _Writer:
    bundle: Path
    total: int
    progress: Progress
    done: int = 0

    def write(self, target: Path, small: list[Path], pieces: list[Piece]) -> None:
        with translated(f"writing {target}"):
            for file in small:
                copy = target / file.relative_to(self.bundle)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
            for piece in pieces:
                self._copy(piece, target / piece.name)

    def _copy(self, piece: Piece, to: Path) -> None:
        to.parent.mkdir(parents=True, exist_ok=True)
        with piece.source.open("rb") as source, to.open("xb") as copy:
            source.seek(piece.offset)
            left = piece.length
            while left and (data := source.read(min(_COPY_BYTES, left))):
                copy.write(data)
                left -= len(data)
                self.done += len(data)
                self.progress(to.name, self.done, self.total)
