"""The outbox: what a durable record costs beside bare SQLite, and what a year alone takes of disk.

Both sides of the first row begin with the same facts, write them as JSON, and commit as many at a
time with ``synchronous=FULL``; ours numbers them too, and answers whoever waits for each. The year
of the second row has a record every ten seconds, which fills the budget several times over.
``python -m benchmarks.sync_outbox 365 1`` plays it second by second, in some twenty minutes; the
arguments are days, seconds between records, GPUs.
"""

import datetime
import random
import sqlite3
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.core.machine import GpuLoad
from appliance.core.usage import Outcome, UsageRecord
from appliance.hardware.host import HostLoad
from appliance.kit.clock import rfc3339
from appliance.ledger import budgets, streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream
from appliance.node import metrics
from appliance.settings import SyncSettings
from benchmarks.measure import Row, at_least, limit, timed

if TYPE_CHECKING:
    from concurrent.futures import Future

_RECORDS = 40_000
_TOGETHER = 500
"""What one commit takes at most, here and there."""
_ROUNDS = 5
_DAYS, _EVERY_S = 365, 10
_MIB = 1 << 20
_FILE_MIB = 256
_BEGAN = datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC)
_GATHERED_S = 900


def run() -> list[Row]:
    """Measure both; takes some three minutes."""
    return [durable(), alone(_DAYS, _EVERY_S)]


def durable() -> Row:
    """Records a second, durable: ours and bare SQLite's in turn; the best of each."""
    facts = [_usage(number) for number in range(_RECORDS)]
    ours, bare = [], []
    for _ in range(_ROUNDS):
        ours.append(_RECORDS / _with_outbox(facts))
        bare.append(_RECORDS / _with_sqlite(facts))
    name = f"durable records, group commits of up to {_TOGETHER}"
    reference = f"bare SQLite, {_TOGETHER} inserts a transaction"
    return at_least(name, max(ours), "records/s", (reference, max(bare)), 0.5)


def _with_outbox(facts: list[Fact]) -> float:
    with _ledger() as ledger:

        def work() -> None:
            waiting: deque[Future[None]] = deque()
            for fact in facts:
                waiting.append(ledger.note(fact))
                if len(waiting) > 4 * _TOGETHER:
                    waiting.popleft().result()
            for done in waiting:
                done.result()

        return timed(work)


def _with_sqlite(facts: list[Fact]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        db = sqlite3.connect(Path(folder) / "bare.db", isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        columns = "stream TEXT, seq INTEGER, record TEXT NOT NULL, PRIMARY KEY (stream, seq)"
        db.execute(f"CREATE TABLE outbox ({columns}) STRICT")

        def work() -> None:
            for begin in range(0, len(facts), _TOGETHER):
                rows = [
                    ("usage", seq, streams.to_text(fact))
                    for seq, fact in enumerate(facts[begin : begin + _TOGETHER], begin)
                ]
                db.execute("BEGIN IMMEDIATE")
                db.executemany("INSERT INTO outbox VALUES (?, ?, ?)", rows)
                db.execute("COMMIT")

        took = timed(work)
        db.close()
        return took


def alone(days: int, every_s: int, gpus: int = 1) -> Row:
    """A node without its hub, with the budgets of the settings, through its own functions."""
    with _ledger() as ledger:
        limits = metrics.limits(SyncSettings())
        ledger.record(partial(budgets.begin, limits=limits)).result()
        rng = random.Random(5)  # noqa: S311 - the same every time
        most = 0
        for begin in range(0, days * 86_400, _GATHERED_S):
            seconds = range(begin, begin + _GATHERED_S, every_s)
            ledger.note(*(fact for second in seconds for fact in _second(second, gpus, rng)))
            metrics.enforce(ledger)
            most = max(most, ledger.read(partial(budgets.held, stream=Stream.METRICS)))
        ledger.note().result()
        size = ledger.read(_pages) / _MIB
        _print_levels(ledger, days, most)
    name = f"{days} days alone, a record every {every_s} s for each of {gpus} GPUs: node.db"
    return limit(name, size, "MiB", _FILE_MIB)


def _second(second: int, gpus: int, rng: random.Random) -> list[Fact]:
    at = rfc3339(_BEGAN + datetime.timedelta(seconds=second))
    draw = rng.random
    loads = tuple(
        GpuLoad(
            f"GPU-8f0c1d5e-7a6b-4c3d-9e2f-{n:012}",
            memory_used_bytes=20_000_000_000 + int(draw() * 2**30),
            busy_percent=int(draw() * 101),
            celsius=40 + int(draw() * 45),
            watts=round(60 + draw() * 290, 3),
        )
        for n in range(gpus)
    )
    return metrics.facts(at, (HostLoad(None, None), loads), {})[1:]  # without the host's


def _usage(number: int) -> Fact:
    at = rfc3339(_BEGAN + datetime.timedelta(milliseconds=37 * number))
    record = UsageRecord(
        id=f"{number:032x}", at=at, request_id=f"req-{number:08x}", route="/v1/chat/completions",
        model="smollm2", key="key-1", stream=True, status=200, outcome=Outcome.OK, replica="a-0",
        prompt_tokens=number % 977, completion_tokens=number % 499, wait_ms=0.25,
        first_token_ms=41.5, duration_ms=900.125,
    )  # fmt: skip
    return Fact(Stream.USAGE, "request", at, record.to_wire())


def _pages(db: sqlite3.Connection) -> int:
    """Return the bytes of the whole file, free pages and all."""
    (pages,), (size,) = (db.execute(f"PRAGMA {p}").fetchone() for p in ("page_count", "page_size"))
    return int(pages) * int(size)


def _print_levels(ledger: Ledger, days: int, most: int) -> None:
    spans: dict[str, tuple[int, int]] = {}
    for record in ledger.read(lambda db: list(streams.waiting(db, Stream.METRICS, 10**9))):
        body = record.record["body"]
        name = f"every {body.get('every_s', 1)} s" if "why" not in body else "gap"
        count, numbers = spans.get(name, (0, 0))
        spans[name] = (count + 1, numbers + record.span)
    told = "; ".join(f"{name}: {c} records of {n} numbers" for name, (c, n) in spans.items())
    print(f"after {days} days alone: {told}; at most {most / _MIB:.1f} MiB were counted")


@contextmanager
def _ledger() -> Iterator[Ledger]:
    with tempfile.TemporaryDirectory(prefix="appliance-bench-") as folder:
        ledger = Ledger(Path(folder) / "node.db")
        try:
            yield ledger
        finally:
            ledger.close()


if __name__ == "__main__":
    print(alone(int(sys.argv[1]), *(int(word) for word in sys.argv[2:])))
