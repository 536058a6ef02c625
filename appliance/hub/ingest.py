"""Committing batches, many in one transaction.

Every statement here covers many batches: after each step of each statement a busy hub's other
threads have Python's lock, so that statement after statement would wait most of the time.
``json_each`` is how many rows come from one parameter, and how many go back in one row.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from appliance.core import wire
from appliance.errors import EquivocationError
from appliance.hub import resume
from appliance.sync.batch import Batch

_MANY = 32
"""Batches whose records one statement takes."""
_RECORDS = "SELECT ?, ?, ?, ? + key, value, 1 FROM json_each(?, '$.records')"

Where = tuple[str, str, str]
"""Node, epoch and stream: what numbers its records for itself."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A verified batch, ready to be committed: its records stand in the JSON ``text``.

    If ``spans`` is true, an entry of the list is ``[number, span, record]``, else the record.
    """

    where: Where
    first: int
    upto: int
    previous: str
    hash: str
    text: str
    spans: bool


@dataclass(slots=True)
class Ingested:
    """What became of the parcels, by their place in the group; the rest came too early."""

    new: list[int] = field(default_factory=list)
    known: list[int] = field(default_factory=list)
    refused: dict[int, EquivocationError] = field(default_factory=dict)


def parcel(node: str, batch: Batch) -> Parcel:
    """Return what ``ingest_all`` takes of a batch. Pure."""
    upto = batch.upto
    spans = upto - batch.first + 1 != len(batch.records)
    return Parcel(
        where=(node, batch.epoch, batch.stream),
        first=batch.first,
        upto=upto,
        previous=batch.previous,
        hash=batch.hash,
        text=_text(batch, spans=spans),
        spans=spans,
    )


def _text(batch: Batch, *, spans: bool) -> str:
    if batch.text and not spans:
        return batch.text
    records = list(batch.numbered()) if spans else batch.records
    return wire.dumps({"records": records}).decode()


def ingest(db: sqlite3.Connection, name: str, batch: Batch, at: str) -> bool:
    """Commit a batch if it is the next one of its stream; return whether it was.

    Raises:
        EquivocationError: it does not continue what was committed.
    """
    found = ingest_all(db, [parcel(name, batch)], at)
    for error in found.refused.values():
        raise error
    return bool(found.new)


def ingest_all(db: sqlite3.Connection, parcels: Sequence[Parcel], at: str) -> Ingested:
    """Commit, in the order given, each batch that is the next one of its stream.

    A batch that was committed before is a repetition, and one that comes too early will come
    again: neither changes anything. When a node was last heard is said by its reports alone, for
    anybody who has a batch can hold it back or repeat it.
    """
    found = Ingested()
    stand = _positions(db, {p.where for p in parcels})
    moved: dict[Where, tuple[int, str]] = {}
    repeated: list[int] = []
    for place, each in enumerate(parcels):
        upto, previous = moved.get(each.where) or stand.get(each.where, (0, ""))
        if each.first > upto + 1:
            continue
        if each.first <= upto:
            repeated.append(place)
        elif each.previous != previous:
            found.refused[place] = _breaks_off(each)
        else:
            moved[each.where] = (each.upto, each.hash)
            found.new.append(place)
    _write(db, [parcels[place] for place in found.new], moved, at)
    known = _hashes(db, [parcels[place] for place in repeated])
    for place in repeated:
        each = parcels[place]
        there = known.get((*each.where, each.first))
        if there == each.hash:
            found.known.append(place)
        elif not there and resume.fill(db, each.where, (each.first, each.upto), at):
            _write(db, [each], {}, at)
            found.new.append(place)
        else:
            found.refused[place] = _two_of_one(each)
    return found


def _write(
    db: sqlite3.Connection,
    fresh: Sequence[Parcel],
    moved: dict[Where, tuple[int, str]],
    at: str,
) -> None:
    if not fresh:
        return
    db.execute(
        f"INSERT INTO batches SELECT {_fields(6)}, ? FROM json_each(?)",  # noqa: S608 - constants
        (at, _json([*p.where, p.first, p.upto - p.first + 1, p.hash] for p in fresh)),
    )
    for several in _bundles([p for p in fresh if not p.spans]):
        db.execute(
            "INSERT INTO records " + " UNION ALL ".join([_RECORDS] * len(several)),
            [value for p in several for value in (*p.where, p.first, p.text)],
        )
    for each in fresh:
        if each.spans:
            db.execute(
                "INSERT INTO records SELECT ?, ?, ?, json_extract(value, '$[0]'),"
                " json_extract(value, '$[2]'), json_extract(value, '$[1]')"
                " FROM json_each(?, '$.records')",
                (*each.where, each.text),
            )
    db.execute(
        f"INSERT INTO positions SELECT {_fields(5)} FROM json_each(?) WHERE true"  # noqa: S608 - our own text
        " ON CONFLICT DO UPDATE SET upto = excluded.upto, hash = excluded.hash",
        (_json([*where, *stands] for where, stands in moved.items()),),
    )


def _bundles(parcels: Sequence[Parcel]) -> Iterator[Sequence[Parcel]]:
    """Yield parcels in bundles of few sizes, so that few statements are ever compiled."""
    at = 0
    for size in (_MANY, _MANY // 4, 1):
        while len(parcels) - at >= size:
            yield parcels[at : at + size]
            at += size


def _positions(db: sqlite3.Connection, wanted: Iterable[Where]) -> dict[Where, tuple[int, str]]:
    (text,) = db.execute(
        "SELECT json_group_array(json_array(p.node, p.epoch, p.stream, p.upto, p.hash))"
        " FROM json_each(?) AS w CROSS JOIN positions AS p"
        " ON p.node = json_extract(w.value, '$[0]') AND p.epoch = json_extract(w.value, '$[1]')"
        " AND p.stream = json_extract(w.value, '$[2]')",
        (_json(wanted),),
    ).fetchone()
    return {(node, epoch, stream): (u, h) for node, epoch, stream, u, h in json.loads(text)}


def _hashes(
    db: sqlite3.Connection, parcels: Sequence[Parcel]
) -> dict[tuple[str, str, str, int], str]:
    if not parcels:
        return {}
    (text,) = db.execute(
        "SELECT json_group_array(json_array(b.node, b.epoch, b.stream, b.first, b.hash))"
        " FROM json_each(?) AS w CROSS JOIN batches AS b"
        " ON b.node = json_extract(w.value, '$[0]') AND b.epoch = json_extract(w.value, '$[1]')"
        " AND b.stream = json_extract(w.value, '$[2]') AND b.first = json_extract(w.value, '$[3]')",
        (_json([*p.where, p.first] for p in parcels),),
    ).fetchone()
    return {(n, e, s, first): digest for n, e, s, first, digest in json.loads(text)}


def _fields(count: int) -> str:
    return ", ".join(f"json_extract(value, '$[{n}]')" for n in range(count))


def _json(values: Iterable[Sequence[Any]]) -> str:
    return wire.dumps([list(value) for value in values]).decode()


def _breaks_off(found: Parcel) -> EquivocationError:
    node, _, stream = found.where
    return EquivocationError(
        f"{node}: batch {found.first} of {stream} does not follow what was committed"
    )


def _two_of_one(found: Parcel) -> EquivocationError:
    node, _, stream = found.where
    return EquivocationError(
        f"{node}: two different batches call themselves {found.first} of {stream}"
    )
