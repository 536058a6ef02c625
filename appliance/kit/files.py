"""Files that are wholly there or not at all.

The write rule everywhere: temporary file in the same folder, fsync, rename, fsync the folder,
commit the database, and only then acknowledge. Nothing else in the project renames a file into
place.
"""

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from appliance.errors import LockedError, NoSpaceError, StateUnusableError

_LOOKS, _LOOK_S = 5, 0.01
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_UNUSABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EIO, errno.EISDIR}


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what the operating system says into errors of ours.

    Raises:
        NoSpaceError: the disk is full.
        StateUnusableError: not permitted, read-only, not a folder, or a device error.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise NoSpaceError(
                f"no space left while {doing}", hint="free some space there, then try again"
            ) from error
        if error.errno in _UNUSABLE:
            raise StateUnusableError(
                f"{os.strerror(error.errno or 0)} while {doing}",
                hint="check that the folder is there, is writable and belongs to this user",
            ) from error
        raise


def fsync_folder(folder: Path) -> None:
    """Make renames and removals in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace the file at ``path``; after the return it survives a power cut, before, the old does.

    Raises:
        NoSpaceError: the disk is full; the old file is untouched.
        StateUnusableError: the folder cannot be written.
    """
    temporary = _temporary(path)
    with translated(f"writing {path}"):
        try:
            descriptor = _create(temporary, mode)
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)


def _create(path: Path, mode: int) -> int:
    """Open a new file; what has its name a crash left, or, on a medium, a link leads out of it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags, mode)
    except FileExistsError:
        path.unlink()
        return os.open(path, flags, mode)


def replace_quickly(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace a file that is rebuilt at every start: atomic for readers, not for power cuts."""
    temporary = _temporary(path)
    with translated(f"writing {path}"):
        try:
            temporary.write_bytes(data)
            temporary.chmod(mode)
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _temporary(path: Path) -> Path:
    """Return a name beside ``path`` that no other thread or process writes to at the same time."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.new")


def move_durably(source: Path, target: Path) -> None:
    """Rename a file whose content was already fsynced, and make the new name survive."""
    with translated(f"moving a file to {target}"):
        source.rename(target)
        fsync_folder(target.parent)
        if source.parent != target.parent:
            fsync_folder(source.parent)


def make_folder(path: Path, *, mode: int = 0o755) -> None:
    """Make a folder and those above it; one that is there already keeps the mode it has.

    Raises:
        StateUnusableError: it cannot be made, or something else has that name.
    """
    with translated(f"making the folder {path}"):
        try:
            path.mkdir(parents=True)
            path.chmod(mode)
        except FileExistsError as error:
            if not path.is_dir():
                raise StateUnusableError(f"{path} is there, but is not a folder") from error


@contextlib.contextmanager
def locked(path: Path, *, what: str, wait: bool = False) -> Iterator[None]:
    """Hold an exclusive lock for as long as the block runs; a killed holder frees it.

    Args:
        path: The lock's file; made when missing, never removed.
        what: What the lock guards, for the error.
        wait: Wait for the holder instead of raising.

    Raises:
        LockedError: somebody else holds it.
    """
    with translated(f"locking {path}"):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            _take(descriptor, wait=wait)
        except BlockingIOError as error:
            raise LockedError(
                f"{what} is in use by another process", hint="wait for it to end, or stop it"
            ) from error
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, *, wait: bool) -> None:
    """Take a lock; who only looks whether somebody holds it does so himself for a moment."""
    for _ in range(0 if wait else _LOOKS):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_LOOK_S)
    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock now."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def free_bytes(folder: Path) -> int:
    """Return the bytes that this process may still write below ``folder``."""
    with translated(f"asking for the free space of {folder}"):
        found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def require_space(folder: Path, needed: int, *, what: str) -> None:
    """Say so before anything is written when there is no room for it.

    Raises:
        NoSpaceError: fewer than ``needed`` bytes are free.
    """
    free = free_bytes(folder)
    if free < needed:
        raise NoSpaceError(
            f"{what} needs {_mib(needed)} MiB below {folder}, {free >> 20} MiB are free",
            hint=f"free {_mib(needed - free)} MiB there, or use a larger disk",
        )


def _mib(count: int) -> int:
    """Return MiB, rounded up: who follows a hint must not fall short of it."""
    return -(-count >> 20)
