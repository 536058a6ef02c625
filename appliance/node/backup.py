"""A node's backup: the ledger as of one moment, what it trusts, and its keys. And the way back.

The store is no part of it: blobs come again from bundles, and what still lies there after a restore
is hashed before it is used. A node that was restored is another ledger with the same name and key:
it begins a new epoch, so no number is used twice and no command runs twice.
"""

import shutil
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance import __version__
from appliance.bundle.format import courier
from appliance.cache import index
from appliance.core import wire
from appliance.core.ids import NodeId, node_id
from appliance.errors import IncompleteError, MalformedError, NoSpaceError, StateUnusableError
from appliance.kit import backup
from appliance.kit import db as kit_db
from appliance.kit.backup import Backup, Making
from appliance.kit.files import (
    fsync_folder,
    locked,
    make_folder,
    require_space,
    translated,
)
from appliance.kit.reserve import RESERVE_BYTES, Reserve
from appliance.ledger import restored
from appliance.ledger.db import Ledger
from appliance.ledger.migrations import migrations
from appliance.ledger.restored import NewEpoch
from appliance.ledger.streams import Stream
from appliance.node import homeward
from appliance.node.homeward import Left

_KIND = "node"
_DB = "node.db"
_TREES = ("tuf", "identity")
_FILES = ("settings.toml",)
_ME = "identity/node.json"
_MADE_OF = "made_at"


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that was made."""

    folder: str
    node: str
    epoch: str
    files: int
    bytes: int
    batches: int


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore brought back.

    ``unsent``: records that the copy had not sent yet; ``carried``: files of them in the backup.
    ``left``: what the ledger that made way had not sent.
    """

    node: str
    made_at: str
    old_epoch: str
    epoch: str
    audit: Mapping[str, object]
    unsent: int
    carried: int
    left: Left


def make(
    state: Path, node: NodeId, ledger: Ledger, folder: Path, at: str,
    seal: Callable[[], None] = lambda: None,
) -> Made:  # fmt: skip
    """Back up a node while it goes on. Blocking.

    What was not acknowledged lies in it as on a stick, so that the hub can take it in from the
    backup, which completes the ledger as the copy knows it.

    Args:
        state: The node's state folder.
        node: Its name.
        ledger: Its ledger, open.
        folder: What is not there yet; it holds the node's keys from now on.
        at: The time, UTC.
        seal: Signs what waits in the ledger, so that it can be carried.

    Raises:
        NotFoundError, StateUnusableError, NoSpaceError: no backup was left behind.
    """
    needed = 2 * (state / _DB).stat().st_size + (1 << 20)
    with backup.making(folder, needed) as making:
        kit_db.copy_online(state / _DB, making.folder / _DB)
        for name in _TREES:  # after the ledger: on start it is brought up to tuf/, never back
            making.tree(state / name, name)
        for name in _FILES:
            if (state / name).exists():
                making.file(state / name, name)
        seal()  # after the copy, so that all it holds is signed; in the ledger that sends it too
        batches = _as_on_a_stick(making, node, ledger)
        about = {"kind": _KIND, "node": node, "epoch": ledger.epoch, _MADE_OF: at,
                 "version": __version__}  # fmt: skip
        made = making.finish(about)
    return Made(str(folder), node, ledger.epoch, len(made.files), made.bytes, batches)


def _as_on_a_stick(making: Making, node: NodeId, ledger: Ledger) -> int:
    count = 0
    for stream in Stream:
        for name, pack in homeward.packs(ledger, stream):
            folder = courier.batches_folder(making.folder, node, stream)
            courier.write(making.folder, folder, {name: pack.data})
            count += pack.batches
    return count


def restore(folder: Path, state: Path, at: str, *, replace: bool = False) -> Restored:
    """Put a node back from a backup into a state folder that no controller holds. Blocking.

    What is there of ``store/`` and ``spool/`` stays. What the ledger that makes way had not sent
    is written beside it first, as on a stick. A restore that is cut leaves no node, and may
    be run again.

    Args:
        folder: The backup.
        state: The node's state folder.
        at: The time, UTC.
        replace: The node that is there makes way; without it that is refused.

    Raises:
        NotFoundError, MalformedError, IncompleteError, CorruptError: the backup is none, or is not
            as it was written; nothing was changed.
        LockedError: a controller runs on the folder.
        StateUnusableError: a node is there.
        NoSpaceError: it does not fit; nothing was changed.
    """
    found = backup.read(folder)
    node = _check(found)
    found.verify()
    make_folder(state, mode=0o711)
    with locked(state / "lock", what=f"the node in {state}"):
        _check_place(state, node, replace=replace)
        require_space(state, 2 * found.bytes, what="the restored node")
        left = homeward.leave(state, at)
        _clear(state)
        new = _ledger(found, state, at, left.epochs)
        for name in _TREES:
            for file in found.below(name):
                if file != _ME:
                    found.put(file, state / file)
        _links(found, state)
        for name in _FILES:
            if name in found.files:
                found.put(name, state / name)
        _reserve(state)
        (state / "identity").chmod(0o700)
        found.put(_ME, state / _ME)  # last: from here on there is a node
    return Restored(
        node, str(found.about[_MADE_OF]), new.old_epoch, new.epoch, new.old_head.to_wire(),
        new.unsent, len(found.below("up")), left,
    )  # fmt: skip


def _check(found: Backup) -> NodeId:
    about = found.about
    if about.get("kind") != _KIND or not isinstance(about.get(_MADE_OF), str):
        raise MalformedError(
            f"{found.folder} is not a node's backup", hint="a hub's: appliance hub restore FOLDER"
        )
    try:
        node = node_id(str(about.get("node")))
    except ValueError as error:
        raise MalformedError(f"{found.folder} does not say whose backup it is") from error
    if missing := {_DB, _ME, "identity/node.pem"} - found.files.keys():
        raise IncompleteError(f"{found.folder} lacks {', '.join(sorted(missing))}")
    return node


def _check_place(state: Path, node: NodeId, *, replace: bool) -> None:
    there = state / _ME
    if not there.exists():
        return
    name = wire.loads(there.read_bytes(), what=_ME).get("node")
    if not replace:
        raise StateUnusableError(
            f"the node {name} is in {state}", hint="--replace puts the backup in its place"
        )
    if name != node:
        raise StateUnusableError(f"{state} belongs to the node {name}, the backup is of {node}")


def _clear(state: Path) -> None:
    """Take away what the backup brings, the node's name first: without it there is no node."""
    with translated(f"clearing {state}"):
        for name in (_ME, f"{_DB}-wal", f"{_DB}-shm", _DB):
            (state / name).unlink(missing_ok=True)
            if (state / name).parent.is_dir():
                fsync_folder((state / name).parent)
        for name in _TREES:
            shutil.rmtree(state / name, ignore_errors=True)
        fsync_folder(state)


def _ledger(found: Backup, state: Path, at: str, known: tuple[str, ...]) -> NewEpoch:
    found.put(_DB, state / _DB)

    def begin(db: sqlite3.Connection) -> NewEpoch:
        db.execute("BEGIN IMMEDIATE")
        index.distrust(db)
        new = restored.begin_epoch(db, at, str(found.about[_MADE_OF]), known)
        db.execute("COMMIT")
        return new

    with kit_db.translated(state / _DB):
        database = kit_db.open_database(state / _DB, migrations)
        try:
            return begin(database.conn)
        finally:
            database.close()


def _links(found: Backup, state: Path) -> None:
    with translated(f"linking in {state}"):
        for name, target in found.links.items():
            link = state / name
            if name.split("/")[0] in _TREES and (link.parent / target).exists():
                link.symlink_to(target)
                fsync_folder(link.parent)


def _reserve(state: Path) -> None:
    reserve = Reserve(state / "reserve", RESERVE_BYTES)
    try:
        reserve.hold()
    except NoSpaceError:
        reserve.use()
