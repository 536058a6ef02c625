"""Commands of the hub: TRUST's second algorithm for the slot ``dn/cmd/{id}``.

The counter is committed before the effect, so nothing is ever run twice: a node that is killed
between says ``unknown``, and so does one whose ledger was put back. How a command ended is signed
once, kept, and said again at each new connection until the hub has acknowledged the audit stream
that far.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from appliance.core import commands as words
from appliance.core.commands import Command, State, Verb
from appliance.core.ids import NodeId
from appliance.errors import (
    ApplianceError,
    EquivocationError,
    ExpiredError,
    RefusedError,
    ReplayError,
)
from appliance.kit.clock import Clock, rfc3339
from appliance.kit.sparing import Sparing
from appliance.ledger import commands as rows
from appliance.ledger import meta, streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream
from appliance.sync.mqtt import Message
from appliance.sync.topics import NodeTopics
from appliance.trust import envelope, floor
from appliance.trust.documents import Director
from appliance.trust.dsse import MAX_ENVELOPE_BYTES
from appliance.trust.envelope import Accepted, Addressee, Slot
from appliance.trust.keys import Signer
from appliance.trust.store import TrustStore

log = logging.getLogger(__name__)
_MOST_REPEATED = 8
_MOST_HELD = 8
_LONGEST_WHY = 300
_TAKES_S = 600.0
"""An effect that takes longer is given up, and counts as failed."""

Say = Callable[[str, bytes], None]


async def _nothing(command: Command) -> dict[str, Any]:
    raise ApplianceError(f"this node cannot {command.verb}")


@dataclass(frozen=True, slots=True)
class Hands:
    """What carries commands out here, and what this site permits.

    ``do`` returns what is to be told, small enough for an envelope, or raises ApplianceError.
    ``may_begin`` raises while nothing new is begun: on a full disk, or with a full audit budget.
    """

    do: Callable[[Command], Awaitable[dict[str, Any]]] = _nothing
    verbs: str = ", ".join(Verb)
    may_begin: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class _Told:
    """How a command stands, for an outcome."""

    counter: int
    verb: str
    state: State
    why: str = ""
    result: dict[str, Any] | None = None


class CommandInbox:
    """Takes commands, carries out each at most once, and says how it ended."""

    def __init__(
        self, me: Addressee, key: Signer, trust: TrustStore, ledger: Ledger, clock: Clock,
        hands: Hands,
    ) -> None:  # fmt: skip
        self.say: Say = lambda _topic, _payload: None
        """Publishes an outcome now, if there is a link."""
        self._me = me
        self._key = key
        self._trust = trust
        self._ledger = ledger
        self._clock = clock
        self._hands = hands
        self._topics = NodeTopics(NodeId(me.node))
        self._refusals = Sparing()
        self._held: list[bytes] = []
        self._taking, self._turn = asyncio.Lock(), asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def settle(self) -> int:
        """Call ``unknown`` what an earlier run began and did not end; return how many.

        Call it once, before the first command.
        """
        left = self._ledger.read(rows.begun)
        for row in left:
            why = "the node was stopped before it could say how this ended"
            try:
                await self._end(_Told(row.counter, row.verb, State.UNKNOWN, why))
            except ApplianceError as error:  # a full disk: the link must come up all the same
                log.error("could not note how command %d ended: %s", row.counter, error)
        return len(left)

    def greet(self) -> list[Message]:
        """Return the newest outcomes that the hub may not have heard."""
        found = self._ledger.read(lambda db: rows.unheard(db, _MOST_REPEATED))
        return [
            Message(self._topics.outcome(str(r.counter)), r.outcome) for r in found if r.outcome
        ]

    def outcomes(self) -> dict[str, bytes]:
        """Return the same for a stick, by the command's id."""
        found = self._ledger.read(lambda db: rows.unheard(db, _MOST_REPEATED))
        return {str(r.counter): r.outcome for r in found if r.outcome}

    async def idle(self) -> None:
        """Return when everything that was begun has ended."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def look_again(self) -> None:
        """Try what waited for newer metadata once more."""
        held, self._held = self._held, []
        for data in held:
            try:
                await self.command(data)
            except ApplianceError as error:
                log.warning("a command that waited is not carried out (%s): %s", error.code, error)

    async def command(self, data: bytes) -> None:
        """Accept a command and begin it, or raise what stops it.

        Raises:
            RefusedError: with TRUST's code; audited, but sparingly.
            NoSpaceError: nothing new is begun now; the counter is not used up.
        """
        director = self._trust.director()
        if director is None:
            self._hold(data)
            return
        async with self._taking:
            try:
                accepted = envelope.accept(data, Slot.COMMAND, director.keys, self._me.fields())
                await self._judged(data, accepted, director)
            except RefusedError as error:
                await self._note(error)
                raise

    async def _judged(self, data: bytes, accepted: Accepted, director: Director) -> None:
        counter = envelope.whole(accepted.payload, "counter")
        if accepted.payload.get("directorEpoch") == director.epoch:
            await self._follow(director.epoch)
        known = self._ledger.read(lambda db: rows.find(db, counter))
        if known is not None and known.hash == accepted.hash:
            self._repeat(known)  # a repetition does nothing; whoever asks again hears it again
            return
        try:
            if not envelope.check_director_epoch(accepted.payload, director.epoch):
                self._hold(data)
                return
            await self._begin(counter, accepted, director)
        except RefusedError as error:
            verb = str(accepted.payload.get("verb"))[:60]
            told = _Told(counter, verb, State.REFUSED, f"{error.code}: {error.what}"[:_LONGEST_WHY])
            self.say(self._topics.outcome(str(counter)), self._sealed(told))
            raise

    async def _follow(self, epoch: int) -> None:
        """A director named anew counts from the start: a thief may have used up every number."""
        if self._ledger.read(rows.director_epoch) < epoch:
            begin = partial(rows.begin_epoch, epoch=epoch)
            await asyncio.wrap_future(self._ledger.record(begin))

    async def _begin(self, counter: int, accepted: Accepted, director: Director) -> None:
        """Steps 7 to 10, up to the commit; what follows runs by itself, one after the other."""
        payload = accepted.payload
        now = floor.now(self._ledger.read(meta.floor), self._clock.utc())
        envelope.check_expiry(accepted, now)
        if not now.proven:
            _check_nonce(payload.get("nonce"), self._ledger.read(rows.nonce))
        allowed = words.allowed(director.verbs, self._hands.verbs)
        self._ledger.read(lambda db: _check_counter(db, counter))
        verb, args = words.check(payload.get("verb"), payload.get("args"), allowed)
        self._hands.may_begin()
        found, at = Command(counter, verb, args), rfc3339(self._clock.utc())
        body = {"id": found.id, "verb": verb, "args": dict(args), "hash": accepted.hash}

        def effect(db: sqlite3.Connection) -> None:
            _check_counter(db, counter)
            rows.start(db, counter, accepted.hash, verb, at)
            if not now.proven:
                rows.use_nonce(db)

        started = Fact(Stream.AUDIT, "command-started", at, body)
        await asyncio.wrap_future(self._ledger.record(effect, started))
        task = asyncio.create_task(self._carry_out(found), name=f"command {found.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, found: Command) -> None:
        async with self._turn:
            log.info("command %s of the hub: %s", found.id, found.verb)
            try:
                async with asyncio.timeout(_TAKES_S):
                    result = await self._hands.do(found)
                told = _Told(found.counter, found.verb, State.DONE, result=result)
            except ApplianceError as error:
                told = _Told(found.counter, found.verb, State.FAILED, error.what[:_LONGEST_WHY])
            except TimeoutError:
                why = f"it took longer than {_TAKES_S:.0f} s"
                told = _Told(found.counter, found.verb, State.FAILED, why)
            except Exception as error:  # a bug of ours is an end too
                log.exception("command %s failed", found.id)
                why = f"a bug: {type(error).__name__}"
                told = _Told(found.counter, found.verb, State.FAILED, why)
        try:
            await self._end(told)
        except ApplianceError as error:  # a full disk: the next start will call it unknown
            log.error("could not note how command %s ended: %s", found.id, error)

    async def _end(self, told: _Told) -> None:
        """Commit the outcome with its audit record, then say it."""
        outcome, at = self._sealed(told), rfc3339(self._clock.utc())
        body = {"id": str(told.counter), "verb": told.verb, "state": told.state, "why": told.why}

        def effect(db: sqlite3.Connection) -> None:
            seq = streams.append(db, Fact(Stream.AUDIT, "command-ended", at, body))
            rows.end(db, told.counter, told.state, outcome, seq)

        await asyncio.wrap_future(self._ledger.record(effect))
        self.say(self._topics.outcome(str(told.counter)), outcome)

    def _sealed(self, told: _Told) -> bytes:
        clock = self._clock.utc()
        issued = floor.now(self._ledger.read(meta.floor), clock).at
        body = {
            "id": str(told.counter), "counter": told.counter, "verb": told.verb,
            "state": told.state, "why": told.why, "at": rfc3339(clock), "result": told.result or {},
        }  # fmt: skip
        made = envelope.seal(
            Slot.OUTCOME, self._me, body, self._key, issued=issued, lifetime=floor.SPAN
        )
        if len(made) <= MAX_ENVELOPE_BYTES:
            return made
        body["result"] = {"left_out": f"what it returned has more than {MAX_ENVELOPE_BYTES} bytes"}
        return envelope.seal(
            Slot.OUTCOME, self._me, body, self._key, issued=issued, lifetime=floor.SPAN
        )

    def _repeat(self, known: rows.Row) -> None:
        if known.outcome is not None:
            self.say(self._topics.outcome(str(known.counter)), known.outcome)

    def _hold(self, data: bytes) -> None:
        if data not in self._held and len(self._held) < _MOST_HELD:
            log.info("a command waits for a bundle that names its director")
            self._held.append(data)

    async def _note(self, error: RefusedError) -> None:
        why = self._refusals.why(error.what[:_LONGEST_WHY], self._clock.monotonic())
        if why is None:
            return
        at, body = rfc3339(self._clock.utc()), {"code": error.code, "why": why}
        noted = self._ledger.note(Fact(Stream.AUDIT, "command-refused", at, body))
        await asyncio.wrap_future(noted)


def _check_counter(db: sqlite3.Connection, counter: int) -> None:
    """Step 8, where no command of this counter is known with the same content."""
    if rows.find(db, counter) is not None:
        raise EquivocationError(f"two different commands call themselves {counter}")
    if counter <= (last := rows.last(db)):
        raise ReplayError(f"command {counter} is older than {last}, which this node has begun")


def _check_nonce(given: object, waiting: str | None) -> None:
    """Step 7 where this machine's clock proves nothing."""
    if given is None:
        raise ExpiredError(
            "the time is unproven here, and the command does not name this node's nonce",
            hint="send it again: the node's next report brings the nonce",
        )
    if waiting is None or given != waiting:
        raise ReplayError("the command names a nonce that does not wait for one")
