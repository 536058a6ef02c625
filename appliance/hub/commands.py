"""Commands at the hub: signed once, with a counter that never goes back; how each ended.

An envelope is kept and published again, until it expires, to a node that has not said how it
ended: the node carries out each counter at most once.
"""

import asyncio
import datetime
import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from appliance.core import commands as words
from appliance.core import wire
from appliance.core.commands import ENDED, State, Verb
from appliance.core.ids import NodeId
from appliance.errors import MalformedError, ScopeError, UsageError
from appliance.hub import store
from appliance.hub.identity import HubIdentity
from appliance.hub.store import NodeRow
from appliance.kit.clock import Clock, parse_rfc3339, rfc3339
from appliance.kit.commit import GroupCommit
from appliance.ledger.streams import Stream
from appliance.sync.mqtt import Message
from appliance.sync.topics import NodeTopics
from appliance.trust.envelope import Addressee, Slot, accept, check_expiry, seal, whole
from appliance.trust.floor import Now

_LONGEST_S = 30 * 86400.0
_MOST_SHOWN = 100
_COLUMNS = "counter, verb, args, issued, expires, state, why, outcome, heard_at, envelope"


@dataclass(frozen=True, slots=True)
class Issued:
    """One command of one node. ``outcome`` is what the node signed of its end."""

    id: str
    verb: str
    args: dict[str, Any]
    issued: str
    expires: str
    state: str
    why: str
    heard_at: str | None
    result: dict[str, Any]

    def to_wire(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


class CommandDesk:
    """Issues commands, and takes in how they ended: the hub's desk for ``outcome``."""

    def __init__(self, identity: HubIdentity, db: GroupCommit, clock: Clock) -> None:
        self._identity = identity
        self._db = db
        self._clock = clock

    async def issue(
        self, name: str, verb: str, args: Mapping[str, Any], *, lifetime_s: float
    ) -> Issued:
        """Sign a command for a node and keep it; publishing it is the service's matter.

        Args:
            name: The node.
            verb: One of ``core.commands.Verb``.
            args: Its arguments.
            lifetime_s: Seconds after which the node refuses it.

        Raises:
            NotFoundError: the node was never admitted.
            RevokedError: it was revoked.
            UsageError: it never reported, or what is commanded makes no sense.
        """
        row = self._db.read(lambda db: store.standing(db, name))
        if row.db_epoch is None:
            raise UsageError(f"{name} has not reported yet, so nothing can be addressed to it")
        if not 1 <= lifetime_s <= _LONGEST_S:
            raise UsageError("a command expires after 1 second to 30 days")
        try:
            found, given = words.check(verb, dict(args), frozenset(Verb))
        except MalformedError as error:
            raise UsageError(error.what) from error
        now = self._clock.utc()
        life = datetime.timedelta(seconds=lifetime_s)
        to = Addressee(self._identity.org, row.node, row.key, row.db_epoch)

        def effect(db: sqlite3.Connection) -> int:
            store.standing(db, name)
            counter = _next_counter(db, row)
            body = {
                "directorEpoch": self._identity.director_epoch,
                "counter": counter, "verb": found, "args": dict(given), **_nonce(row),
            }  # fmt: skip
            key = self._identity.director
            envelope = seal(Slot.COMMAND, to, body, key, issued=now, lifetime=life)
            db.execute(
                "INSERT INTO commands (node, counter, epoch, verb, args, issued, expires, state,"
                " why, envelope) VALUES (?, ?, ?, ?, ?, ?, ?, ?, '', ?)",
                (name, counter, to.db_epoch, found, wire.dumps(dict(given)).decode(),
                 rfc3339(now), rfc3339(now + life), State.WAITING, envelope),
            )  # fmt: skip
            return counter

        counter = await asyncio.wrap_future(self._db.submit(effect))
        return next(c for c in self.listed(name) if c.id == str(counter))

    def messages(self, row: NodeRow) -> Iterable[Message]:
        """Return the commands that a node has not answered and that have not expired."""
        found = self.waiting(row)
        topics = NodeTopics(NodeId(row.node))
        return [
            Message(topics.command(name), envelope, expires_s=left)
            for name, envelope, left in found
        ]

    def waiting(self, row: NodeRow) -> list[tuple[str, bytes, int]]:
        """Return id, envelope and remaining seconds of each; for a stick as for the broker."""
        now = self._clock.utc()
        found = self._db.read(
            lambda db: db.execute(
                "SELECT counter, envelope, expires FROM commands WHERE node = ? AND epoch IS ?"
                " AND state = ? AND expires > ? ORDER BY counter",
                (row.node, row.db_epoch, State.WAITING, rfc3339(now)),
            ).fetchall()
        )
        return [
            (str(counter), bytes(data), int((parse_rfc3339(expires) - now).total_seconds()) + 1)
            for counter, data, expires in found
        ]

    async def take(self, row: NodeRow, name: str | None, payload: bytes) -> bool:
        """Take in how a command ended; the first end counts, but for a refusal.

        Returns:
            Whether it counted.

        Raises:
            RefusedError: it is not the node's, or malformed.
        """
        at = self._clock.utc()
        expected = {"org": self._identity.org, "node": row.node, "nodeKey": row.key}
        accepted = accept(payload, Slot.OUTCOME, {row.key}, expected)
        check_expiry(accepted, Now(at, proven=True))
        found = accepted.payload
        counter, state, why = whole(found, "counter"), found.get("state"), found.get("why")
        if name is not None and name != str(counter):
            raise ScopeError(f"the outcome of command {counter} came as that of {name[:20]!r}")
        if state not in ENDED or not isinstance(why, str):
            raise MalformedError(f"the outcome of command {counter} does not say how it ended")
        if not isinstance(found.get("result"), dict):
            raise MalformedError(f"the outcome of command {counter} has no result")
        text = wire.dumps(found["result"]).decode()

        def effect(db: sqlite3.Connection) -> bool:
            done = db.execute(
                "UPDATE commands SET state = ?, why = ?, outcome = ?, heard_at = ?"
                " WHERE node = ? AND counter = ? AND (state = ? OR (state = ? AND ? != ?))",
                (state, why, text, rfc3339(at), row.node, counter,
                 State.WAITING, State.REFUSED, state, State.REFUSED),
            )  # fmt: skip
            return done.rowcount > 0

        return await asyncio.wrap_future(self._db.submit(effect))

    def listed(self, name: str) -> list[Issued]:
        """Return the newest commands of a node, newest first.

        Raises:
            NotFoundError: the node was never admitted.
        """
        now = rfc3339(self._clock.utc())

        def query(db: sqlite3.Connection) -> list[Issued]:
            store.node(db, name)
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM commands WHERE node = ?"  # noqa: S608 - our own text
                " ORDER BY counter DESC LIMIT ?",
                (name, _MOST_SHOWN),
            )
            found = [dict(row) for row in rows]
            late = [r for r in found if r["state"] == State.WAITING and r["expires"] <= now]
            told = _of_the_audit(db, name) if late else {}
            return [_issued(row, now, told.get(str(row["counter"]))) for row in found]

        return self._db.read(query)


def _of_the_audit(db: sqlite3.Connection, name: str) -> dict[str, dict[str, Any]]:
    """Return what a node's audit records say of commands, by id, the newest of each."""
    rows = db.execute(
        "SELECT record FROM records WHERE node = ? AND stream = ? AND"
        " (instr(record, ?) OR instr(record, ?)) ORDER BY epoch, seq",
        (name, Stream.AUDIT, '"kind":"command-started"', '"kind":"command-ended"'),
    )
    bodies = (json.loads(row[0])["body"] for row in rows)
    return {str(body.get("id")): body for body in bodies if isinstance(body, dict)}


def _issued(row: Mapping[str, Any], now: str, told: Mapping[str, Any] | None) -> Issued:
    state, why = row["state"], row["why"]
    if told is not None and state == State.WAITING:
        state = str(told.get("state", State.STARTED))
        why = f"{told.get('why') or 'so its audit says'}; what it returned has not come"
    elif state == State.WAITING and row["expires"] <= now:
        why = "it has expired; the node did not say that it began"
        state = "expired"
    return Issued(
        id=str(row["counter"]),
        verb=row["verb"],
        args=json.loads(row["args"]),
        issued=row["issued"],
        expires=row["expires"],
        state=state,
        why=why,
        heard_at=row["heard_at"],
        result={} if row["outcome"] is None else json.loads(row["outcome"]),
    )


def _next_counter(db: sqlite3.Connection, row: NodeRow) -> int:
    """Return a counter above all that this hub gave out, and above what the node has seen.

    The second matters to a hub that was restored from a backup, or that replaces another.
    """
    known = "SELECT coalesce(max(counter), 0) FROM commands WHERE node = ?"
    (given,) = db.execute(known, (row.node,)).fetchone()
    seen = _reported(row).get("counter")
    is_number = isinstance(seen, int) and not isinstance(seen, bool)
    return int(max(given, seen if is_number else 0)) + 1


def _nonce(row: NodeRow) -> dict[str, str]:
    found = _reported(row).get("nonce")
    return {"nonce": found} if isinstance(found, str) else {}


def _reported(row: NodeRow) -> dict[str, Any]:
    found = (row.reported or {}).get("commands")
    return found if isinstance(found, dict) else {}
