"""Making the node's receipts: one for each import, refusal and activation, signed and chained.

A receipt is made in the ledger transaction of what it reports, so the two are there together or
not at all. It also goes to the outbox, so the hub gets it by whichever road is open first.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from appliance.bundle.format import courier
from appliance.core import wire
from appliance.core.ids import Digest, NodeId
from appliance.errors import NotFoundError
from appliance.kit.clock import Clock, rfc3339
from appliance.ledger import chain, meta, receipts, streams
from appliance.ledger.db import Ledger
from appliance.ledger.receipts import ReceiptRow
from appliance.ledger.streams import Fact, Stream
from appliance.trust import floor, receipt
from appliance.trust.keys import Signer
from appliance.trust.receipt import EXPORTED, Event, Kind
from appliance.trust.store import TrustStore

_PART = 32 << 10
"""An envelope travels in pieces that fit into any batch, so that a large store loses no receipt."""

_STATE = ("metadata", "store", "floor", "nonce", "audit")
"""The parts of a receipt that say how things are. While they hold, no newer receipt is needed."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What lies on the stick now. ``head`` is that of the newest receipt, for the shift book."""

    node: str
    written: int
    receipts: int
    upto: int
    head: str


class ReceiptBook:
    """The receipts of one node."""

    def __init__(
        self, node: NodeId, key: Signer, ledger: Ledger, trust: TrustStore, clock: Clock,
        held: Callable[[], Sequence[Digest]],
    ) -> None:  # fmt: skip
        """``held`` returns the digests of all blobs in the store, sorted."""
        self._node = node
        self._key = key
        self._ledger = ledger
        self._trust = trust
        self._clock = clock
        self._held = held

    def make(self, db: sqlite3.Connection, event: Event) -> int | None:
        """Make the next receipt inside the transaction of what it reports.

        Append the audit record first (``streams.append``), so that the head it signs covers it.

        Returns:
            Its number. None for a refusal that is one too many; the next receipt counts it.
        """
        about = wire.dumps(event.to_wire()).decode()
        if event.kind is Kind.REFUSAL and not receipts.may_refuse(db, about):
            return None
        last = receipts.newest(db)
        seq = 1 if last is None else last.seq + 1
        director = self._trust.director()
        now = floor.now(meta.floor(db), self._clock.utc())
        payload = {
            "org": None if director is None else director.org,
            "node": self._node,
            "nodeKey": self._key.public,
            "dbEpoch": self._ledger.epoch,
            "seq": seq,
            "previous": "" if last is None else last.hash,
            "issued": rfc3339(now.at),
            "proven": now.proven,
            **event.to_wire(),
            **self._state(db),
            "omitted": receipts.take_omitted(db),
        }
        envelope, digest = receipt.sign(payload, self._key)
        receipts.add(db, ReceiptRow(seq, event.kind, about, digest, envelope))
        for fact in _facts(seq, envelope, payload["issued"]):
            streams.append(db, fact)
        return seq

    def record(self, event: Event, fact: Fact) -> int | None:
        """Note an event that has no other effect in the ledger, with its audit record."""

        def effect(db: sqlite3.Connection) -> int | None:
            streams.append(db, fact)
            return self.make(db, event)

        return self._ledger.record(effect).result()

    def activate(self, deployment: str, model: str, manifest: str) -> int | None:
        """Note that a deployment serves; only another manifest than before makes a receipt."""

        def effect(db: sqlite3.Connection) -> int | None:
            if not receipts.set_active(db, deployment, manifest):
                return None
            body = {"deployment": deployment, "model": model, "manifest": manifest}
            streams.append(db, Fact(Stream.AUDIT, "activated", self._now(), body))
            return self.make(db, receipt.activated(deployment, model, manifest))

        return self._ledger.record(effect).result()

    def export(self, medium: Path, *, reserve: int = 0) -> Exported:
        """Write all receipts to a medium, the newest of them with a nonce that asks for the time.

        When the newest does not say how things are by now, one of kind ``export`` is made first.

        Raises:
            NotFoundError, NoSpaceError, StateUnusableError: as ``courier.write``; no file is left
                half written.
        """
        courier.check_medium(medium)
        self.ask()
        rows = self._ledger.read(receipts.rows)
        files = {f"{self._ledger.epoch}-{row.seq}.json": row.envelope for row in rows}
        folder = courier.receipts_folder(medium, self._node)
        written = courier.write(medium, folder, files, reserve=reserve)
        return Exported(self._node, written, len(rows), rows[-1].seq, rows[-1].hash)

    def ask(self) -> None:
        """Ask the hub for the time: by a receipt with a nonce, which waits in the outbox.

        Raises:
            NoSpaceError, StateUnusableError: it could not be written down.
        """
        self._ledger.record(self._bring_up_to_date).result()

    def all(self) -> list[dict[str, Any]]:
        """Return what each receipt says, without the long list of blobs."""
        return [_summary(row) for row in self._ledger.read(receipts.rows)]

    def one(self, seq: int) -> dict[str, Any]:
        """Return one receipt whole.

        Raises:
            NotFoundError: there is none of this number.
        """
        row = self._ledger.read(lambda db: receipts.one(db, seq))
        if row is None:
            raise NotFoundError(f"no receipt {seq} was made", hint="appliance receipts list")
        envelope = wire.loads(row.envelope, what=f"receipt {seq}")
        return {
            "hash": row.hash,
            "payload": receipt.payload_of(row.envelope),
            "envelope": envelope,
        }

    def _bring_up_to_date(self, db: sqlite3.Connection) -> None:
        receipts.ask_for_time(db)
        last = receipts.newest(db)
        said = {} if last is None else receipt.payload_of(last.envelope)
        if any(said.get(name) != value for name, value in self._state(db).items()):
            self.make(db, EXPORTED)

    def _state(self, db: sqlite3.Connection) -> dict[str, Any]:
        known = meta.floor(db)
        return {
            "metadata": _metadata(self._trust),
            "store": receipt.listed(self._held()),
            "floor": None if known is None else rfc3339(known),
            "nonce": receipts.nonce(db),
            "audit": chain.head(db).to_wire(),
        }

    def _now(self) -> str:
        return rfc3339(self._clock.utc())


def _metadata(trust: TrustStore) -> dict[str, dict[str, Any]]:
    """Return version and hash of each role that is in force."""
    found: dict[str, bytes] = {"root": trust.root()}
    roles = trust.roles()
    for field in () if roles is None else fields(roles):
        value = getattr(roles, field.name)
        if isinstance(value, bytes):
            found[field.name] = value
        elif isinstance(value, Mapping):  # delegated roles, by name
            found.update(value)
    return {name: receipt.role(data) for name, data in sorted(found.items())}


def _facts(seq: int, envelope: bytes, at: str) -> Iterator[Fact]:
    text = envelope.decode()
    parts = [text[n : n + _PART] for n in range(0, len(text), _PART)]
    for number, part in enumerate(parts, start=1):
        body = {"seq": seq, "part": number, "of": len(parts), "text": part}
        yield Fact(Stream.RECEIPTS, "receipt", at, body)


def _summary(row: ReceiptRow) -> dict[str, Any]:
    said = receipt.payload_of(row.envelope)
    names = ("issued", "proven", "kind", "bundle", "outcome", "activated", "nonce", "audit")
    blobs = len(said["store"])
    return {"seq": row.seq, "hash": row.hash, **{n: said[n] for n in names}, "blobs": blobs}
