"""Accepting what the hub sends: what verifying costs, and what it adds to one durable commit."""

import asyncio
import datetime
import itertools
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.cache import catalog
from appliance.core import wire
from appliance.core.documents import API_VERSION
from appliance.kit.clock import SystemClock
from appliance.ledger.db import Ledger
from appliance.node.fleet import FleetInbox
from appliance.trust.documents import DIRECTOR_PATH
from appliance.trust.dsse import MAX_ENVELOPE_BYTES
from appliance.trust.envelope import Addressee, Slot, seal
from appliance.trust.keys import SigningKey
from benchmarks.measure import Row, limit, row
from tests.helpers.models import variant
from tests.helpers.signing import InForce

_ROUNDS = 60
_USUAL_BYTES = 4 << 10
_MOST_VERIFY_MS = 3.0
_MOST_COMMITS = 2.0
_DAY = datetime.timedelta(days=1)


class _Node:
    """A node's inbox on a folder, and the hub's hand."""

    def __init__(self, folder: Path) -> None:
        self.key = SigningKey(Ed25519PrivateKey.generate())
        sync = SigningKey(Ed25519PrivateKey.generate())
        self.ledger = Ledger(folder / "node.db")
        self.me = Addressee("acme", "box-1", sync.public, self.ledger.epoch)
        found = variant()
        self.ledger.record(lambda db: catalog.add(db, found, "now")).result()
        in_tuf = InForce(folder / "tuf")
        in_tuf.documents[DIRECTOR_PATH] = wire.dumps(
            {"org": "acme", "epoch": 1, "keys": [self.key.public], "sync": [sync.public],
             "sites": ["*"], "verbs": []}
        )  # fmt: skip
        in_tuf.list(found)
        self.trust = in_tuf.trust
        self.inbox = self.inbox_of_a_start()
        self.watching = self.inbox_of_a_start()
        self.count = 0
        self.generation = itertools.count(1)

    def inbox_of_a_start(self) -> FleetInbox:
        """Return an inbox that has read nothing yet."""
        return FleetInbox(self.me, self.trust, self.ledger, SystemClock(), lambda: None)

    def word(self, most: int = MAX_ENVELOPE_BYTES) -> bytes:
        """Return a word nearly as long as it may be; one deployment changes in each."""
        number, count = next(self.generation), 1
        made = [self._sealed(number, count)]
        while len(made[-1]) <= most:
            count += 1
            made.append(self._sealed(number, count))
        self.count = count - 1
        return made[-2]

    def _sealed(self, number: int, count: int) -> bytes:
        documents = [_document(n, number if n == number % count else 0) for n in range(count)]
        body = {"directorEpoch": 1, "gen": number, "documents": documents}
        now = datetime.datetime.now(datetime.UTC)
        return seal(Slot.DESIRED, self.me, body, self.key, issued=now, lifetime=_DAY)


def run() -> list[Row]:
    """Measure in turn on one folder, so that other work on the machine meets both alike."""
    with tempfile.TemporaryDirectory(prefix="appliance-bench-", dir=Path.cwd()) as folder:
        node = _Node(Path(folder))
        try:
            return asyncio.run(_measured(node, Path(folder)))
        finally:
            node.ledger.close()


async def _measured(node: _Node, folder: Path) -> list[Row]:
    words = [node.word() for _ in range(_ROUNDS + 1)]
    what = f"{len(words[0])} bytes, {node.count} deployments"
    usual = [node.word(_USUAL_BYTES) for _ in range(_ROUNDS + 1)]
    verified, cold, applied, bare = [], [], [], []
    small, bare_small = [], []
    with _bare(folder / "bare.db") as commit:
        for data in words:
            bare.append(_ms(partial(commit, data)))
            cold.append(_verify_ms(node, node.inbox_of_a_start(), data))
            verified.append(_verify_ms(node, node.watching, data))
            applied.append(await _apply_ms(node, data))
        for data in usual:
            bare_small.append(_ms(partial(commit, data)))
            small.append(await _apply_ms(node, data))
    verify, first, apply, one, little, one_small = (
        statistics.median(times[1:]) for times in (verified, cold, applied, bare, small, bare_small)
    )
    return [
        limit(f"verify a desired document: {what}, one changed", verify, "ms", _MOST_VERIFY_MS),
        Row("the same after a start, all of it new", first, "ms", "one changed", verify,
            first / verify, "shown", met=True),
        row("verify and apply it durably", apply, "ms", ("bare commit of it", one), _MOST_COMMITS),
        row(f"verify and apply {len(usual[0])} bytes durably", little, "ms",
            ("bare commit of it", one_small), _MOST_COMMITS),
    ]  # fmt: skip


def _verify_ms(node: _Node, inbox: FleetInbox, data: bytes) -> float:
    """Return the processor time of steps 1 to 9, without the transaction."""
    began = time.thread_time()
    director = node.trust.director()
    if director is None or inbox.judged(data, director) is None:
        raise RuntimeError("the word was held")
    return (time.thread_time() - began) * 1000


async def _apply_ms(node: _Node, data: bytes) -> float:
    began = time.perf_counter()
    await node.inbox.desired(data)
    return (time.perf_counter() - began) * 1000


@contextmanager
def _bare(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Yield what commits one row of these bytes, durably, in a database like the ledger."""
    db = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = FULL"):
        db.execute(f"PRAGMA {pragma}")
    db.execute("CREATE TABLE words (only INTEGER PRIMARY KEY, word BLOB) STRICT")

    def commit(data: bytes) -> None:
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT OR REPLACE INTO words VALUES (1, ?)", (data,))
        db.execute("COMMIT")

    yield commit
    db.close()


def _ms(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def _document(number: int, generation: int) -> dict[str, Any]:
    """Return a deployment as people write them, with most of its fields."""
    notes = f"{generation}: " + "the ward's notes; ask the charge nurse before changing it. " * 5
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelDeployment",
        "metadata": {
            "name": f"deployment-{number}",
            "labels": {"edge-appliance.dev/area": f"ward-{number}", "example.com/owner": "it"},
            "annotations": {"example.com/notes": notes},
        },
        "spec": {
            "model": "small@1.0.0",
            "engine": "llama-cpp",
            "quantization": "Q4_0",
            "context": 4096 + generation,
            "objectives": {"timeToFirstToken": {"p50": "0.2s", "p95": "500ms"}, "concurrency": 4},
            "priority": "critical",
            "scaling": {"min": 0, "max": 4, "idleAfter": "15m"},
            "release": {"canary": {"weight": 10, "for": "30m"}, "check": "golden"},
        },
    }


if __name__ == "__main__":
    for found in run():
        print(found)
