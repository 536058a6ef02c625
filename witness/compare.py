"""Compares what a node wrote with what a hub has: nothing lost, nothing twice, nothing swapped.

It shares no code with what it judges: SQLite, JSON and SHA-256 of the standard library are all it
uses. It reads

* ``hub.db``: every record that was committed, by node, epoch, stream and number;
* each node's ``node.db``: how many records each stream ever had, which of them still wait, how far
  the hub has acknowledged, and the head of the audit chain;
* journals: what those who made the records say that they made, one JSON object a line.

A line of a journal names ``node`` and ``stream``, and then one of two:

  seq, sha256              the record of this number is this one
  id, source, sha256, phase
                           a record whose body has this id. ``try``: it may be there, as one of
                           the contents in the list ``sha256``; ``sure``: it must be there, as one
                           of the list, of which an empty one allows any. The last line about
                           an id counts. Those of one ``source``
                           must have kept its order, unless they are of the tail of ``try``'s list

``sha256`` is over the canonical JSON (sorted keys, no spaces, UTF-8) of ``{at, body, kind}``.

  compare.py --hub hub.db [--journal FILE]... [--pending STREAM]... NAME=node.db...

prints one JSON object and ends with 0 when nothing was found, with 1 when something was. Records
that a node still has are no finding in the streams named by ``--pending``.
"""

import argparse
import hashlib
import json
import sqlite3
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

NEVER_DROPPED = ("audit", "receipts", "usage")
STANDS_FOR_MANY = ("coarse", "gap")
MOST_FINDINGS = 50
Where = tuple[str, str]  # a node and one of its streams


@dataclass
class Verdict:
    """What was counted, and what is wrong; ``counts`` has one entry a kind of finding."""

    findings: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    streams: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def found(self, what: str, text: str, many: int = 1) -> None:
        self.counts[what] += many
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(f"{what}: {text}")

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": not self.counts,
            **{what: self.counts[what] for what in ("lost", "doubled", "swapped", "invented")},
            "counts": dict(self.counts),
            "streams": {name: dict(found) for name, found in sorted(self.streams.items())},
            "findings": self.findings,
        }


@dataclass(frozen=True, slots=True)
class Record:
    """What is asked of one stored record; ``sha256`` is of its own content, also if omitted."""

    seq: int
    span: int
    kind: str
    sha256: str
    id: str | None
    told: object

    @property
    def after(self) -> int:
        return self.seq + self.span

    @property
    def is_many(self) -> bool:
        return self.kind in STANDS_FOR_MANY


@dataclass(frozen=True)
class Stream:
    """One stream as its node's ledger has it; ``held`` is what it still has, in order."""

    written: int
    acked_upto: int
    acked_hash: str
    held: list[tuple[int, int]]


@dataclass
class Journal:
    """What was made, by who made it."""

    numbered: dict[Where, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    tried: dict[Where, dict[str, "Tried"]] = field(default_factory=lambda: defaultdict(dict))


@dataclass(slots=True)
class Tried:
    """A record by its id; ``order`` is its place within its source."""

    source: str
    may_be: list[str]
    sure: list[str] | None = None
    order: int = 0


def digest(content: dict[str, Any]) -> str:
    """Return the SHA-256 of a record's canonical JSON."""
    return hashlib.sha256(canonical(content)).hexdigest()


def canonical(content: dict[str, Any]) -> bytes:
    """Return what stands for a record in journals and in the audit chain."""
    plain = {name: content.get(name) for name in ("at", "body", "kind")}
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def opened(path: Path) -> sqlite3.Connection:
    """Open a database that nobody may change through this connection."""
    if not path.is_file():
        raise SystemExit(f"there is no {path}")
    db = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=30)
    db.row_factory = sqlite3.Row
    return db


def record_of(row: sqlite3.Row) -> Record:
    """Return a row of ``records`` or ``outbox``; the span is a column of its own or in the JSON.

    One that fitted into no envelope gave way to a note of its SHA-256; that counts as its content.
    """
    content = json.loads(row["record"])
    body = content.get("body") if isinstance(content.get("body"), dict) else {}
    column = row["span"] if "span" in row.keys() else 1  # noqa: SIM118 - a row has no `in`
    omitted = body.get("omitted") if len(body) == 1 else None
    return Record(
        seq=int(row["seq"]),
        span=max(int(column), int(content.get("span", 1))),
        kind=str(content.get("kind")),
        sha256=str(omitted["sha256"]) if isinstance(omitted, dict) else digest(content),
        id=body.get("id"),
        told=body.get("records"),
    )


def at_node(db: sqlite3.Connection) -> dict[str, Stream]:
    """Return every stream of a node's ledger."""
    found = {}
    for row in db.execute("SELECT * FROM streams").fetchall():
        name = row["stream"]
        batches = db.execute(
            "SELECT first, count FROM batches WHERE stream = ? ORDER BY first", (name,)
        ).fetchall()
        waiting = db.execute("SELECT * FROM outbox WHERE stream = ? ORDER BY seq", (name,))
        held = [(int(b["first"]), int(b["count"])) for b in batches]
        held += [(r.seq, r.span) for r in map(record_of, waiting)]
        found[name] = Stream(
            int(row["next_seq"]) - 1, int(row["acked_upto"]), str(row["acked_hash"]), held
        )
    return found


def read_journals(paths: Iterable[Path]) -> Journal:
    """Return all that the journals say; a last line that was cut is passed over."""
    journal, orders = Journal(), Counter[tuple[Where, str]]()
    for path in paths:
        for text in path.read_text().splitlines(keepends=True):
            if not text.endswith("\n"):
                continue
            line = json.loads(text)
            where = (line["node"], line["stream"])
            if "seq" in line:
                journal.numbered[where][int(line["seq"])] = line["sha256"]
                continue
            source, made = str(line["source"]), journal.tried[where]
            if line["id"] not in made:
                orders[where, source] += 1
                made[line["id"]] = Tried(sys.intern(source), [], order=orders[where, source])
            if line["phase"] == "sure":
                made[line["id"]].sure = line["sha256"]
            else:
                made[line["id"]].may_be = line["sha256"]
    return journal


class Comparer:
    """One hub, and any number of nodes."""

    def __init__(self, hub: sqlite3.Connection, journal: Journal, pending: Iterable[str]) -> None:
        self.verdict = Verdict()
        self._hub = hub
        self._journal = journal
        self._pending = set(pending)

    def node(self, name: str, db: sqlite3.Connection) -> None:
        """Judge one node."""
        meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
        epoch, streams = meta["epoch"], at_node(db)
        query = "SELECT DISTINCT stream FROM records WHERE node = ? AND epoch = ?"
        known = {row[0] for row in self._hub.execute(query, (name, epoch))}
        for stream in sorted(known | set(streams)):
            where = (name, stream)
            query = "SELECT * FROM records WHERE node = ? AND epoch = ? AND stream = ? ORDER BY seq"
            found = [record_of(row) for row in self._hub.execute(query, (name, epoch, stream))]
            ledger = streams.get(stream, Stream(0, 0, "", []))
            arrived = self._covered(where, found, ledger)
            self._kinds(where, found)
            self._batches(where, epoch, ledger, arrived)
            self._numbered(where, found, ledger)
            self._count(stream, found, ledger.written - arrived)
            if stream == "audit" and "audit-head" in meta and arrived == ledger.written:
                self._chain(where, found, meta)
        for where in self._journal.tried:
            if where[0] == name:
                self._tried(where, epoch, streams.get(where[1]))

    def _covered(self, where: Where, found: list[Record], ledger: Stream) -> int:
        """Judge that every number is there once; return the last that the hub has."""
        expected = 1
        for record in found:
            if record.seq > expected:
                text = f"{where} {expected} to {record.seq - 1}"
                self.verdict.found("lost", text, record.seq - expected)
            elif record.seq < expected:
                self.verdict.found("doubled", f"{where} {record.seq}", expected - record.seq)
            expected = max(expected, record.after)
        arrived = expected - 1
        if arrived > ledger.written:
            text = f"{where} has {arrived} records at the hub, {ledger.written} were written"
            self.verdict.found("invented", text, arrived - ledger.written)
        for first, count in ledger.held:
            if first > expected:
                self.verdict.found("lost", f"{where} {expected} to {first - 1}", first - expected)
            expected = max(expected, first + count)
        if expected <= ledger.written:
            missing = ledger.written + 1 - expected
            self.verdict.found("lost", f"{where} {expected} to {ledger.written}", missing)
        elif arrived < ledger.written and where[1] not in self._pending:
            text = f"{where} {arrived + 1} to {ledger.written} are still at the node"
            self.verdict.found("pending", text, ledger.written - arrived)
        return arrived

    def _kinds(self, where: Where, found: list[Record]) -> None:
        """Judge that what stands for many says so, and is where that is allowed."""
        for record in found:
            if record.span > 1 and not record.is_many:
                text = f"{where} {record.seq} stands for {record.span} and is {record.kind!r}"
                self.verdict.found("lost", text, record.span - 1)
            if record.is_many and where[1] in NEVER_DROPPED:
                text = f"{where} {record.seq} is {record.kind!r} in a stream that never drops"
                self.verdict.found("lost", text, record.span)
            if record.kind == "gap" and record.told != record.span:
                text = f"{where} {record.seq} stands for {record.span} and says {record.told}"
                self.verdict.found("lost", text)

    def _batches(self, where: Where, epoch: str, ledger: Stream, arrived: int) -> None:
        """Judge that the batches tile the stream, and that the node was told of one of them."""
        rows = self._hub.execute(
            "SELECT first, count, hash FROM batches WHERE node = ? AND epoch = ? AND stream = ?"
            " ORDER BY first",
            (where[0], epoch, where[1]),
        ).fetchall()
        expected, ends = 1, {0: ""}
        for row in rows:
            if row["first"] != expected:
                text = f"{where} has a batch from {row['first']}, not from {expected}"
                self.verdict.found("batches", text)
            expected = row["first"] + row["count"]
            ends[expected - 1] = row["hash"]
        if expected - 1 != arrived:
            text = f"{where} has batches up to {expected - 1} and records up to {arrived}"
            self.verdict.found("batches", text)
        if ends.get(ledger.acked_upto) != ledger.acked_hash:
            text = f"{where} was acknowledged up to {ledger.acked_upto}, which the hub has not"
            self.verdict.found("lost", text)

    def _numbered(self, where: Where, found: list[Record], ledger: Stream) -> None:
        """Judge that each number holds what its maker put there."""
        made = self._journal.numbered.get(where)
        if made is None:
            return
        places = {content: seq for seq, content in made.items()}
        for record in found:
            if record.is_many or made.get(record.seq) == record.sha256:
                continue
            if record.seq not in made and where[1] == "audit":
                continue  # the node writes some of these itself, and the chain vouches for all
            if record.sha256 in places:
                text = f"{where} {record.seq} holds what was written as {places[record.sha256]}"
                self.verdict.found("swapped", text)
            else:
                self.verdict.found("invented", f"{where} {record.seq} is not what was written")
        if made and max(made) > ledger.written:
            text = f"{where} {ledger.written + 1} to {max(made)} are not in the ledger"
            self.verdict.found("lost", text, max(made) - ledger.written)

    def _tried(self, where: Where, epoch: str, ledger: Stream | None) -> None:
        """Judge by ids, over all ledgers that the node ever had."""
        made = self._journal.tried[where]
        seen: dict[str, int] = {}
        last: dict[str, int] = {}
        rows = self._hub.execute(
            "SELECT * FROM records WHERE node = ? AND stream = ? ORDER BY epoch = ?, epoch, seq",
            (*where, epoch),
        )
        for record in map(record_of, rows):
            name = str(record.id)
            if where[1] == "audit" and name not in made:
                continue  # the node says much there of itself
            if name in seen:
                text = f"{where} {record.seq} has the id of {seen[name]}"
                self.verdict.found("doubled", text)
                continue
            seen[name] = record.seq
            if (one := made.get(name)) is None:
                self.verdict.found("invented", f"{where} {record.seq}: nobody made {name!r}")
            else:
                self._content(where, record, one, last)
        waits = ledger is not None and bool(ledger.held) and where[1] in self._pending
        for name, one in made.items():
            if one.sure is not None and name not in seen and not waits:
                self.verdict.found("lost", f"{where} {name} of {one.source} is not at the hub")

    def _content(self, where: Where, record: Record, one: Tried, last: dict[str, int]) -> None:
        allowed = one.may_be if one.sure is None else one.sure
        if allowed and record.sha256 not in allowed:
            self.verdict.found("swapped", f"{where} {record.seq} is not what its maker wrote")
        elif record.sha256 not in one.may_be[1:]:  # the others stand where their source was cut
            if one.order < last.get(one.source, 0):
                text = f"{where} {record.seq} comes after a later one of {one.source}"
                self.verdict.found("swapped", text)
            last[one.source] = max(last.get(one.source, 0), one.order)

    def _chain(self, where: Where, found: list[Record], meta: dict[str, str]) -> None:
        """Judge the audit stream by the chain's newest head, from the chain's beginning on."""
        start, _, begun = meta.get("audit-start", f"0:{'0' * 64}").partition(":")
        seq, _, head = meta["audit-head"].partition(":")
        linked = bytes.fromhex(begun)
        for record in found:
            if record.seq <= int(start):
                continue
            linked = hashlib.sha256(linked + bytes.fromhex(record.sha256)).digest()
        if linked.hex() != head:
            text = f"{where}: its {seq} records are not those that the node's ledger linked"
            self.verdict.found("swapped", text)

    def _count(self, stream: str, found: list[Record], pending: int) -> None:
        count = self.verdict.streams[stream]
        count["records"] += len(found)
        count["stood for"] += sum(r.span for r in found)
        count["pending"] += max(pending, 0)
        for record in found:
            if record.is_many:
                count[record.kind] += 1
                count[f"in {record.kind}"] += record.span


def compare(
    hub: Path, nodes: dict[str, Path], journals: Iterable[Path], pending: Iterable[str] = ()
) -> Verdict:
    """Return what is wrong between a hub and these nodes."""
    with closing(opened(hub)) as hub_db:
        comparer = Comparer(hub_db, read_journals(journals), pending)
        for name, path in nodes.items():
            with closing(opened(path)) as db:
                comparer.node(name, db)
        for (name,) in hub_db.execute("SELECT DISTINCT node FROM records"):
            if name not in nodes:
                comparer.verdict.found("invented", f"records of {name}, which was not named")
    return comparer.verdict


def main() -> int:
    """Compare, print, and say by the exit status whether all is well."""
    parser = argparse.ArgumentParser(description="Compare a hub's records with its nodes'.")
    parser.add_argument("--hub", type=Path, required=True, help="the hub's hub.db")
    parser.add_argument("--journal", type=Path, action="append", default=[])
    parser.add_argument("--pending", action="append", default=[], help="may still be at the node")
    parser.add_argument("nodes", nargs="+", metavar="NAME=node.db")
    found = parser.parse_args()
    nodes = {name: Path(path) for name, _, path in (n.partition("=") for n in found.nodes)}
    verdict = compare(found.hub, nodes, found.journal, found.pending)
    print(json.dumps(verdict.to_json(), indent=1))
    return 1 if verdict.counts else 0


if __name__ == "__main__":
    sys.exit(main())
