"""A small disk, and how to fill it."""

from pathlib import Path

SMALL_BYTES = 1 << 20


def fill(folder: Path) -> Path:
    """Write until the disk is full; return the file to remove when there should be room again."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return path
    raise AssertionError("a full disk took everything")
