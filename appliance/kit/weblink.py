"""One connection to a web server: its address, its certificate, the proxy on the way.

Secrets that an address carries (a name and password, a query that is a token) are used and never
shown. Certificates are verified, their dates are not by default: all that comes over these links
is signed, and boxes whose clock is wrong must still get news (`TRUST.md`, Time).
"""

import base64
import datetime
import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urljoin, urlsplit

from appliance.errors import PeerUnreachableError, StateUnusableError, UsageError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME; Python has no name for it."""
_PATIENCE = 2
"""Times the time-out for silence: within it comes a whole head, or the next piece of a body."""
_PORTS = {"https": 443, "http": 80}
Origin = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Login:
    """A name and a password."""

    user: str
    password: str = field(repr=False)

    def header(self) -> str:
        """Return the value of an Authorization header."""
        both = f"{self.user}:{self.password}".encode()
        return "Basic " + base64.b64encode(both).decode()


@dataclass(frozen=True, slots=True)
class Url:
    """An address; as text it is fit to be shown."""

    scheme: str
    host: str
    port: int
    path: str
    query: str = field(default="", repr=False)
    login: Login | None = None

    @classmethod
    def parse(cls, text: str) -> "Url":
        """Return the address in ``text``.

        Raises:
            UsageError: it is none; the error shows nothing of it, for it may hold a password.
        """
        refused = UsageError("that is not an address", hint="https://HOST/PATH, without spaces")
        if not all("!" <= character <= "~" for character in text):
            raise refused
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError as error:  # a port or a bracket that makes no sense
            raise refused from error
        if parts.scheme not in _PORTS or not host:
            raise refused
        login = None
        if parts.username is not None:
            login = Login(unquote(parts.username), unquote(parts.password or ""))
        path = parts.path.rstrip("/") if parts.path == "/" else parts.path
        return cls(parts.scheme, host, port or _PORTS[parts.scheme], path, parts.query, login)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}" + ("?..." if self.query else "")

    @property
    def authority(self) -> str:
        """Host and port, as a Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> Origin:
        return (self.scheme, self.host, self.port)

    @property
    def target(self) -> str:
        """What a request line asks for."""
        return (self.path or "/") + (f"?{self.query}" if self.query else "")

    @property
    def keeps_secrets(self) -> bool:
        """Whether nobody on the way can read what is sent there."""
        return self.scheme == "https" or _is_loopback(self.host)

    def below(self, path: str) -> "Url":
        """Return the address of a file below this one; a query goes with it."""
        return replace(self, path=f"{self.path.rstrip('/')}/{quote(path, safe='/:@')}")

    def with_query(self, query: str) -> "Url":
        """Return this address with more of a query."""
        return replace(self, query=f"{self.query}&{query}" if self.query else query)

    def led_to(self, location: str) -> "Url":
        """Return where a server's Location header leads from here.

        Raises:
            UsageError: nowhere.
        """
        plain = f"{self.scheme}://{self.authority}{self.target}"
        try:
            joined = urljoin(plain, location)
        except ValueError as error:
            raise UsageError("that is not an address") from error
        return replace(Url.parse(joined), login=None)


@dataclass(frozen=True, slots=True)
class Link:
    """How to talk to servers."""

    timeout_s: float = 30.0
    tries: int = 6
    """How often in a row a request may fail before it is given up."""
    first_retry_s: float = 0.5
    most_retry_s: float = 30.0
    ca_file: Path | None = None
    """Certificates to trust instead of the system's."""
    also_hosts: frozenset[str] = frozenset()
    """Where a server may send us on to, besides itself."""
    surely_past: Callable[[], datetime.datetime] | None = None
    """A time that has passed for sure: a certificate that ended before it is refused."""
    sleep: Callable[[float], None] = time.sleep

    def allows(self, begun: Url, led: Url) -> bool:
        """Whether a server at one address may send us on to the other."""
        if led.origin == begun.origin:
            return True
        return led.scheme == "https" and led.host in {begun.host, *self.also_hosts}

    def connect(self, url: Url) -> "Line":
        """Return a connection to the server at ``url``; it is made when it is used.

        Raises:
            StateUnusableError: the file of certificates cannot be read.
            UsageError: the environment's proxy is not an address.
        """
        proxy = _proxy(url)
        via = proxy or url
        if url.scheme == "http":
            plain = http.client.HTTPConnection(via.host, via.port, timeout=self.timeout_s)
            plain.response_class = Response
            return Line(plain, {} if proxy is None else _proxy_headers(proxy), proxy is not None)
        secure = _Secure(via.host, via.port, timeout=self.timeout_s, context=self._context())
        secure.response_class = Response
        secure.surely_past = self.surely_past
        if proxy is not None:
            secure.set_tunnel(url.host, url.port, headers=dict(_proxy_headers(proxy)))
        return Line(secure, {}, whole_target=False)

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(
                cafile=None if self.ca_file is None else str(self.ca_file)
            )
        except OSError as error:  # what is wrong inside the file is one too
            raise StateUnusableError(
                f"{self.ca_file} does not hold certificates: {error.strerror}",
                hint="name a PEM file in network.ca_file of the settings",
            ) from error
        context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
        return context


@dataclass(frozen=True, slots=True)
class Line:
    """A connection, and what the proxy on the way needs to be told with each request."""

    connection: http.client.HTTPConnection
    headers: Mapping[str, str]
    whole_target: bool

    def request(
        self, method: str, url: Url, headers: Mapping[str, str], body: Iterable[bytes] | None
    ) -> None:
        """Send a request."""
        target = f"http://{url.authority}{url.target}" if self.whole_target else url.target
        self.connection.request(method, target, body, {**self.headers, **headers})

    def response(self) -> "Response":
        """Return the answer to it, whose body is still to be read."""
        found = self.connection.getresponse()
        assert isinstance(found, Response)
        return found


class Response(http.client.HTTPResponse):
    """An answer that ends, whatever the server sends around the body.

    ``http.client`` reads interim answers, heads, the sizes of chunks and what follows the last of
    them for as long as they come. Here each asking for more has an end of its own.
    """

    def __init__(
        self, sock: socket.socket, debuglevel: int = 0, method: str | None = None,
        url: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(sock, debuglevel, method, url)
        self._watched = _Watched(self.fp.detach(), sock.gettimeout())
        self.fp = io.BufferedReader(self._watched)

    def renew(self) -> None:
        """Begin the time for the next piece of the body."""
        self._watched.renew()


class _Watched(io.RawIOBase):
    """What comes over a line, until the time for it is up."""

    def __init__(self, raw: io.RawIOBase, timeout_s: float | None) -> None:
        self._raw = raw
        self._most_s = _PATIENCE * (timeout_s or 0)
        self.renew()

    def renew(self) -> None:
        self._until = time.monotonic() + self._most_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int | None:
        if self._most_s and time.monotonic() > self._until:
            raise TimeoutError
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Secure(http.client.HTTPSConnection):
    surely_past: Callable[[], datetime.datetime] | None = None

    def connect(self) -> None:
        super().connect()
        ends = ssl.cert_time_to_seconds(str((self.sock.getpeercert() or {})["notAfter"]))
        if self.surely_past is not None and ends < self.surely_past().timestamp():
            day = datetime.datetime.fromtimestamp(ends, datetime.UTC).date()
            raise PeerUnreachableError(f"the certificate of {self.host} ended on {day}")


def _proxy(url: Url) -> Url | None:
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415 - most commands do without

    found = getproxies().get(url.scheme)
    if not found or proxy_bypass(f"{url.host}:{url.port}"):
        return None
    try:
        proxy = Url.parse(found if "://" in found else f"http://{found}")
    except UsageError as error:
        raise UsageError(f"the environment's {url.scheme}_proxy is not an address") from error
    if proxy.scheme != "http":
        raise UsageError(f"the environment's {url.scheme}_proxy is not an http:// address")
    return proxy


def _proxy_headers(proxy: Url) -> Mapping[str, str]:
    return {} if proxy.login is None else {"Proxy-Authorization": proxy.login.header()}


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
