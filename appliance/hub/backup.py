"""The hub's backup: its database as of one moment, and its keys. And the way back.

Nodes remember what a hub that was put back does not: see ``hub/resume.py``.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from appliance import __version__
from appliance.errors import IncompleteError, MalformedError, StateUnusableError
from appliance.hub import identity, resume
from appliance.hub.migrations import migrations
from appliance.kit import backup
from appliance.kit import db as kit_db
from appliance.kit.files import fsync_folder, locked, make_folder, require_space, translated

_KIND = "hub"
_DB = "hub.db"
_TREE = "identity"
_FILES = ("settings.toml",)
_ME = "identity/hub.json"


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that was made."""

    folder: str
    org: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore brought back; ``nodes`` are asked nothing until they have reported."""

    org: str
    made_at: str
    nodes: int


def make(state: Path, folder: Path, at: str) -> Made:
    """Back a hub up, while it runs or not. Blocking.

    Args:
        state: The hub's state folder.
        folder: What is not there yet; it holds the hub's keys from now on.
        at: The time, UTC.

    Raises:
        NotFoundError, StateUnusableError, NoSpaceError: no backup was left behind.
    """
    org = identity.load(state).org
    there = (state / _DB).exists()  # a hub that never ran has none
    needed = (state / _DB).stat().st_size if there else 0
    with backup.making(folder, needed + (1 << 20)) as making:
        if there:
            kit_db.copy_online(state / _DB, making.folder / _DB)
        making.tree(state / _TREE, _TREE)
        for name in _FILES:
            if (state / name).exists():
                making.file(state / name, name)
        about = {"kind": _KIND, "org": org, "made_at": at, "version": __version__}
        made = making.finish(about)
    return Made(str(folder), org, len(made.files), made.bytes)


def restore(folder: Path, state: Path, *, replace: bool = False) -> Restored:
    """Put a hub back from a backup into a folder on which none runs. Blocking.

    A restore that is cut leaves no hub, and may be run again.

    Args:
        folder: The backup.
        state: The hub's state folder.
        replace: The hub that is there makes way; without it that is refused.

    Raises:
        NotFoundError, MalformedError, IncompleteError, CorruptError: the backup is none, or is not
            as it was written; nothing was changed.
        LockedError: a hub runs on the folder.
        StateUnusableError: a hub is there.
        NoSpaceError: it does not fit; nothing was changed.
    """
    found = backup.read(folder)
    org, made_at = found.about.get("org"), found.about.get("made_at")
    if found.about.get("kind") != _KIND or not isinstance(org, str):
        raise MalformedError(
            f"{folder} is not a hub's backup", hint="a node's: appliance restore FOLDER"
        )
    if _ME not in found.files:
        raise IncompleteError(f"{folder} lacks {_ME}")
    found.verify()
    make_folder(state, mode=0o711)
    with locked(state / "lock", what=f"the hub in {state}"):
        if (state / _ME).exists() and not replace:
            raise StateUnusableError(
                f"there is a hub in {state}", hint="--replace puts the backup in its place"
            )
        require_space(state, 2 * found.bytes, what="the restored hub")
        _clear(state)
        nodes = 0
        if _DB in found.files:
            found.put(_DB, state / _DB)
            nodes = _resume(state)
        for name in (*found.below(_TREE), *_FILES):
            if name in found.files and name != _ME:
                found.put(name, state / name)
        found.put(_ME, state / _ME)  # last: from here on there is a hub
        (state / _TREE).chmod(0o700)
    return Restored(org, str(made_at), nodes)


def _clear(state: Path) -> None:
    with translated(f"clearing {state}"):
        (state / _ME).unlink(missing_ok=True)
        for name in (f"{_DB}-wal", f"{_DB}-shm", _DB):
            (state / name).unlink(missing_ok=True)
        shutil.rmtree(state / _TREE, ignore_errors=True)
        fsync_folder(state)


def _resume(state: Path) -> int:
    with kit_db.translated(state / _DB):
        database = kit_db.open_database(state / _DB, migrations)
        try:
            database.conn.execute("BEGIN IMMEDIATE")
            nodes = resume.begin(database.conn)
            database.conn.execute("COMMIT")
        finally:
            database.close()
    return nodes
