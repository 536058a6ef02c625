"""The sync log: outbox, drain, what a node accepts, what a hub takes in."""

import importlib

from benchmarks.measure import Row

_PARTS = ("sync_outbox", "sync_drain", "sync_accept", "sync_hub")


def run() -> list[Row]:
    """Measure everything, one part after the other."""
    rows: list[Row] = []
    for name in _PARTS:
        rows += importlib.import_module(f"benchmarks.{name}").run()
    return rows
