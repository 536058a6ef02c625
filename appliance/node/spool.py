"""The gateway's usage spool, taken into the ledger: each record once, whoever dies in between.

The offset moves in the transaction that takes the records, so a record is never taken twice. A file
that no gateway holds is finished: what is still open in it was cut. A damaged line is passed over,
and the hub hears of it in that same transaction.
"""

import hashlib
import io
import logging
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from appliance.core import usage
from appliance.core.usage import Taken
from appliance.errors import MalformedError
from appliance.kit.clock import Clock, SystemClock, rfc3339
from appliance.kit.files import fsync_folder, is_locked, translated
from appliance.ledger import streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream

log = logging.getLogger(__name__)
_SYSTEM_CLOCK = SystemClock()


def take_in(
    spool: Path,
    ledger: Ledger,
    clock: Clock = _SYSTEM_CLOCK,
    heard: Callable[[Mapping[str, Any]], object] = lambda _: None,
) -> int:
    """Move new usage records from the spool into the ledger; return how many. Blocking.

    ``heard`` is told of each record once it is there; it is no part of the promise: who is killed
    in between has not told it.
    """
    files = sorted(spool.glob("usage-*.jsonl"))
    taken = 0
    for path in files:
        records = _take_file(path, ledger, clock)
        for record in records:
            heard(record)
        taken += len(records)
    _forget_removed(spool, ledger)
    return taken


def _take_file(path: Path, ledger: Ledger, clock: Clock) -> Sequence[Mapping[str, Any]]:
    finished = not is_locked(path)  # before reading: what is written later is read next time
    name = path.name
    offset = ledger.read(lambda db: _offset(db, name))
    try:
        size = path.stat().st_size
        if size == offset and not finished:
            return ()
        taken, damaged = _take(_durable(path, first=not offset), offset, finished=finished)
    except FileNotFoundError:
        return ()
    if taken.records or taken.offset != offset:
        facts = [_damaged_fact(name, line, rfc3339(clock.utc())) for line in damaged]
        ledger.record(lambda db: _commit(db, name, taken), *facts).result()
    if finished:
        path.unlink(missing_ok=True)
    return taken.records


def _durable(path: Path, *, first: bool) -> bytes:
    """Return what a file holds, once the disk has it.

    An offset must never outlive the lines that it counts: behind it, a file that lost its end in a
    power cut would be read no more, and what is open in it would never count as cut.
    """
    data = path.read_bytes()
    with translated(f"reading {path}"), path.open("rb") as file:
        os.fdatasync(file.fileno())
        if first:
            fsync_folder(path.parent)
    return data


def _take(data: bytes, offset: int, *, finished: bool) -> tuple[Taken, list[bytes]]:
    """Return what ``usage.take`` finds between damaged lines, and those behind ``offset``."""
    try:
        return usage.take(data, offset, finished=finished), []
    except MalformedError:
        before, _ = _sift(data[:offset])
        behind, damaged = _sift(data[offset:])
        good = before + behind
        taken = usage.take(good, len(before), finished=finished)
        return replace(taken, offset=taken.offset + len(data) - len(good)), damaged


def _sift(lines: bytes) -> tuple[bytes, list[bytes]]:
    """Part lines that are damaged from the others; one without its end is not, or not yet."""
    good, damaged = [], []
    for line in io.BytesIO(lines):
        try:
            usage.take(line, 0, finished=False)
        except MalformedError:
            damaged.append(line)
        else:
            good.append(line)
    return b"".join(good), damaged


def _damaged_fact(name: str, line: bytes, at: str) -> Fact:
    digest = hashlib.sha256(line.removesuffix(b"\n")).hexdigest()
    log.error("%s has a damaged line, which counts for nothing; its SHA-256 is %s", name, digest)
    return Fact(Stream.AUDIT, "usage-damaged", at, {"file": name, "sha256": digest})


def _offset(db: sqlite3.Connection, name: str) -> int:
    row = db.execute("SELECT offset FROM spools WHERE file = ?", (name,)).fetchone()
    return 0 if row is None else int(row[0])


def _commit(db: sqlite3.Connection, name: str, taken: Taken) -> None:
    for record in taken.records:
        streams.append(db, Fact(Stream.USAGE, "request", str(record["at"]), record))
    db.execute(
        "INSERT INTO spools VALUES (?, ?) ON CONFLICT DO UPDATE SET offset = excluded.offset",
        (name, taken.offset),
    )


def _forget_removed(spool: Path, ledger: Ledger) -> None:
    """Drop the offsets of files that are gone for good, whoever was killed while removing them."""
    known = ledger.read(lambda db: db.execute("SELECT file FROM spools").fetchall())
    gone = [(name,) for (name,) in known if not (spool / name).exists()]
    if gone:
        fsync_folder(spool)  # else a power cut may bring a file back, and nobody knows it then
        ledger.record(lambda db: db.executemany("DELETE FROM spools WHERE file = ?", gone)).result()
