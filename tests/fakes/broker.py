"""A broker in memory, in place of ``appliance.sync.mqtt.connect``.

It keeps what is retained and what sessions missed, matches ``+`` and ``#``, publishes wills, and
can be taken down. ``tests/contract/test_broker.py`` holds it against real ones.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from appliance.errors import PeerUnreachableError
from appliance.sync.mqtt import BrokerAddress, Connection, Message, Session


@dataclass(slots=True)
class _Missed:
    """What a session that is away listens to, and what came since."""

    session: Session
    messages: list[tuple[Message, float | None]] = field(default_factory=list)
    """Each with when it expires, by the monotonic clock."""


class FakeBroker:
    """Hand ``broker.connect`` to ``monkeypatch.setattr(mqtt, "connect", ...)``."""

    def __init__(self) -> None:
        self.is_up = True
        self.retained: dict[str, bytes] = {}
        self.published: list[Message] = []
        """All that was ever handed in; ``retained`` says what the sender asked for."""
        self.sessions: list[Session] = []
        self._clients: dict[_Client, tuple[Connection, Session]] = {}
        self._away: dict[str, _Missed] = {}

    @asynccontextmanager
    async def connect(self, address: BrokerAddress, session: Session) -> AsyncIterator[Connection]:
        if not self.is_up:
            raise PeerUnreachableError(f"nobody answers at {address.host}:{address.port}")
        self._end_other(session.client_id)
        client = _Client(self)
        connection = Connection(cast("Any", client))
        self.sessions.append(session)
        self._clients[client] = connection, session
        missed = self._away.pop(session.client_id, None)
        for message, ends in [] if missed is None else missed.messages:
            if ends is None or ends > time.monotonic():
                connection.messages.put_nowait(message)
        for topic, payload in self.retained.items():
            if _wants(session, topic):
                connection.messages.put_nowait(Message(topic, payload, retained=True))
        try:
            yield connection
        finally:
            if self._clients.pop(client, None) is not None:
                self._away[session.client_id] = _Missed(session)

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, expires_s: int | None = None
    ) -> None:
        """Take a message and pass it on to who wants it."""
        self.published.append(Message(topic, payload, retain, expires_s))
        if retain and payload:
            self.retained[topic] = payload
        elif retain:
            self.retained.pop(topic, None)
        for connection, session in self._clients.values():
            if _wants(session, topic):
                connection.messages.put_nowait(Message(topic, payload))
        ends = None if expires_s is None else time.monotonic() + expires_s
        for missed in self._away.values():
            if _wants(missed.session, topic):
                missed.messages.append((Message(topic, payload), ends))

    def on(self, topic: str) -> list[bytes]:
        """Return all that was ever published on a topic, oldest first."""
        return [m.payload for m in self.published if m.topic == topic]

    def break_connections(self) -> None:
        """Drop everybody and forget their sessions; their wills are published."""
        clients, self._clients, self._away = self._clients, {}, {}
        for connection, session in clients.values():
            self._drop(connection, session)

    def take(self, client: "_Client", message: Message) -> None:
        """Take a message from a client; one that was dropped says nothing any more."""
        if client in self._clients:
            more = {} if message.expires_s is None else {"expires_s": message.expires_s}
            self.publish(message.topic, message.payload, retain=message.retained, **more)

    def _end_other(self, client_id: str) -> None:
        """A client id that connects again takes the place of the one that had it."""
        for client, (connection, session) in list(self._clients.items()):
            if session.client_id == client_id:
                del self._clients[client]
                self._drop(connection, session)

    def _drop(self, connection: Connection, session: Session) -> None:
        connection.closed.set()
        if session.will is not None:
            self.publish(session.will.topic, session.will.payload, retain=True)


class _Client:
    """As much of a client as a connection uses."""

    protocol = 5

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker

    def say(self, topic: str, payload: bytes, *, retain: bool, properties: Any) -> None:
        assert len(payload) <= 64 << 10
        expires_s = None if properties is None else properties.MessageExpiryInterval
        self._broker.take(self, Message(topic, payload, retain, expires_s))


def _wants(session: Session, topic: str) -> bool:
    return any(_match(p.split("/"), topic.split("/")) for p in session.subscriptions)


def _match(pattern: list[str], topic: list[str]) -> bool:
    if pattern[:1] == ["#"]:
        return True
    if not pattern or not topic:
        return pattern == topic
    return pattern[0] in ("+", topic[0]) and _match(pattern[1:], topic[1:])
