"""Where a broker is and how it is reached: its scheme, the certificates, the proxy on the way.

TLS is 1.3 or nothing. A chain is verified without its dates, because a box whose clock is wrong
must still reach its hub (`TRUST.md`, Time); what ended before a time that has surely passed is
refused. A broker is believed nothing anyway: what travels over it is signed.
"""

import datetime
import http.client
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from appliance.errors import PeerUnreachableError, StateUnusableError, UsageError
from appliance.kit.weblink import Url

_PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
_WEB_PATH = "/mqtt"
_NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME; Python has no name for it."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Who we are to a broker, and whom we take for one.

    ``certificate`` and ``key`` are PEM files, read anew for each connection. ``ca`` are PEM texts;
    empty: the certificates that the system trusts. ``surely_past`` returns a time that has passed
    for sure, UTC: a broker whose certificate ended before it is refused.
    """

    certificate: Path
    key: Path
    ca: tuple[str, ...] = ()
    surely_past: Callable[[], datetime.datetime] | None = None


TlsSource = Callable[[], Tls | None]
"""Asked before each connection, so that a renewed certificate is used; None: we have none."""


def without_certificate() -> Tls | None:
    """Say that we have no certificate."""
    return None


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where a broker listens, and what is needed to get there.

    ``path`` is of the web schemes. ``proxy`` is an HTTP proxy that is asked to CONNECT.
    """

    host: str
    port: int
    scheme: str = "mqtt"
    path: str = _WEB_PATH
    proxy: Url | None = None
    tls: TlsSource = without_certificate

    @classmethod
    def parse(
        cls, url: str, *, proxy: str = "", tls: TlsSource = without_certificate
    ) -> "BrokerAddress":
        """Return the address in ``mqtt://HOST:PORT``, ``mqtts://``, ``ws://`` or ``wss://``.

        Args:
            url: The address; without a port it is the usual one, without a path ``/mqtt``.
            proxy: ``http://HOST:PORT``, a name and a password allowed; empty: none.
            tls: What is asked for certificates before each connection.

        Raises:
            UsageError: one of the two is no such URL.
        """
        refused = UsageError(
            f"{url!r} is not a broker's address",
            hint="mqtt://HOST:PORT, mqtts://HOST:PORT or wss://HOST:PORT/PATH",
        )
        try:
            parts = urlsplit(url)
            port = parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError as error:
            raise refused from error
        if parts.scheme not in _PORTS or not parts.hostname or not port:
            raise refused
        if parts.username is not None:
            raise UsageError(
                "a broker's address has no name or password in it",
                hint="a node shows its certificate: mqtts://HOST",
            )
        path = parts.path if parts.path.strip("/") else _WEB_PATH
        return cls(parts.hostname, port, parts.scheme, path, _proxy(proxy), tls)

    @property
    def is_secure(self) -> bool:
        """Whether TLS is spoken there."""
        return self.scheme in ("mqtts", "wss")

    @property
    def is_web(self) -> bool:
        """Whether MQTT is carried in a WebSocket there."""
        return self.scheme in ("ws", "wss")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        via = "" if self.proxy is None else f" through {self.proxy}"
        return f"the broker at {self.scheme}://{host}:{self.port}{via}"

    def open(self, timeout_s: float) -> socket.socket:
        """Return a TCP connection to the broker, or through the proxy to it.

        Raises:
            OSError: nobody answers, or the proxy does not let us through.
        """
        if self.proxy is None:
            return socket.create_connection((self.host, self.port), timeout=timeout_s)
        line = http.client.HTTPConnection(self.proxy.host, self.proxy.port, timeout=timeout_s)
        login = self.proxy.login
        headers = {} if login is None else {"Proxy-Authorization": login.header()}
        line.set_tunnel(self.host, self.port, headers)
        try:
            line.connect()
        except http.client.HTTPException as error:
            line.close()
            raise ConnectionError(f"the proxy does not speak HTTP: {error!r}") from error
        except OSError:
            line.close()
            raise
        assert line.sock is not None
        return line.sock

    def wrap(self, plain: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
        """Return TLS on a connection to the broker, before a word of it is spoken."""
        return context.wrap_socket(plain, server_hostname=self.host, do_handshake_on_connect=False)

    def greet(self, secure: ssl.SSLSocket) -> None:
        """Begin TLS, and have the broker prove that it is the one of this name.

        Raises:
            OSError: it is not.
            PeerUnreachableError: its certificate ended long ago.
        """
        secure.do_handshake()
        self._check_end(secure)

    def _check_end(self, secure: ssl.SSLSocket) -> None:
        found = self.tls()
        if found is None or found.surely_past is None:
            return
        ends = ssl.cert_time_to_seconds(str((secure.getpeercert() or {})["notAfter"]))
        if ends < found.surely_past().timestamp():
            day = datetime.datetime.fromtimestamp(ends, datetime.UTC).date()
            raise PeerUnreachableError(f"the certificate of {self} ended on {day}")

    def context(self) -> ssl.SSLContext:
        """Return how TLS is to be spoken there, with the certificates of this moment.

        Raises:
            StateUnusableError: our certificate, its key or the CA cannot be used.
        """
        found, context = self.tls(), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
        if found is None or not found.ca:
            context.load_default_certs()
        if found is None:
            return context
        try:
            if found.ca:
                context.load_verify_locations(cadata="\n".join(found.ca))
            context.load_cert_chain(found.certificate, found.key)
        except (OSError, ValueError) as error:  # what is wrong inside the files is one too
            raise StateUnusableError(
                f"the certificate {found.certificate} cannot be used: {error}",
                hint="enrol this node again",
            ) from error
        return context


def _proxy(text: str) -> Url | None:
    if not text:
        return None
    hint = "http://HOST:PORT"
    try:
        found = Url.parse(text)
    except UsageError as error:
        raise UsageError("the proxy to the broker is not an address", hint=hint) from error
    if found.scheme != "http":
        raise UsageError("the proxy to the broker is not an http:// address", hint=hint)
    return found
