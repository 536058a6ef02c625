"""The MQTT road. Sole importer of paho.

A connection lasts until it breaks; then a fresh client connects to the same broker session. Nothing
is kept here for resending: what must not be lost is in the outbox, whatever a broker acknowledges.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from appliance.errors import PeerUnreachableError, UsageError

log = logging.getLogger(__name__)
_CONNECT_S = 10.0
_SESSION_S = 7 * 24 * 3600
_KEEPALIVE_S = 30


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where a broker listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> "BrokerAddress":
        """Return the address in ``mqtt://HOST:PORT``.

        Raises:
            UsageError: it is not such a URL.
        """
        parts = urlsplit(url)
        try:
            port = parts.port or 1883
        except ValueError:
            port = 0
        if parts.scheme != "mqtt" or not parts.hostname or not port:
            raise UsageError(f"{url!r} is not a broker's address", hint="mqtt://HOST:PORT")
        return cls(parts.hostname, port)


@dataclass(frozen=True, slots=True)
class Message:
    """One message; ``retained`` says that the broker had it before we subscribed."""

    topic: str
    payload: bytes
    retained: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """Who connects, what is said when the connection dies, and what is listened to."""

    client_id: str
    subscriptions: tuple[str, ...]
    will: Message | None = None


class Connection:
    """A connection that is up, until ``closed`` is set."""

    def __init__(self, client: Client) -> None:
        self.closed = asyncio.Event()
        self.why = ""
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self._client = client

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Hand a message to the client with QoS 1; arriving is not promised, and need not be."""
        self._client.publish(topic, payload, qos=1, retain=retain)


class _Bridge:
    """Moves what happens on paho's thread onto the event loop."""

    def __init__(self, client: Client, session: Session) -> None:
        self.connection = Connection(client)
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self._session = session
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message

    def _on_connect(self, client: Client, _u: Any, _f: Any, reason: Any, _p: Any) -> None:
        if reason.is_failure:
            self._call(_fail, self.ready, f"the broker refused: {reason}")
        else:
            options = SubscribeOptions(qos=1)
            client.subscribe([(topic, options) for topic in self._session.subscriptions])

    def _on_subscribe(self, _c: Client, _u: Any, _m: int, reasons: list[Any], _p: Any) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            self._call(_fail, self.ready, f"the broker refused a subscription: {refused}")
        else:
            self._call(_done, self.ready)

    def _on_disconnect(self, _c: Client, _u: Any, _f: Any, reason: Any, _p: Any) -> None:
        self._call(_fail, self.ready, f"disconnected: {reason}")
        self._call(self._close, str(reason))

    def _close(self, why: str) -> None:
        self.connection.why = why
        self.connection.closed.set()

    def _on_message(self, _c: Client, _u: Any, message: MQTTMessage) -> None:
        found = Message(message.topic, bytes(message.payload), message.retain)
        self._call(self.connection.messages.put_nowait, found)

    def _call(self, call: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone when the process ends
            self._loop.call_soon_threadsafe(call, *args)


@contextlib.asynccontextmanager
async def connect(address: BrokerAddress, session: Session) -> AsyncIterator[Connection]:
    """Connect and subscribe; the connection ends with the block.

    Raises:
        PeerUnreachableError: no broker there, or it refused.
    """
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=session.client_id,
        protocol=MQTTProtocolVersion.MQTTv5,
        reconnect_on_failure=False,
    )
    if session.will is not None:
        client.will_set(session.will.topic, session.will.payload, qos=1, retain=True)
    bridge = _Bridge(client, session)
    where = f"the broker at {address.host}:{address.port}"
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = _SESSION_S
    try:
        await asyncio.to_thread(
            client.connect,
            address.host,
            address.port,
            keepalive=_KEEPALIVE_S,
            clean_start=False,
            properties=properties,
        )
    except (OSError, ValueError) as error:
        bridge.ready.cancel()
        raise PeerUnreachableError(f"{where} does not answer: {error}") from error
    client.loop_start()
    try:
        await _within(bridge.ready, f"{where} did not answer in time")
        yield bridge.connection
    finally:
        bridge.ready.cancel()
        client.disconnect()
        await asyncio.to_thread(client.loop_stop)


async def _within(ready: "asyncio.Future[None]", otherwise: str) -> None:
    try:
        async with asyncio.timeout(_CONNECT_S):
            await ready
    except TimeoutError as error:
        raise PeerUnreachableError(otherwise) from error


def _done(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)


def _fail(ready: "asyncio.Future[None]", why: str) -> None:
    if not ready.done():
        ready.set_exception(PeerUnreachableError(f"MQTT: {why}"))
