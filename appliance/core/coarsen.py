"""Fewer records that say nearly the same: metrics of a minute, or of a quarter of an hour. Pure.

A coarsened record stands for consecutive numbers of its stream, so that a log with one in it still
has a place for every number. It keeps, of each value of each series, how often it was seen, the
least, the mean and the most; what is no number is left out. Coarsening again adds these up.
"""

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

COARSE = "coarse"
GAP = "gap"
_DIGITS = 6
Stats = tuple[float, float, float, float]
"""How many, least, sum, most."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of a log: its first number, how many numbers it stands for, ``{at,kind,body}``."""

    first: int
    span: int
    record: Mapping[str, Any]

    @property
    def upto(self) -> int:
        """The last number it stands for."""
        return self.first + self.span - 1


def whole_windows(entries: Sequence[Entry], every_s: int) -> list[list[Entry]]:
    """Part consecutive records by the windows of ``every_s`` seconds that they began in.

    The last window may go on in what follows, so it is left out, unless there is no other.
    """
    windows = [list(found) for _, found in groupby(entries, lambda e: _window(e, every_s))]
    return windows[:-1] or windows


def coarsen(window: Sequence[Entry], every_s: int) -> Entry:
    """Return one record for consecutive ones; a gap among them stays counted as missing."""
    series: dict[str, dict[str, Stats]] = {}
    missing = 0
    for entry in window:
        if entry.record.get("kind") == GAP:
            missing += entry.span
        for name, values in _series(entry.record):
            known = series.setdefault(name, {})
            for key, stats in values:
                known[key] = _added(known[key], stats) if key in known else stats
    first, last = window[0], window[-1]
    body: dict[str, Any] = {
        "every_s": every_s,
        "until": _until(last.record),
        "series": {n: {k: _written(s) for k, s in v.items()} for n, v in series.items()},
    }
    if missing:
        body["missing"] = missing
    span = last.upto - first.first + 1
    return Entry(first.first, span, {"at": first.record.get("at"), "kind": COARSE, "body": body})


def gap(first: int, upto: int, at: str) -> Entry:
    """Return the record that says that a budget dropped these numbers; ``at`` is the first's."""
    span = upto - first + 1
    return Entry(first, span, {"at": at, "kind": GAP, "body": {"why": "budget", "records": span}})


def _window(entry: Entry, every_s: int) -> int:
    """Return the number of the window; a time that makes no sense is in none of them."""
    try:
        moment = datetime.datetime.fromisoformat(str(entry.record.get("at")))
        return int(moment.timestamp() // every_s)
    except (ValueError, OverflowError):
        return -(2**62)


def _until(record: Mapping[str, Any]) -> Any:
    body = record.get("body")
    known = body.get("until") if record.get("kind") == COARSE and isinstance(body, dict) else None
    return known or record.get("at")


def _series(record: Mapping[str, Any]) -> Iterator[tuple[str, Iterable[tuple[str, Stats]]]]:
    body = record.get("body")
    if not isinstance(body, dict) or record.get("kind") == GAP:
        return
    if record.get("kind") == COARSE:
        for name, values in body["series"].items():
            yield name, ((key, _read(value)) for key, value in values.items())
        return
    kind, which = str(record.get("kind")), body.get("id")
    name = kind if which is None else f"{kind}/{which}"
    yield name, ((k, (1, v, v, v)) for k, v in body.items() if type(v) is int or type(v) is float)


def _added(one: Stats, other: Stats) -> Stats:
    return (
        one[0] + other[0],
        min(one[1], other[1]),
        one[2] + other[2],
        max(one[3], other[3]),
    )


def _written(stats: Stats) -> list[float]:
    """Return count, least, mean, most."""
    count, least, total, most = stats
    return [count, least, _short(total / count), most]


def _read(value: Sequence[float]) -> Stats:
    count, least, mean, most = value
    return (count, least, mean * count, most)


def _short(number: float) -> float:
    """Return the number to six digits, whole when it is."""
    short = float(f"{number:.{_DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 2**53 else short
