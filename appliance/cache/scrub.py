"""Reads every blob again now and then, slowly, and goes on where the last controller ended.

What returned after it was lost comes first, then what was never verified here, then what was
verified longest ago. A pace is kept by reading a second's worth and then resting.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TypeVar

from appliance.cache import index, verify
from appliance.cache.health import Health
from appliance.cache.index import BlobState
from appliance.cache.inventory import Inventory
from appliance.cache.verify import PIECE, Verdict, Verifying
from appliance.core.ids import Digest
from appliance.kit.clock import rfc3339

_KEEP_EVERY = 16
"""Pieces after which the place is written down: 1 GiB is what a restart costs at most."""
_AT_ONCE = 256 << 20
"""What a step reads of a blob that came back: models wait for it, so it keeps no pace."""

T = TypeVar("T")
Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class _Reading:
    """A blob that is being looked at."""

    digest: Digest
    verifying: Verifying
    by_index: bool
    is_urgent: bool
    done: int
    kept: int


@dataclass(frozen=True, slots=True)
class Stepped:
    """What a step did: bytes that count against the pace, a change of what may run, more to do."""

    count: int = 0
    changed: bool = False
    more: bool = True


class Scrub:
    """The background look at all blobs of one node. Blocking; steps are made one after another."""

    def __init__(self, inventory: Inventory, health: Health) -> None:
        self._inventory = inventory
        self._health = health
        self._reading: _Reading | None = None

    def step(self) -> Stepped:
        """Read on for about a second's worth of the pace that was set."""
        reading = self._reading or self._begin()
        if reading is None:
            return Stepped(more=False)
        self._reading, count = reading, 0
        most = _AT_ONCE if reading.is_urgent else self._inventory.settings.scrub_bytes_per_s
        try:
            while count < most:
                count += next(reading.verifying)
        except StopIteration as end:
            self._reading = None
            changed = self._health.judge(reading.digest, end.value)
            return Stepped(0 if reading.is_urgent else count, changed)
        except BaseException:
            self._reading = None
            raise
        reading.done += count
        self._keep_place(reading)
        return Stepped(0 if reading.is_urgent else count)

    def _begin(self) -> _Reading | None:
        inventory, now = self._inventory, self._inventory.circumstances()
        before = rfc3339(now.now - timedelta(days=inventory.settings.scrub_every_days))
        found = inventory.ledger.read(partial(index.due, before=before, now=now.at))
        begun, first = inventory.ledger.read(index.begun)
        if begun is not None and (found is None or found.blake3 is not None):
            found = begun
        elif found is None:
            return None
        else:
            first = 0
        path = inventory.store.blobs.path(found.digest)
        verifying = verify.verify(path, found.digest, found.blake3, first)
        by_index, is_urgent = found.blake3 is not None, found.state is BlobState.RETURNED
        return _Reading(found.digest, verifying, by_index, is_urgent, first * PIECE, first)

    def _keep_place(self, reading: _Reading) -> None:
        """Write down how far it is, now and then; a look by SHA-256 cannot be resumed."""
        piece = reading.done // PIECE
        if reading.by_index and piece >= reading.kept + _KEEP_EVERY:
            effect = partial(index.set_begun, digest=reading.digest, piece=piece)
            self._inventory.ledger.record(effect).result()
            reading.kept = piece


def verify_now(
    inventory: Inventory, health: Health, digests: list[Digest], tell: Progress
) -> dict[Digest, Verdict]:
    """Look at blobs at full speed; return what was found of each, after acting on it."""
    rows, found = inventory.ledger.read(index.rows), {}
    here = [digest for digest in digests if digest in rows]
    total, done = sum(rows[digest].size for digest in here), 0
    for digest in here:
        path = inventory.store.blobs.path(digest)
        verifying = verify.verify(path, digest, rows[digest].blake3)
        try:
            while True:
                done += next(verifying)
                tell("verifying", min(done, total), total)
        except StopIteration as end:
            found[digest] = end.value
        health.judge(digest, found[digest])
    return found


class IdleThread:
    """One thread for work that must never be in the way of anything."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, name, initializer=_yield_to_others)

    def submit(self, call: Callable[[], T]) -> "Future[T]":
        """Run a call there."""
        return self._pool.submit(call)

    def close(self) -> None:
        """Let what runs end, and take nothing more."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _yield_to_others() -> None:
    with suppress(OSError):  # where it may not, it runs like everything else
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
