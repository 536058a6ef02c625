"""What a stick carries between a node and its hub, beside a bundle or alone.

Up, in ``up/NODE/``: ``receipts/EPOCH-SEQ.json``; ``batches/STREAM/EPOCH-FIRST.jsonl``, which holds
consecutive batches, one a line; ``reported.json``, ``csr.json``, ``cmd-ID.json``. Down, in
``dn/NODE/``: ``desired.json``, ``ack.json``, ``time.json``, ``cert.pem``, ``cmd-ID.json``. Each
file is whole or not there, and holds the envelopes that MQTT would have carried. A medium comes
from anywhere: only regular files are read, nothing is followed out of it, and every number and
length is bounded.
"""

import contextlib
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.core.ids import NodeId, node_id
from appliance.errors import CorruptError, NotFoundError, StateUnusableError
from appliance.kit.files import make_folder, require_space, translated, write_durably
from appliance.trust.receipt import MAX_RECEIPT_BYTES

TIME = "time.json"
_NAME = re.compile(r"(?P<epoch>[A-Za-z0-9]{1,64})-(?P<seq>[0-9]{1,15})\.json")
"""Whatever else a stick calls its files never reaches a screen."""

_PACK = re.compile(r"(?P<epoch>[A-Za-z0-9]{1,64})-(?P<first>[0-9]{1,15})\.jsonl")
_STREAM = re.compile(r"[a-z][a-z-]{0,31}")
_COMMAND = re.compile(r"cmd-(?P<id>[A-Za-z0-9-]{1,64})\.json")
PACK_BYTES = 4 << 20
"""What a file of batches grows to; a few large files are quicker to write than many small ones."""

_MOST_PACK = 8 << 20
_MOST_LETTER = 64 << 10
_MOST_PACKS = 10_000
_MOST_COMMANDS = 1000
_UP = {"reported": "reported.json", "request": "csr.json"}
_DOWN = {"cert": "cert.pem", "time": TIME, "ack": "ack.json", "desired": "desired.json"}
"""In the order in which a node takes them: the time may prove what the others are judged by."""

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


@dataclass(frozen=True, slots=True)
class Letter:
    """What one file on a medium carries: its kind, as in ``sync/topics.py``, and its name there.

    ``parts`` are the messages in it; but for batches there is one.
    """

    node: NodeId
    kind: str
    name: str | None
    path: Path
    parts: tuple[bytes, ...]


def receipts_folder(medium: Path, node: str) -> Path:
    """Return where a node's receipts lie."""
    return medium / "up" / node / "receipts"


def answers_folder(medium: Path, node: str) -> Path:
    """Return where what is meant for a node lies."""
    return medium / "dn" / node


def batches_folder(medium: Path, node: str, stream: str) -> Path:
    """Return where the batches of one stream of a node lie."""
    return up_folder(medium, node) / "batches" / stream


def up_folder(medium: Path, node: str) -> Path:
    """Return where what a node says lies."""
    return medium / "up" / node


def pack_name(epoch: str, first: int) -> str:
    """Return the name of a file of batches."""
    return f"{epoch}-{first}.jsonl"


def pack_of(file: str) -> tuple[str, int]:
    """Return epoch and first number in the name of a file of batches.

    Raises:
        ValueError: it is no such name.
    """
    match = _PACK.fullmatch(file)
    if match is None:
        raise ValueError(f"{file[:80]!r} is no file of batches")
    return match["epoch"], int(match["first"])


def up_name(kind: str, name: str | None) -> str:
    """Return the name of a file for the hub.

    Raises:
        ValueError: such a thing is carried otherwise, or its name fits no stick.
    """
    return _file_name(kind, name, _UP, "outcome")


def down_name(kind: str, name: str | None) -> str:
    """Return the name of a file for a node.

    Raises:
        ValueError: as ``up_name``.
    """
    return _file_name(kind, name, _DOWN, "cmd")


def _file_name(kind: str, name: str | None, plain: Mapping[str, str], command: str) -> str:
    if kind in plain and name is None:
        return plain[kind]
    file = f"cmd-{name}.json"
    if kind != command or _COMMAND.fullmatch(file) is None:
        raise ValueError(f"{kind} {name or ''} cannot be carried on a stick")
    return file


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
    for node in nodes(medium):
        folder = receipts_folder(medium, node)
        if not _is_inside(medium, folder):
            continue
        found = [match for n in _names(folder, _MOST_RECEIPTS) if (match := _NAME.fullmatch(n))]
        for match in sorted(found, key=lambda m: (m["epoch"], int(m["seq"]))):
            file = match[0]
            data = _read(folder / file, MAX_RECEIPT_BYTES + 1)
            if data is not None:
                yield Carried(node, folder / file, data)


def nodes(medium: Path) -> list[NodeId]:
    """Return the nodes of which a medium carries something to the hub.

    Raises:
        NotFoundError: there is no such medium.
    """
    check_medium(medium)
    found = []
    for name in _names(medium / "up", _MOST_NODES):
        with contextlib.suppress(ValueError):
            found.append(node_id(name))
    return found


def upward(medium: Path, node: NodeId) -> Iterator[Letter]:
    """Yield what a medium carries from a node to the hub but receipts, batches first.

    Raises:
        CorruptError: a file cannot be read, or is no regular file.
    """
    top = up_folder(medium, node)
    if not _is_inside(medium, top / "batches"):
        return
    for stream in filter(_STREAM.fullmatch, _names(top / "batches", _MOST_PACKS)):
        folder = batches_folder(medium, node, stream)
        packs = [match for n in _names(folder, _MOST_PACKS) if (match := _PACK.fullmatch(n))]
        for match in sorted(packs, key=lambda m: (m["epoch"], int(m["first"]))):
            path = folder / match[0]
            data = _read(path, _MOST_PACK) or b""
            parts = tuple(line for line in data.split(b"\n") if line)
            yield Letter(node, "stream", stream, path, parts)
    yield from _letters(node, top, _UP, "outcome")


def downward(medium: Path, node: NodeId) -> Iterator[Letter]:
    """Yield what a medium carries from the hub to a node, in the order in which it is taken.

    Raises:
        NotFoundError: there is no such medium.
        CorruptError: a file cannot be read, or is no regular file.
    """
    check_medium(medium)
    folder = answers_folder(medium, node)
    if _is_inside(medium, folder):
        yield from _letters(node, folder, _DOWN, "cmd")


def _letters(
    node: NodeId, folder: Path, plain: Mapping[str, str], command: str
) -> Iterator[Letter]:
    there = _names(folder, _MOST_COMMANDS)
    for kind, file in plain.items():
        data = _read(folder / file, _MOST_LETTER + 1) if file in there else None
        if data is not None:
            yield Letter(node, kind, None, folder / file, (data,))
    commands = filter(None, map(_COMMAND.fullmatch, there))
    for match in sorted(commands, key=lambda m: (len(m["id"]), m["id"])):  # ids are counters
        data = _read(folder / match[0], _MOST_LETTER + 1)
        if data is not None:
            yield Letter(node, command, match["id"], folder / match[0], (data,))


def sweep(medium: Path, folder: Path, epoch: str, keep: Collection[str]) -> None:
    """Remove an epoch's files of batches that the hub has acknowledged by now.

    Raises:
        StateUnusableError: the medium is read-only or damaged.
    """
    if not _is_inside(medium, folder):
        return
    with translated(f"clearing {folder}"):
        for name in _names(folder, _MOST_PACKS):
            match = _PACK.fullmatch(name)
            if match is not None and match["epoch"] == epoch and name not in keep:
                (folder / name).unlink(missing_ok=True)


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


def _is_inside(medium: Path, folder: Path) -> bool:
    """Whether no link leads from a medium to a folder below it."""
    parts = folder.relative_to(medium).parts
    return not any(medium.joinpath(*parts[: n + 1]).is_symlink() for n in range(len(parts)))


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
