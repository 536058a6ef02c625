"""How every SQLite file is opened and migrated.

WAL with ``synchronous=FULL``: a committed transaction survives a power cut. ``NORMAL`` would be
faster and may roll back what was already acknowledged.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from sqlite_utils import Database, Migrations

from appliance.errors import NoSpaceError, StateUnusableError
from appliance.kit import files

_FULL = {"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"}
"""What SQLite says of a full disk; of its shared index, which cannot grow, in other words."""


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what SQLite says about its file into errors of ours.

    Raises:
        NoSpaceError: the disk is full.
        StateUnusableError: the file cannot be opened, written or understood.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        name = error_name(error)
        if name in _FULL:
            raise NoSpaceError(
                f"no space left for {path}", hint="free some space there, then try again"
            ) from error
        if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_IOERR", "SQLITE_PERM")):
            raise StateUnusableError(
                f"{path}: {error}", hint="check that its folder is writable by this user"
            ) from error
        raise
    except sqlite3.DatabaseError as error:
        if error_name(error) in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
            raise StateUnusableError(
                f"{path} is damaged: {error}", hint="restore it from a backup"
            ) from error
        raise


def error_name(error: sqlite3.Error) -> str:
    """Return SQLite's name of an error; empty when Python's module raised it on its own account."""
    return getattr(error, "sqlite_errorname", "")


def open_database(path: Path, migrations: Migrations) -> Database:
    """Open a database for its one writer, and bring it to this release's schema.

    The connection may be handed to another thread, but only one may use it at a time.

    Raises:
        NoSpaceError, StateUnusableError: as ``translated``.
    """
    with translated(path), files.translated(f"opening {path}"):
        database = Database(_connect(path, "rwc"))
        try:
            path.chmod(0o600)  # before there is a WAL, which takes its mode from here
            database.conn.execute("PRAGMA journal_mode=WAL")
            database.conn.execute("PRAGMA synchronous=FULL")
            database.conn.execute("PRAGMA foreign_keys=ON")
            migrations.apply(database)
        except BaseException:
            database.close()
            raise
    return database


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a connection that cannot write; it sees what is committed when a statement starts."""
    with translated(path):
        connection = _connect(path, "ro")
        connection.execute("PRAGMA query_only=ON")
    return connection


def copy_online(source: Path, target: Path) -> None:
    """Copy a database that may be in use, as of one moment, into one file that is whole.

    Raises:
        NoSpaceError, StateUnusableError: as ``translated``; the target may be left half written.
    """
    with translated(source), files.translated(f"writing {target}"):
        reader, copy = open_reader(source), _connect(target, "rwc")
        try:
            reader.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")
            (verdict,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        finally:
            copy.close()
            reader.close()
        if verdict != "ok":
            raise StateUnusableError(f"{source} is damaged: {verdict}", hint="use an older backup")
        target.chmod(0o600)
        with target.open("rb") as file:
            os.fsync(file.fileno())


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(path))}?mode={mode}"
    connection = sqlite3.connect(
        uri, uri=True, isolation_level=None, check_same_thread=False, timeout=30
    )
    connection.row_factory = sqlite3.Row
    return connection
