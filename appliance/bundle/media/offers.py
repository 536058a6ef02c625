"""Which bundles lie on a stick. Looking is all this does: a person imports, or does not."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.bundle.media.medium import FolderMedium
from appliance.bundle.media.reader import BundleReader
from appliance.errors import ApplianceError

_MOST_ENTRIES = 256
"""How many names in a stick's top folder are looked at."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A folder that looks like a bundle; ``problem`` says why it cannot be one, if it cannot.

    Name and version are the stick's claim. Whether they are true shows when it is imported.
    """

    folder: Path
    name: str | None
    version: str | None
    problem: str | None = None


def on(folder: Path) -> list[Offer]:
    """Return the bundles in a folder and in those right below it."""
    return [offer for found in _candidates(folder) if (offer := _look(found)) is not None]


def _candidates(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for _, e in zip(range(_MOST_ENTRIES), entries, strict=False))
    except OSError:  # pulled meanwhile
        return
    yield folder
    for name in names:
        path = folder / name
        if not name.startswith(".") and not path.is_symlink() and path.is_dir():
            yield path


def _look(folder: Path) -> Offer | None:
    try:
        medium = FolderMedium(folder)
        if medium.size("bundle.json") is None:
            return None
        name, version = BundleReader(medium).release()
    except ApplianceError as error:
        return Offer(folder, None, None, error.what)
    return Offer(folder, name, version)
