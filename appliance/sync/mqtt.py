"""The MQTT road. Sole importer of paho.

A connection lasts until it breaks; then a fresh client connects to the same broker session. Nothing
is kept here for resending: what must not be lost is in the outbox, whatever a broker acknowledges.
MQTT 5 is tried first, and 3.1.1 with a broker that does not know it: messages then have no expiry
and sessions no end, which costs a broker memory and us nothing.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from appliance.errors import PeerUnreachableError
from appliance.sync.broker import BrokerAddress, Tls, TlsSource

__all__ = ["BrokerAddress", "Connection", "Message", "Session", "Tls", "TlsSource", "connect"]

log = logging.getLogger(__name__)
_CONNECT_S = 10.0
_SESSION_S = 7 * 24 * 3600
_KEEPALIVE_S = 30
_MOST_PACKET = 128 << 10
"""What a broker may send us in one piece; an envelope has 64 KiB at most."""
_LEAST_PACKET = 66 << 10
_MOST_COMING = 100
"""What may be on its way to us unconfirmed. What we say is confirmed behind it, so more of it
would hold up our own words: a hub that thousands of nodes talk to could not acknowledge them."""
_MOST_GOING = 1000
"""What of ours may be unconfirmed, if the broker takes so much; paho's own limit is 20."""
_MOST_WAITING_BYTES = 64 << 20
"""What comes in and is not taken yet; more of it is dropped, for all of it is said again."""
_MOST_SILENCE_S, _MOST_AGE_S = 120.0, 900.0
"""A broker that confirms nothing for the one, or leaves something unconfirmed for the other, is
left: paho keeps all of it in memory."""
_UNKNOWN_VERSION = "Unsupported protocol version"


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    ``retained`` asks the broker to keep it, or says that it had it before we subscribed.
    ``expires_s``: after so many seconds the broker gives it to nobody any more.
    """

    topic: str
    payload: bytes
    retained: bool = False
    expires_s: int | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """Who connects, what is said when the connection dies, and what is listened to."""

    client_id: str
    subscriptions: tuple[str, ...]
    will: Message | None = None


class _Inbox(asyncio.Queue[Message]):
    """What came in; it counts what was taken out."""

    taken_bytes = 0

    def _get(self) -> Message:
        message = super()._get()
        self.taken_bytes += len(message.payload)
        return message


class Connection:
    """A connection that is up, until ``closed`` is set."""

    def __init__(self, client: "_Client") -> None:
        self.closed = asyncio.Event()
        self.why = ""
        self.refused = ""
        """Why the broker did not take something that we published; empty: it took all."""
        self.dropped = 0
        """How many messages came that there was no room for."""
        self.messages = _Inbox()
        self._client = client

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, expires_s: int | None = None
    ) -> None:
        """Hand a message to the client with QoS 1; arriving is not promised, and need not be.

        A broker of MQTT 3.1.1 knows no expiry; what it delivers late is refused by its envelope.
        """
        properties = None
        if expires_s is not None and self._client.protocol == MQTTProtocolVersion.MQTTv5:
            properties = _properties(PacketTypes.PUBLISH, MessageExpiryInterval=max(1, expires_s))
        self._client.say(topic, payload, retain=retain, properties=properties)

    def send(self, message: Message) -> None:
        """Publish a message as it says."""
        self.publish(
            message.topic, message.payload, retain=message.retained, expires_s=message.expires_s
        )


class _Client(Client):
    """Paho's client on a socket that we make."""

    def __init__(self, address: BrokerAddress, name: str, version: MQTTProtocolVersion) -> None:
        """Raises StateUnusableError when our certificate cannot be used."""
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=name,
            clean_session=None if version == MQTTProtocolVersion.MQTTv5 else False,
            protocol=version,
            transport="websockets" if address.is_web else "tcp",
            reconnect_on_failure=False,
        )
        self._address = address
        if address.is_web:
            self.ws_set_options(path=address.path)
        self._opened: socket.socket | None = None
        self._unconfirmed: deque[float] = deque()
        """When messages were handed in that the broker has not confirmed, oldest first."""
        self._confirmed_at = time.monotonic()
        self._counting = threading.Lock()
        self._secure = address.context() if address.is_secure else None
        if self._secure is not None:
            self.tls_set_context(self._secure)

    def _create_socket_connection(self) -> socket.socket:
        """Paho's own would need another package to go through a proxy."""
        self._opened = self._address.open(self.connect_timeout)
        return self._opened

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> ssl.SSLSocket:
        """Paho's own knows no time but the machine's."""
        assert self._secure is not None
        self._opened = found = self._address.wrap(tcp_sock, self._secure)
        self._address.greet(found)
        return found

    def say(
        self, topic: str, payload: bytes, *, retain: bool, properties: Properties | None
    ) -> None:
        """Publish with QoS 1, or leave a broker that confirms nothing, or far too little."""
        now = time.monotonic()
        with self._counting:
            if not self._unconfirmed:
                self._confirmed_at = now
            self._unconfirmed.append(now)
            silent = now - self._confirmed_at > _MOST_SILENCE_S
            leave = silent or now - self._unconfirmed[0] > _MOST_AGE_S
        if leave:
            log.warning("%s does not confirm what we say; we leave it", self._address)
            self.disconnect()
        else:
            self.publish(topic, payload, qos=1, retain=retain, properties=properties)

    def note_confirmed(self) -> None:
        """Count one message as confirmed; called on paho's thread."""
        with self._counting:
            self._confirmed_at = time.monotonic()
            if self._unconfirmed:
                self._unconfirmed.popleft()

    def allow(self, most: int) -> None:
        """Have at most so many messages unconfirmed; nothing was said yet."""
        self._max_inflight_messages = min(most, _MOST_GOING)

    def begin(self) -> None:
        """Connect; blocks for some seconds at most.

        Raises:
            OSError, ValueError, PeerUnreachableError: nobody answers, or not as one should.
        """
        options: dict[str, Any] = {}
        if self.protocol == MQTTProtocolVersion.MQTTv5:
            properties = _properties(
                PacketTypes.CONNECT,
                SessionExpiryInterval=_SESSION_S,
                MaximumPacketSize=_MOST_PACKET,
                ReceiveMaximum=_MOST_COMING,
            )
            options = {"clean_start": False, "properties": properties}
        host, port = self._address.host, self._address.port
        deadline = threading.Timer(_CONNECT_S, self._give_up)
        deadline.start()
        try:
            self.connect(host, port, keepalive=_KEEPALIVE_S, **options)
        except Exception:
            if self._opened is not None:  # paho leaves it open
                self._opened.close()
            raise
        finally:
            deadline.cancel()

    def _give_up(self) -> None:
        """End a connection whose other end only drips: each single byte comes in time."""
        if self._opened is not None:
            with contextlib.suppress(OSError):
                self._opened.shutdown(socket.SHUT_RDWR)


class _Bridge:
    """Moves what happens on paho's thread onto the event loop."""

    def __init__(self, client: _Client, session: Session) -> None:
        self.connection = Connection(client)
        self._client = client
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self._session = session
        self._arrived: deque[Message] = deque()
        self._came_bytes = 0
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish

    def _on_connect(self, client: Client, _u: Any, _f: Any, reason: Any, properties: Any) -> None:
        most = getattr(properties, "MaximumPacketSize", _LEAST_PACKET)
        if str(reason) == _UNKNOWN_VERSION:
            self._call(_fail, self.ready, _OldBrokerError(f"it refused us: {reason}"))
        elif reason.is_failure:
            self._call(_fail, self.ready, PeerUnreachableError(f"it refused us: {reason}"))
        elif most < _LEAST_PACKET:
            why = f"it takes {most} bytes at most, and we send up to {_LEAST_PACKET}"
            self._call(_fail, self.ready, PeerUnreachableError(why))
        else:
            if properties is not None:  # MQTT 5, which says how much a broker takes
                self._client.allow(getattr(properties, "ReceiveMaximum", _MOST_GOING))
            client.subscribe([(topic, 1) for topic in self._session.subscriptions])

    def _on_subscribe(self, _c: Client, _u: Any, _m: int, reasons: list[Any], _p: Any) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            why = f"it refused a subscription: {refused}"
            self._call(_fail, self.ready, PeerUnreachableError(why))
        else:
            self._call(_done, self.ready)

    def _on_disconnect(self, _c: Client, _u: Any, _f: Any, reason: Any, _p: Any) -> None:
        self._call(_fail, self.ready, PeerUnreachableError(f"it closed the connection: {reason}"))
        self._call(self._close, str(reason))

    def _close(self, why: str) -> None:
        self.connection.why = why
        self.connection.closed.set()

    def _on_publish(self, _c: Client, _u: Any, _m: int, reason: Any, _p: Any) -> None:
        self._client.note_confirmed()
        if reason.is_failure and str(reason) != self.connection.refused:
            self.connection.refused = str(reason)
            log.warning("the broker did not take what we published: %s", reason)

    def _on_message(self, _c: Client, _u: Any, message: MQTTMessage) -> None:
        size = len(message.payload)
        if self._came_bytes - self.connection.messages.taken_bytes + size > _MOST_WAITING_BYTES:
            self._call(self._note_dropped)
            return
        self._came_bytes += size
        self._arrived.append(Message(message.topic, bytes(message.payload), message.retain))
        if len(self._arrived) == 1:  # else the loop is on its way already
            self._call(self._hand_over)

    def _hand_over(self) -> None:
        while self._arrived:
            self.connection.messages.put_nowait(self._arrived.popleft())

    def _note_dropped(self) -> None:
        if not self.connection.dropped:
            log.warning("messages come faster than they are taken; what is too much is dropped")
        self.connection.dropped += 1

    def _call(self, call: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone when the process ends
            self._loop.call_soon_threadsafe(call, *args)


class _OldBrokerError(PeerUnreachableError):
    """The broker does not know this version of MQTT."""


@contextlib.asynccontextmanager
async def connect(address: BrokerAddress, session: Session) -> AsyncIterator[Connection]:
    """Connect and subscribe; the connection ends with the block.

    Raises:
        PeerUnreachableError: no broker there, or it refused.
        StateUnusableError: our certificate cannot be used.
    """
    try:
        async with _connect(address, session, MQTTProtocolVersion.MQTTv5) as connection:
            yield connection
            return
    except _OldBrokerError:
        log.debug("%s does not know MQTT 5", address)
    async with _connect(address, session, MQTTProtocolVersion.MQTTv311) as connection:
        yield connection


@contextlib.asynccontextmanager
async def _connect(
    address: BrokerAddress, session: Session, version: MQTTProtocolVersion
) -> AsyncIterator[Connection]:
    client = _Client(address, session.client_id, version)
    if session.will is not None:
        client.will_set(session.will.topic, session.will.payload, qos=1, retain=True)
    bridge = _Bridge(client, session)
    try:
        await asyncio.to_thread(client.begin)
    except (OSError, ValueError) as error:
        bridge.ready.cancel()
        raise PeerUnreachableError(f"{address} does not answer: {error}") from error
    client.loop_start()
    try:
        await _within(bridge.ready, address)
        yield bridge.connection
    finally:
        bridge.ready.cancel()
        client.disconnect()
        await asyncio.to_thread(client.loop_stop)


async def _within(ready: "asyncio.Future[None]", address: BrokerAddress) -> None:
    try:
        async with asyncio.timeout(_CONNECT_S):
            await ready
    except TimeoutError as error:
        raise PeerUnreachableError(f"{address} did not answer in time") from error
    except _OldBrokerError:
        raise
    except PeerUnreachableError as error:
        # With TLS 1.3 a client learns only afterwards, and without words, that it is not welcome.
        raise PeerUnreachableError(f"{address}: {error.what}{_doubt(address)}") from error


def _doubt(address: BrokerAddress) -> str:
    """Return what may be wrong with us when a broker that speaks TLS turns us away."""
    if not address.is_secure:
        return ""
    if not address.tls():
        return "; we have no certificate to show"
    return "; it may not take our certificate: ended, revoked, or of another authority"


def _properties(packet: int, **values: int) -> Properties:
    made = Properties(packet)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(made, name, value)
    return made


def _done(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)


def _fail(ready: "asyncio.Future[None]", error: PeerUnreachableError) -> None:
    if not ready.done():
        ready.set_exception(error)
