"""The hub's side of the log: commit what nodes send, acknowledge it, say what the fleet asks.

Everything is retained or sent again, so a hub or a broker that was killed loses nothing but time.
"""

import asyncio
import datetime
import logging
import sqlite3
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any, TypeVar

from appliance.core import wire
from appliance.core.ids import NodeId
from appliance.errors import ApplianceError, MalformedError, RefusedError, ScopeError
from appliance.hub import heads, receipts, resume, roster, store, words
from appliance.hub.desk import Desk
from appliance.hub.identity import HubIdentity
from appliance.hub.intake import Arrived, Intake, Opened, Refused, Taken
from appliance.hub.store import Ask, NodeRow
from appliance.kit.backoff import full_jitter
from appliance.kit.clock import Clock, rfc3339
from appliance.kit.commit import Effect, GroupCommit
from appliance.kit.sparing import Sparing
from appliance.sync import mqtt
from appliance.sync.mqtt import BrokerAddress, Connection, Message, Session
from appliance.sync.topics import EVERY_NODE, NodeTopics, Upward, parse_upward
from appliance.trust.envelope import Addressee, Slot, accept, check_expiry, seal, whole
from appliance.trust.floor import Now

log = logging.getLogger(__name__)
T = TypeVar("T")

_DESIRED_LIFETIME = datetime.timedelta(days=180)
_MOST_LINK_BYTES = 4096
_MOST_AT_ONCE = 500
_STABLE_S = 10.0
_GATHER_S = 0.05
"""How long a batch may wait for others, so that they share a transaction."""
_GREETED_AT_ONCE = 100


class HubService:
    """Everything between the broker and ``hub.db``."""

    def __init__(
        self, identity: HubIdentity, db: GroupCommit, broker: BrokerAddress, clock: Clock
    ) -> None:
        self.connected = False
        self._identity = identity
        self._db = db
        self._broker = broker
        self._clock = clock
        self._connection: Connection | None = None
        self._outage = Sparing()
        self._desks: dict[str, Desk] = {}
        self.intake = Intake(identity, db, clock)

    def add(self, kind: str, desk: Desk) -> None:
        """Have a desk take what comes on topics of a kind (``topics.Upward``)."""
        self._desks[kind] = desk

    def tell(self, row: NodeRow) -> None:
        """Say to one node what the desks have for it, if there is a connection.

        ``row`` is as of now: to a node that was revoked nothing is said.
        """
        if row.revoked_at is not None:
            return
        for desk in self._desks.values():
            for message in desk.messages(row):
                self._publish(message)

    def _publish(self, message: Message) -> None:
        if self._connection is not None:
            self._connection.send(message)

    async def run(self) -> None:
        """Keep a connection to the broker for ever."""
        delays = full_jitter(0.2, 2.0)
        while True:
            began = self._clock.monotonic()
            try:
                await self._connected()
            except ApplianceError as error:  # also a full disk: the API goes on, and so do we
                self._say_why(error)
            if self._clock.monotonic() - began > _STABLE_S:
                delays = full_jitter(0.2, 2.0)
            await self._clock.sleep(next(delays))

    def _say_why(self, error: ApplianceError) -> None:
        """Log why there is no connection: once, and not again with every try."""
        why = self._outage.why(str(error), self._clock.monotonic())
        if why is not None:
            log.info("%s; tried again until it works", why)

    async def say(self, name: str) -> None:
        """Publish what the fleet asks of a node, when there is something and a way to say it."""
        envelope = await self._envelope(name)
        if envelope is None or self._db.read(partial(store.node, name=name)).revoked_at:
            return  # also when it was revoked while the envelope was sealed
        self._publish(Message(NodeTopics(NodeId(name)).desired, envelope, retained=True))

    def forget(self, name: str) -> None:
        """Have the broker forget what it retains for a node whose key is gone."""
        topics = NodeTopics(NodeId(name))
        for topic in (topics.desired, topics.ack):
            self._publish(Message(topic, b"", retained=True))

    async def take_receipts(self, row: NodeRow, envelopes: list[bytes]) -> dict[str, Any]:
        """Take in what came by another road; return what became of each, and a signed time."""
        org, at = self._identity.org, rfc3339(self._clock.utc())
        results = await self._write(lambda db: receipts.take_all(db, row, org, envelopes, at))
        answer = self._signed_time(row)
        return {
            "results": results,
            "chains": self._db.read(lambda db: receipts.listed(db, row.node)),
            "time": None if answer is None else wire.loads(answer, what="the signed time"),
        }

    async def replay(self, row: NodeRow, messages: "Sequence[Message]") -> list[dict[str, Any]]:
        """Take in what came by another road as if the broker had brought it; say what became of it.

        Returns:
            For each message, in their order, whether it is taken, known, early or refused.

        Raises:
            NoSpaceError, StateUnusableError: not all of it was taken in; hand it in again.
        """
        found: dict[int, dict[str, Any]] = {}
        arrived: dict[int, Arrived] = {}
        others: dict[int, tuple[Upward, Message]] = {}
        for place, message in enumerate(messages):
            upward = parse_upward(message.topic)
            if upward is None or upward.node != row.node:
                error = ScopeError(f"what the stick holds for {row.node} names another node")
                found[place] = _refused(error)
            elif upward.kind == "stream" and message.payload:
                arrived[place] = _arrived(upward, message)
            elif message.payload:
                others[place] = (upward, message)
        done = await self.intake.take(list(arrived.values()))
        places = {id(each): place for place, each in arrived.items()}
        found |= {places[id(each)]: {"result": "known"} for each in done.known}
        found |= {places[id(each)]: {"result": "early"} for each in done.early}
        found |= {places[id(each.arrived)]: _refused(each.error) for each in done.refused}
        for place, (upward, message) in others.items():
            try:
                is_new = await self._take(row, upward, message.payload)
                found[place] = {"result": "taken" if is_new else "known"}
            except RefusedError as error:
                await self._refuse(upward, message.topic, error)
                found[place] = _refused(error)
        return [found.get(place, {"result": "taken"}) for place in range(len(messages))]

    async def answers(self, name: str) -> list[Message]:
        """Return all that there is to say to a node now, for another road to carry.

        Raises:
            NotFoundError: it was never admitted.
            RevokedError: it was revoked.
        """
        row = self._db.read(partial(store.standing, name=name))
        topics = NodeTopics(NodeId(row.node))
        said = {topics.time: self._signed_time(row), topics.desired: await self._envelope(name)}
        found = [Message(topic, data) for topic, data in said.items() if data is not None]
        found += await self.intake.acknowledgements([name])
        return [*found, *(m for desk in self._desks.values() for m in desk.messages(row))]

    async def _connected(self) -> None:
        session = Session(client_id=f"hub-{self._identity.org}", subscriptions=(EVERY_NODE,))
        async with mqtt.connect(self._broker, session) as connection:
            log.info("connected to the broker")
            self._connection, self.connected = connection, True
            self._outage = Sparing()
            receiving = asyncio.create_task(self._receive(connection))
            closed = asyncio.create_task(connection.closed.wait())
            greeting = asyncio.create_task(self._greet(connection))
            try:
                await asyncio.wait({receiving, closed}, return_when=asyncio.FIRST_COMPLETED)
                if receiving.done():
                    receiving.result()
                log.info("disconnected: %s", connection.why)
            finally:
                self._connection, self.connected = None, False
                for task in (receiving, closed, greeting):
                    task.cancel()
                await asyncio.gather(receiving, closed, greeting, return_exceptions=True)

    async def _greet(self, connection: Connection) -> None:
        """Say to every node what it may not have heard; a broker that was killed forgot it."""
        names = self._db.read(store.names)
        try:
            for n in range(0, len(names), _GREETED_AT_ONCE):
                part = names[n : n + _GREETED_AT_ONCE]
                for message in await self.intake.acknowledgements(part):
                    connection.publish(message.topic, message.payload, retain=True)
                for name in part:
                    row = self._db.read(partial(store.node, name=name))
                    self._tell_time(connection, row)
                    self.tell(row)
                await asyncio.gather(*(self.say(name) for name in part))
        except ApplianceError as error:  # a full disk: what is asked is said at the next report
            log.warning("not everything could be said: %s", error)

    async def _receive(self, connection: Connection) -> None:
        """Take messages many at a time, so that they share a commit and an acknowledgement.

        While one group is committed, the one before it is answered, and the next is verified.
        """
        committing = asyncio.create_task(self._commit([]))
        told = telling = asyncio.create_task(self._tell(connection, committing))
        try:
            while True:
                messages = await self._gather(connection)
                arrived, others = _sorted(messages)
                opened = await self.intake.open(arrived)
                await asyncio.gather(committing, told)
                await asyncio.gather(*(self._handle(message) for message in others))
                committing = asyncio.create_task(self._commit(opened))
                told, telling = (
                    telling,
                    asyncio.create_task(self._tell(connection, committing, telling)),
                )
        finally:
            tasks = (committing, told, telling)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _gather(self, connection: Connection) -> list[Message]:
        waiting = connection.messages
        messages = [await waiting.get()]
        if waiting.qsize() < _MOST_AT_ONCE:
            await self._clock.sleep(_GATHER_S)
        while len(messages) < _MOST_AT_ONCE and not waiting.empty():
            messages.append(waiting.get_nowait())
        return messages

    async def _commit(self, opened: list[Opened | Refused]) -> Taken:
        try:
            return await self.intake.commit(opened)
        except ApplianceError as error:  # a full disk: nothing is acknowledged, all comes again
            log.warning("%d batches could not be taken in: %s", len(opened), error)
            return Taken()

    async def _tell(
        self,
        connection: Connection,
        committing: "asyncio.Task[Taken]",
        before: "asyncio.Task[None] | None" = None,
    ) -> None:
        """Acknowledge what is committed, after what was committed before it."""
        if before is not None:
            await before
        taken = await committing
        for message in await self.intake.acknowledgements(sorted(taken.heard)):
            connection.publish(message.topic, message.payload, retain=True)
        for name in sorted(taken.asking):
            self._tell_time(connection, self._db.read(partial(store.node, name=name)))

    async def _handle(self, message: Message) -> None:
        """Take in what is no batch."""
        upward = parse_upward(message.topic)
        if upward is None or not message.payload:
            return
        try:
            row = self._db.read(lambda db: store.node(db, upward.node))
            await self._take(row, upward, message.payload)
        except RefusedError as error:
            await self._refuse(upward, message.topic, error)
        except ApplianceError as error:
            log.warning("%s: %s", message.topic, error)
        except Exception:  # one node's message must not end the service of all the others
            log.exception("could not take in what came on %s", message.topic)

    async def _take(self, row: NodeRow, upward: Upward, payload: bytes) -> bool:
        """Take in what is no batch; return False when it is known to have said nothing new."""
        is_new = True
        roster.check_not_revoked(row)
        if upward.kind == "state":
            await self._link(row, payload)
        elif upward.kind == "reported":
            is_new = await self._reported(row, payload)
            self.tell(self._db.read(partial(store.node, name=row.node)))
        elif (desk := self._desks.get(upward.kind)) is not None:
            is_new = await desk.take(row, upward.name, payload) is not False
            self.tell(self._db.read(partial(store.node, name=row.node)))
        return is_new

    async def _link(self, row: NodeRow, payload: bytes) -> None:
        if len(payload) > _MOST_LINK_BYTES:
            return
        try:
            link = wire.loads(payload, what=f"the link of {row.node}")
        except MalformedError:
            return
        await self._write(lambda db: store.set_link(db, row.node, link))

    async def _reported(self, row: NodeRow, payload: bytes) -> bool:
        now = self._clock.utc()
        expected = {"org": self._identity.org, "node": row.node, "nodeKey": row.key}
        accepted = accept(payload, Slot.REPORTED, {row.key}, expected)
        check_expiry(accepted, Now(now, proven=True))
        found, number = accepted.payload, whole(accepted.payload, "report")
        if not isinstance(found.get("dbEpoch"), str) or not isinstance(found.get("applied"), dict):
            raise MalformedError(f"the report of {row.node} does not say what it applied")
        found = resume.of_this_director(found, self._identity.director_epoch)
        head, at = heads.named(found), rfc3339(now)

        def effect(db: sqlite3.Connection) -> bool:
            before = store.node(db, row.node).reported or {}
            if not store.set_reported(db, row.node, found, number, at):
                return False
            heads.reported(db, (row.node, str(found["dbEpoch"])), head, before, at)
            return True

        if not await self._write(effect):
            return False
        asked = self._db.read(lambda db: store.generation(db, row.node))
        if asked is not None and asked != found["applied"].get("generation"):
            await self.say(row.node)
        return True

    def _signed_time(self, row: NodeRow) -> bytes | None:
        if row.revoked_at is not None:
            return None
        now = self._clock.utc()
        return self._db.read(lambda db: receipts.signed_time(db, row, self._identity, now))

    def _tell_time(self, connection: Connection, row: NodeRow) -> None:
        envelope = self._signed_time(row)
        if envelope is not None:
            connection.publish(NodeTopics(NodeId(row.node)).time, envelope)

    async def _envelope(self, name: str) -> bytes | None:
        now = self._clock.utc()
        too_old = rfc3339(now - _DESIRED_LIFETIME / 2)
        kept = self._db.read(lambda db: store.kept(db, name, too_old))
        if kept is not None or self._db.read(lambda db: store.generation(db, name)) is None:
            return kept
        row = self._db.read(lambda db: store.node(db, name))

        def sealed(db: sqlite3.Connection, ask: Ask) -> bytes:
            body: dict[str, Any] = {
                "directorEpoch": self._identity.director_epoch,
                "gen": ask.generation,
                "documents": ask.documents,
            }
            if back := words.sealing(db, row.node, ask.generation, ask.documents):
                body["rollback"] = back
            to = Addressee(self._identity.org, row.node, row.key, ask.db_epoch)
            key, life = self._identity.director, _DESIRED_LIFETIME
            return seal(Slot.DESIRED, to, body, key, issued=now, lifetime=life)

        return await self._write(
            lambda db: store.sealed(db, row.node, rfc3339(now), too_old, partial(sealed, db))
        )

    async def _refuse(self, upward: Upward, topic: str, error: RefusedError) -> None:
        log.warning("refused on %s (%s): %s", topic, error.code, error)
        row = (rfc3339(self._clock.utc()), str(upward.node), topic, error.code, error.what)
        await self._write(lambda db: store.refuse(db, row))

    def _write(self, effect: Effect[T]) -> Awaitable[T]:
        return asyncio.wrap_future(self._db.submit(effect))


def _sorted(messages: Sequence[Message]) -> tuple[list[Arrived], list[Message]]:
    """Return the batches, and what is none. Pure."""
    arrived, others = [], []
    for message in messages:
        upward = parse_upward(message.topic)
        if upward is None or not message.payload:
            continue
        if upward.kind == "stream":
            arrived.append(_arrived(upward, message))
        else:
            others.append(message)
    return arrived, others


def _arrived(upward: Upward, message: Message) -> Arrived:
    return Arrived(upward.node, str(upward.name), message.payload, message.topic)


def _refused(error: ApplianceError) -> dict[str, Any]:
    return {"result": "refused", **error.to_wire()}
