"""What a stick carries between a node and its hub, beside a bundle or alone.

Up, in ``up/NODE/``: ``receipts/EPOCH-SEQ.json``; ``batches/STREAM/EPOCH-FIRST.jsonl``, which holds
consecutive batches, one a line; ``reported.json``, ``csr.json``, ``cmd-ID.json``. Down, in
``dn/NODE/``: ``desired.json``, ``ack.json``, ``time.json``, ``cert.pem``, ``cmd-ID.json``. Each
file is whole or not there, and holds the envelopes that MQTT would have carried. A medium comes
from anywhere: only regular files are read, nothing is followed out of it, and every number and
length is bounded. What cannot be read so is yielded with its ``error``, and keeps nothing else out.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.core.ids import NodeId, node_id
from appliance.core.quantity import format_bytes
from appliance.errors import (
    ApplianceError,
    CorruptError,
    MalformedError,
    NoSpaceError,
    NotFoundError,
    StateUnusableError,
)
from appliance.kit.files import make_folder, translated, write_durably
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
AGAIN = "export again from the node"


class StickFullError(NoSpaceError):
    """Some files did not fit; ``written`` files are on the medium, ``left`` have ``size`` bytes."""

    def __init__(self, medium: Path, written: int, left: int, size: int) -> None:
        files = "1 file" if left == 1 else f"{left} files"
        verb = "does" if left == 1 else "do"
        super().__init__(
            f"{medium} is full: {written} written, {files} of {format_bytes(size)} {verb} not fit",
            hint="make room on it, or use another stick",
        )
        self.medium, self.written, self.left, self.size = medium, written, left, size


@dataclass(frozen=True, slots=True)
class Carried:
    """A receipt's file as it lies on a medium."""

    node: NodeId
    path: Path
    data: bytes
    error: ApplianceError | None = None


@dataclass(frozen=True, slots=True)
class Letter:
    """What one file on a medium carries: its kind, as in ``sync/topics.py``, and its name there.

    ``parts`` are the messages in it; but for batches, a line each, there is one. With an ``error``
    there is none.
    """

    node: NodeId
    kind: str
    name: str | None
    path: Path
    parts: tuple[bytes, ...] = ()
    error: ApplianceError | None = None


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


def write(medium: Path, folder: Path, files: Mapping[str, bytes], *, reserve: int = 0) -> int:
    """Write files into a folder of a medium, durably; one that is there and equal is left alone.

    They are written in the order given, for as long as whole ones fit and ``reserve`` bytes stay
    free. A link or a pipe that has the name of one is replaced by it.

    Returns:
        How many were written.

    Raises:
        NotFoundError: there is no such medium.
        StickFullError: not all fit; those before are written.
        StateUnusableError: the medium is read-only or damaged, or a link leads out of it.
    """
    check_medium(medium)
    new = {n: data for n, data in files.items() if not _holds(folder / n, data)}
    if not new:
        return 0
    _check_inside(medium, folder)
    written, in_the_way = 0, ""
    try:
        for name, data in new.items():
            if (folder / name).is_dir() and not (folder / name).is_symlink():
                in_the_way = in_the_way or str(folder / name)
                continue
            _require_room(medium, len(data) + reserve)
            make_folder(folder)
            write_durably(folder / name, data)
            written += 1
    except NoSpaceError as error:
        size = sum(map(len, list(new.values())[written:]))
        raise StickFullError(medium, written, len(new) - written, size) from error
    except StateUnusableError as error:
        raise StateUnusableError(
            error.what,
            hint="a stick that is offered here is mounted read-only: mount it with write access, "
            "take off its write protection, or use another",
        ) from error
    if in_the_way:
        raise StateUnusableError(
            f"{in_the_way} is a folder, so the file of that name could not be written",
            hint="take it off the stick, or use another stick",
        )
    return written


def _require_room(medium: Path, size: int) -> None:
    """See that a file fits, and one more block for the folder's entry."""
    with translated(f"asking for the free space of {medium}"):
        found = os.statvfs(medium)
    unit = found.f_frsize
    if found.f_bavail < -(-size // unit) + 1:
        raise NoSpaceError(f"{medium} is full")


def receipts(medium: Path) -> Iterator[Carried]:
    """Yield the receipts of all nodes on a medium, each node's oldest first.

    Raises:
        NotFoundError: there is no such medium.
    """
    for node in nodes(medium):
        folder = receipts_folder(medium, node)
        names, error = _listed(medium, folder, _MOST_RECEIPTS)
        if error is not None:
            yield Carried(node, folder, b"", error)
        found = [match for n in names if (match := _NAME.fullmatch(n))]
        for match in sorted(found, key=lambda m: (m["epoch"], int(m["seq"]))):
            data, error = _taken(folder / match[0], MAX_RECEIPT_BYTES + 1)
            yield Carried(node, folder / match[0], data, error)


def nodes(medium: Path) -> list[NodeId]:
    """Return the nodes of which a medium carries something to the hub.

    Raises:
        NotFoundError: there is no such medium.
        CorruptError: who they are cannot be read.
    """
    check_medium(medium)
    found = []
    names, error = _listed(medium, medium / "up", _MOST_NODES)
    if error is not None:
        raise error
    for name in names:
        with contextlib.suppress(ValueError):
            found.append(node_id(name))
    return found


def upward(medium: Path, node: NodeId) -> Iterator[Letter]:
    """Yield what a medium carries from a node to the hub but receipts, batches first."""
    top = up_folder(medium, node)
    streams, error = _listed(medium, top / "batches", _MOST_PACKS)
    if error is not None:
        yield Letter(node, "stream", None, top / "batches", error=error)
    for stream in filter(_STREAM.fullmatch, streams):
        folder = batches_folder(medium, node, stream)
        names, error = _listed(medium, folder, _MOST_PACKS)
        if error is not None:
            yield Letter(node, "stream", stream, folder, error=error)
        packs = [match for n in names if (match := _PACK.fullmatch(n))]
        for match in sorted(packs, key=lambda m: (m["epoch"], int(m["first"]))):
            path = folder / match[0]
            data, error = _taken(path, _MOST_PACK)
            parts = tuple(data.split(b"\n")) if error is None else ()
            yield Letter(node, "stream", stream, path, parts, error)
    yield from _letters(medium, node, top, _UP, "outcome")


def downward(medium: Path, node: NodeId) -> Iterator[Letter]:
    """Yield what a medium carries from the hub to a node, in the order in which it is taken.

    Raises:
        NotFoundError: there is no such medium.
    """
    check_medium(medium)
    yield from _letters(medium, node, answers_folder(medium, node), _DOWN, "cmd")


def _letters(
    medium: Path, node: NodeId, folder: Path, plain: Mapping[str, str], command: str
) -> Iterator[Letter]:
    there, error = _listed(medium, folder, _MOST_COMMANDS)
    if error is not None:
        yield Letter(node, "folder", None, folder, error=error)
    found = [(kind, None, file) for kind, file in plain.items() if file in there]
    commands = filter(None, map(_COMMAND.fullmatch, there))
    ordered = sorted(commands, key=lambda m: (len(m["id"]), m["id"]))  # ids are counters
    for kind, name, file in (*found, *((command, m["id"], m[0]) for m in ordered)):
        data, error = _taken(folder / file, _MOST_LETTER + 1)
        yield Letter(node, kind, name, folder / file, () if error else (data,), error)


def sweep(
    medium: Path, folder: Path, epoch: str, keep: Collection[str], *, before: int | None = None
) -> None:
    """Remove an epoch's files of batches that the hub has acknowledged by now.

    Args:
        medium: The stick's folder.
        folder: Where the batches of a stream lie.
        epoch: Of the ledger whose files they are.
        keep: Names that stay.
        before: Only files that begin before this number go.

    Raises:
        StateUnusableError: the medium is read-only or damaged.
    """
    names, _ = _listed(medium, folder, _MOST_PACKS)
    with translated(f"clearing {folder}"):
        for name in names:
            match = _PACK.fullmatch(name)
            if match is None or match["epoch"] != epoch or name in keep:
                continue
            if before is None or int(match["first"]) < before:
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
            raise StateUnusableError(
                f"{part} is there, but is not a folder",
                hint="take it off the stick, or use another stick",
            )


def _listed(medium: Path, folder: Path, most: int) -> tuple[list[str], ApplianceError | None]:
    """Return the names in a folder of a medium, and why there are none to read, if that is odd."""
    for part in reversed((folder, *folder.parents)):
        if part.is_relative_to(medium) and part != medium:
            if part.is_symlink():
                return [], CorruptError(f"{part} is a link, and links are not followed", hint=AGAIN)
            if part.exists() and not part.is_dir():
                return [], CorruptError(f"{part} is not a folder", hint=AGAIN)
    try:
        with os.scandir(folder) as found:
            return sorted(entry.name for entry, _ in zip(found, range(most), strict=False)), None
    except FileNotFoundError:
        return [], None
    except OSError as error:
        return [], CorruptError(f"{folder} cannot be read: {error.strerror}", hint=AGAIN)


def _taken(path: Path, most: int) -> tuple[bytes, ApplianceError | None]:
    """Return at most ``most`` bytes of a regular file, or why there are none."""
    try:
        data = _read(path, most)
    except CorruptError as error:
        return b"", error
    if not data:
        return b"", MalformedError(f"{path} is empty", hint=AGAIN)
    return data, None


def _holds(path: Path, data: bytes) -> bool:
    try:
        return _read(path, len(data) + 1) == data
    except CorruptError:
        return False


def _read(path: Path, most: int) -> bytes | None:
    """Return at most ``most`` bytes of a regular file, or None when there is none.

    Raises:
        CorruptError: it cannot be read, or is no regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise CorruptError(f"{path} is not a regular file", hint=AGAIN)
            return file.read(most)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        why = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise CorruptError(f"{path} cannot be read: {why}", hint=AGAIN) from error
