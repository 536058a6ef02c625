"""A backup as a folder: files with their SHA-256, and a list of them that is written last.

It is whole or not there at all: it is made under another name and renamed. It holds private keys.
Nothing in it is signed, so it is only as good as the place where it is kept; the checksums find a
medium that forgets, not a person who lies.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.errors import (
    CorruptError,
    IncompleteError,
    MalformedError,
    NotFoundError,
    StateUnusableError,
)
from appliance.kit.files import (
    fsync_folder,
    make_folder,
    require_space,
    translated,
    write_durably,
)

LIST = "backup.json"
_FORMAT = 1
_MOST_LIST = 16 << 20
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_HEX = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1 << 20
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """One file; ``private``: only its owner may read it."""

    size: int
    sha256: str
    private: bool


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup whose list was read. ``about`` is what its maker says of it, plain JSON data."""

    folder: Path
    about: Mapping[str, Any]
    files: Mapping[str, Entry]
    links: Mapping[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Return the bytes of all files."""
        return sum(entry.size for entry in self.files.values())

    def verify(self) -> None:
        """Read every file.

        Raises:
            IncompleteError: one is missing.
            CorruptError: one has other bytes than were written.
        """
        for name, entry in self.files.items():
            if _entry(_regular(self.folder / name)) != (entry.size, entry.sha256):
                raise CorruptError(
                    f"{name} in {self.folder} is not as it was written",
                    hint="the medium is damaged: use another backup",
                )

    def put(self, name: str, target: Path) -> None:
        """Copy one file to its place, durably, and see that what was copied is what was written.

        Raises:
            CorruptError: it is not.
            NoSpaceError, StateUnusableError: it could not be written.
        """
        entry, temporary = self.files[name], target.with_name(f".{target.name}.restored")
        make_folder(target.parent)
        mode = 0o600 if entry.private else 0o644
        with translated(f"writing {target}"):
            found = _copy(_regular(self.folder / name), temporary, mode)
            if found != (entry.size, entry.sha256):
                temporary.unlink()
                raise CorruptError(f"{name} in {self.folder} is not as it was written")
            temporary.rename(target)
            fsync_folder(target.parent)

    def below(self, top: str) -> list[str]:
        """Return the names of the files below a folder."""
        return sorted(name for name in self.files if name.startswith(f"{top}/"))


class Making:
    """A folder that is being filled. Links and modes are kept in the list: a stick has neither."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._links: dict[str, str] = {}
        self._public: set[str] = set()

    def tree(self, source: Path, name: str) -> None:
        """Copy a folder; when something vanishes meanwhile, once more.

        Raises:
            StateUnusableError: it changes all the time, or cannot be read.
        """
        for _ in range(_TRIES):
            try:
                self._tree(source, name)
            except FileNotFoundError:
                shutil.rmtree(self.folder / name, ignore_errors=True)
                continue
            return
        raise StateUnusableError(f"{source} could not be copied whole", hint="try again")

    def _tree(self, source: Path, name: str) -> None:
        for folder, _, names in os.walk(source, onerror=_raise):
            where = Path(name, Path(folder).relative_to(source))
            for child in (*names, *_links_in(folder)):
                path, kept = Path(folder, child), (where / child).as_posix()
                if path.is_symlink():
                    self._links[kept] = str(path.readlink())
                elif not child.startswith("."):  # what a crash left half written
                    self.file(path, kept)

    def file(self, source: Path, name: str) -> None:
        """Copy one file, durably."""
        target = self.folder / name
        make_folder(target.parent, mode=0o700)
        _copy(source, target, 0o600)
        if source.stat().st_mode & 0o004:
            self._public.add(name)

    def finish(self, about: Mapping[str, Any]) -> Backup:
        """Write the list of what lies here, the last file of all."""
        files = {}
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                name = path.relative_to(self.folder).as_posix()
                files[name] = Entry(*_entry(path), private=name not in self._public)
        for folder in {(self.folder / name).parent for name in files}:
            fsync_folder(folder)
        entries = {
            n: {"size": e.size, "sha256": e.sha256, "private": e.private} for n, e in files.items()
        }
        whole = {"format": _FORMAT, "about": dict(about), "files": entries, "links": self._links}
        data = json.dumps(whole, indent=1, sort_keys=True).encode()
        write_durably(self.folder / LIST, data, mode=0o600)
        return Backup(self.folder, about, files, self._links)


@contextlib.contextmanager
def making(target: Path, needed: int) -> Iterator[Making]:
    """Yield a folder to fill; it becomes ``target`` when the block ends without an error.

    Args:
        target: What is not there yet, or an empty folder.
        needed: Bytes that it will take at least.

    Raises:
        StateUnusableError: something is there already.
        NotFoundError: there is no folder to make it in.
        NoSpaceError: it does not fit; nothing was written.
    """
    if not target.parent.is_dir():
        raise NotFoundError(f"there is no folder {target.parent}", hint="mount or make it first")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StateUnusableError(
            f"{target} is there already and not empty", hint="name a folder that is not there yet"
        )
    require_space(target.parent, needed, what="the backup")
    staging = target.with_name(f".{target.name}.{os.getpid()}.new")
    with translated(f"making {staging}"):
        shutil.rmtree(staging, ignore_errors=True)
        make_folder(staging, mode=0o700)
        try:
            yield Making(staging)
            staging.rename(target)
            fsync_folder(target.parent)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise


def _raise(error: OSError) -> None:
    raise error


def _links_in(folder: str) -> list[str]:
    """Return the links to folders, which a walk lists among the folders."""
    with os.scandir(folder) as found:
        return [entry.name for entry in found if entry.is_symlink() and entry.is_dir()]


def read(folder: Path) -> Backup:
    """Return a backup by its list, whose names lead nowhere but below it.

    Raises:
        NotFoundError: there is none.
        MalformedError: its list is not one, or is of a later release.
    """
    path = _regular(folder / LIST, hint="name the folder that appliance backup made")
    with path.open("rb") as file:
        data = file.read(_MOST_LIST + 1)
    try:
        found = json.loads(data) if len(data) <= _MOST_LIST else {}
        if found.get("format") != _FORMAT:
            raise MalformedError(f"{path} is of another release, or no list of a backup")
        files = {_name(n): _listed(e) for n, e in found["files"].items()}
        links = {_name(n): _name(str(t)) for n, t in found["links"].items()}
        if not isinstance(found["about"], dict) or any("/" in t for t in links.values()):
            raise MalformedError(f"{path} is no list of a backup")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MalformedError(f"{path} is no list of a backup: {error}") from error
    return Backup(folder, found["about"], files, links)


def _listed(entry: Mapping[str, Any]) -> Entry:
    size, digest, private = entry["size"], entry["sha256"], entry["private"]
    if type(size) is not int or type(private) is not bool or not _HEX.fullmatch(digest):
        raise ValueError("an entry has no size, SHA-256 or mode")
    return Entry(size, digest, private)


def _name(text: str) -> str:
    if not all(_PART.fullmatch(part) for part in text.split("/")):
        raise ValueError(f"{text[:80]!r} is no name of a file")
    return text


def _regular(path: Path, hint: str = "use another backup") -> Path:
    if path.is_symlink() or not path.is_file():
        family = NotFoundError if path.name == LIST else IncompleteError
        raise family(f"there is no file {path}", hint=hint)
    return path


def _entry(path: Path) -> tuple[int, str]:
    hasher, size = hashlib.sha256(), 0
    with translated(f"reading {path}"), path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
            size += len(chunk)
    return size, hasher.hexdigest()


def _copy(source: Path, target: Path, mode: int) -> tuple[int, str]:
    hasher, size = hashlib.sha256(), 0
    target.unlink(missing_ok=True)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with source.open("rb") as file, os.fdopen(descriptor, "wb") as copy:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
            size += len(chunk)
            copy.write(chunk)
        copy.flush()
        os.fchmod(copy.fileno(), mode)
        os.fsync(copy.fileno())
    return size, hasher.hexdigest()
