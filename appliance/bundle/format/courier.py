"""What a stick carries between a node and its hub: receipts up, answers down.

``up/NODE/receipts/EPOCH-SEQ.json`` and ``dn/NODE/time.json``, beside a bundle or alone. Each file
is whole or not there. A medium comes from anywhere: only regular files are read, nothing is
followed out of it, and every number and length is bounded.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.core.ids import NodeId, node_id
from appliance.errors import CorruptError, NotFoundError, StateUnusableError
from appliance.kit.files import make_folder, require_space, translated, write_durably
from appliance.trust.receipt import MAX_RECEIPT_BYTES

TIME = "time.json"
_NAME = re.compile(r"(?P<epoch>[A-Za-z0-9]{1,64})-(?P<seq>[0-9]{1,15})\.json")
"""Whatever else a stick calls its files never reaches a screen."""

_MOST_NODES = 10_000
_MOST_RECEIPTS = 100_000
_CLUSTER = 32 << 10
"""What a small file takes on a large FAT32 stick."""


@dataclass(frozen=True, slots=True)
class Carried:
    """A receipt's file as it lies on a medium."""

    node: NodeId
    path: Path
    data: bytes


def receipts_folder(medium: Path, node: str) -> Path:
    """Return where a node's receipts lie."""
    return medium / "up" / node / "receipts"


def answers_folder(medium: Path, node: str) -> Path:
    """Return where what is meant for a node lies."""
    return medium / "dn" / node


def write(medium: Path, folder: Path, files: Mapping[str, bytes]) -> int:
    """Write files into a folder of a medium, durably; one that is there and equal is left alone.

    Returns:
        How many were written.

    Raises:
        NotFoundError: there is no such medium.
        NoSpaceError: they do not fit; nothing was written.
        StateUnusableError: the medium is read-only or damaged, or a link leads out of it.
    """
    check_medium(medium)
    new = {n: data for n, data in files.items() if _read(folder / n, len(data) + 1) != data}
    if not new:
        return 0
    _check_inside(medium, folder)
    needed = sum(-(-len(data) // _CLUSTER) * _CLUSTER for data in new.values())
    require_space(medium, needed, what=f"{len(new)} files")
    try:
        make_folder(folder)
        for name, data in new.items():
            write_durably(folder / name, data)
    except StateUnusableError as error:
        raise StateUnusableError(
            error.what,
            hint="a stick that is offered here is mounted read-only: mount it with write access, "
            "take off its write protection, or use another",
        ) from error
    return len(new)


def receipts(medium: Path) -> Iterator[Carried]:
    """Yield the receipts of all nodes on a medium, each node's oldest first.

    Raises:
        NotFoundError: there is no such medium.
        CorruptError: one cannot be read, or is no regular file.
    """
    check_medium(medium)
    for name in _names(medium / "up", _MOST_NODES):
        try:
            node = node_id(name)
        except ValueError:
            continue
        folder = receipts_folder(medium, node)
        found = [match for n in _names(folder, _MOST_RECEIPTS) if (match := _NAME.fullmatch(n))]
        for match in sorted(found, key=lambda m: (m["epoch"], int(m["seq"]))):
            file = match[0]
            data = _read(folder / file, MAX_RECEIPT_BYTES + 1)
            if data is not None:
                yield Carried(node, folder / file, data)


def check_medium(medium: Path) -> None:
    """See that there is a medium.

    Raises:
        NotFoundError: there is none.
    """
    if not medium.is_dir():
        raise NotFoundError(
            f"there is no folder {medium}", hint="plug the stick in, mount it, name its folder"
        )


def _check_inside(medium: Path, folder: Path) -> None:
    """A link on the medium must not make us write somewhere else."""
    for part in (folder, *folder.parents):
        if part == medium:
            return
        if part.is_symlink() or (part.exists() and not part.is_dir()):
            raise StateUnusableError(f"{part} is there, but is not a folder")


def _names(folder: Path, most: int) -> list[str]:
    if folder.is_symlink() or not folder.is_dir():
        return []
    with translated(f"reading {folder}"), os.scandir(folder) as found:
        return sorted(entry.name for entry, _ in zip(found, range(most), strict=False))


def _read(path: Path, most: int) -> bytes | None:
    """Return at most ``most`` bytes of a regular file, or None when there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise CorruptError(f"{path} is not a regular file")
            return file.read(most)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CorruptError(f"{path} cannot be read: {error.strerror}") from error
