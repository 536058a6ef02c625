"""Whether the comparer would have found something: it is shown copies with something planted."""

import json
import random
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

from witness.compare import compare

Pair = tuple[int, int]
Plant = Callable[[sqlite3.Connection, Pair], object]
_CONTENT = "SELECT record FROM records WHERE stream = 'usage' AND seq = ?"
_DELETE = "DELETE FROM records WHERE stream = 'usage' AND seq = ?"
_SET = "UPDATE records SET record = ? WHERE stream = 'usage' AND seq = ?"


def _drop(db: sqlite3.Connection, pair: Pair) -> None:
    db.execute(_DELETE, pair[:1])


def _double(db: sqlite3.Connection, pair: Pair) -> None:
    """Have the second number hold what the first does, so that all numbers are there."""
    db.execute(_SET, (_content(db, pair[0]), pair[1]))


def _swap(db: sqlite3.Connection, pair: Pair) -> None:
    first, second = (_content(db, seq) for seq in pair)
    db.executemany(_SET, [(second, pair[0]), (first, pair[1])])


def _content(db: sqlite3.Connection, seq: int) -> str:
    return str(db.execute(_CONTENT, (seq,)).fetchone()[0])


PLANTS: dict[str, tuple[Plant, str]] = {
    "drop": (_drop, "lost"),
    "duplicate": (_double, "doubled"),
    "swap": (_swap, "swapped"),
}


def planted(
    hub: Path, nodes: dict[str, Path], journal: Path, pending: Iterable[str], rng: random.Random
) -> dict[str, str]:
    """Return for each thing that was planted whether the comparer found it, in words."""
    found = {}
    for name, (plant, expected) in PLANTS.items():
        copy = hub.with_name(f"{name}.db")
        with closing(sqlite3.connect(hub)) as db, closing(sqlite3.connect(copy)) as changed:
            db.backup(changed)
            plant(changed, _pair(changed, journal, rng))
            changed.commit()
        counts = compare(copy, nodes, [journal], pending).counts
        found[name] = "found" if counts[expected] else "NOT FOUND"
        copy.unlink()
    return found


def _pair(db: sqlite3.Connection, journal: Path, rng: random.Random) -> Pair:
    """Return two numbers of requests that ended, in one file of the spool."""
    lines = map(json.loads, journal.read_text().splitlines())
    sources = {line["id"]: line["source"] for line in lines if line["stream"] == "usage"}
    places: dict[str, list[int]] = {}
    for seq, text in db.execute("SELECT seq, record FROM records WHERE stream = 'usage'"):
        body = json.loads(text)["body"]
        if body["outcome"] == "ok":
            places.setdefault(sources[body["id"]], []).append(seq)
    first, second = sorted(rng.sample(rng.choice([p for p in places.values() if len(p) > 1]), 2))
    return first, second
