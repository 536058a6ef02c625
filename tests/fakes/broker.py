"""A broker in memory, in place of ``appliance.sync.mqtt.connect``.

It keeps what is retained, matches ``+`` and ``#``, publishes wills, and can be taken down.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from appliance.errors import PeerUnreachableError
from appliance.sync.mqtt import BrokerAddress, Connection, Message, Session


class FakeBroker:
    """Hand ``broker.connect`` to ``monkeypatch.setattr(mqtt, "connect", ...)``."""

    def __init__(self) -> None:
        self.is_up = True
        self.retained: dict[str, bytes] = {}
        self.published: list[Message] = []
        """All that was ever handed in; ``retained`` says what the sender asked for."""
        self.sessions: list[Session] = []
        self._clients: dict[_Client, tuple[Connection, Session]] = {}

    @asynccontextmanager
    async def connect(self, address: BrokerAddress, session: Session) -> AsyncIterator[Connection]:
        if not self.is_up:
            raise PeerUnreachableError(f"nobody answers at {address.host}:{address.port}")
        client = _Client(self)
        connection = Connection(cast("Any", client))
        self.sessions.append(session)
        self._clients[client] = connection, session
        for topic, payload in self.retained.items():
            if _wants(session, topic):
                connection.messages.put_nowait(Message(topic, payload, retained=True))
        try:
            yield connection
        finally:
            self._clients.pop(client, None)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Take a message and pass it on to who wants it."""
        self.published.append(Message(topic, payload, retain))
        if retain:
            self.retained[topic] = payload
        for connection, session in self._clients.values():
            if _wants(session, topic):
                connection.messages.put_nowait(Message(topic, payload))

    def on(self, topic: str) -> list[bytes]:
        """Return all that was ever published on a topic, oldest first."""
        return [m.payload for m in self.published if m.topic == topic]

    def break_connections(self) -> None:
        """Drop everybody; their wills are published."""
        clients, self._clients = self._clients, {}
        for connection, session in clients.values():
            connection.closed.set()
            if session.will is not None:
                self.publish(session.will.topic, session.will.payload, retain=True)

    def take(self, client: "_Client", message: Message) -> None:
        """Take a message from a client; one that was dropped says nothing any more."""
        if client in self._clients:
            self.publish(message.topic, message.payload, retain=message.retained)


class _Client:
    """As much of paho's client as a connection uses."""

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
        assert qos == 1
        assert len(payload) <= 64 << 10
        self._broker.take(self, Message(topic, payload, retain))


def _wants(session: Session, topic: str) -> bool:
    return any(_match(p.split("/"), topic.split("/")) for p in session.subscriptions)


def _match(pattern: list[str], topic: list[str]) -> bool:
    if pattern[:1] == ["#"]:
        return True
    if not pattern or not topic:
        return pattern == topic
    return pattern[0] in ("+", topic[0]) and _match(pattern[1:], topic[1:])
