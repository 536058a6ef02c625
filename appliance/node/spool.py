"""The gateway's usage spool, taken into the ledger: each record once, whoever dies in between.

The offset moves in the transaction that takes the records, so a record is never taken twice. A file
that no gateway holds is finished: what is still open in it was cut.
"""

import logging
import sqlite3
from pathlib import Path

from appliance.core import usage
from appliance.core.usage import Taken
from appliance.errors import MalformedError
from appliance.kit.files import fsync_folder, is_locked
from appliance.ledger import streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream

log = logging.getLogger(__name__)


def take_in(spool: Path, ledger: Ledger) -> int:
    """Move new usage records from the spool into the ledger; return how many. Blocking."""
    files = sorted(spool.glob("usage-*.jsonl"))
    return sum(_take_file(path, ledger) for path in files)


def _take_file(path: Path, ledger: Ledger) -> int:
    finished = not is_locked(path)  # before reading: what is written later is read next time
    name = path.name
    offset = ledger.read(lambda db: _offset(db, name))
    try:
        size = path.stat().st_size
        if size == offset and not finished:
            return 0
        taken = usage.take(path.read_bytes(), offset, finished=finished)
    except FileNotFoundError:
        return 0
    except MalformedError as error:
        log.error("%s is set aside: %s", path, error)
        path.rename(path.with_suffix(".damaged"))
        return 0
    if taken.records or taken.offset != offset:
        ledger.record(lambda db: _commit(db, name, taken)).result()
    if finished:
        path.unlink(missing_ok=True)
        fsync_folder(
            path.parent
        )  # else a power cut may bring the file back, and nobody knows it then
        ledger.record(lambda db: db.execute("DELETE FROM spools WHERE file = ?", (name,))).result()
    return len(taken.records)


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
