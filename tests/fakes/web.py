"""A web server of files that can do to its callers what real ones and hostile ones do."""

import contextlib
import datetime
import hashlib
import re
import socket
import ssl
import threading
from collections import defaultdict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Fault = Callable[["Handler", bytes], None]
"""Answers one GET of a file instead of the server; is given what it would have sent."""


class WebServer:
    """Files in memory, over HTTP/1.1 with ranges; faults wait by path, one for each GET."""

    handler: type["Handler"]

    def __init__(self, *, host: str = "127.0.0.1", tls: "Certificate | None" = None) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.ranges = True
        self.tells_version = True
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.sent = 0
        self.connections = 0
        self.released = threading.Event()
        self.tls = tls is not None
        server = _Server((host, 0), self.handler)
        server.files = self
        if tls is not None:
            server.socket = tls.context().wrap_socket(server.socket, server_side=True)
        self._server = server
        self.host = f"[{host}]" if ":" in host else host
        self.port = server.server_address[1]
        self._thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}" if self.tls else f"http://{self.host}:{self.port}"

    def serve_folder(self, folder: Path, below: str = "") -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                self.files[f"{below}/{path.relative_to(folder)}"] = path.read_bytes()

    def gets(self, path: str) -> list[dict[str, str]]:
        """Return the headers of each GET of a file."""
        return [headers for method, p, headers in self.asked if (method, p) == ("GET", path)]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    files: WebServer

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def handle_error(self, *_: object) -> None:
        """A caller hung up: that is its right."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        self.server.files.connections += 1
        super().setup()

    @property
    def web(self) -> WebServer:
        return self.server.files

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.web.asked.append((self.command, path, dict(self.headers)))
        data = self.web.files.get(path)
        faults = self.web.faults[path]
        if body and faults:
            faults.pop(0)(self, data or b"")
            return
        if data is None:
            self.head(404, 0)
            return
        status, part, more = self.part_of(data)
        self.head(status, len(part), {**more, **self.headers_of(path)})
        if body:
            self.put(part)

    def headers_of(self, _path: str) -> dict[str, str]:
        """Return more headers for a file."""
        return {}

    def part_of(self, data: bytes) -> tuple[int, bytes, dict[str, str]]:
        """Return what a request for a range gets."""
        etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        more = {"ETag": etag} if self.web.tells_version else {}
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if found is None or not self.web.ranges or condition not in (None, etag):
            return 200, data, more
        start = int(found[1])
        if start >= len(data):
            return 416, b"", {"Content-Range": f"bytes */{len(data)}"}
        more["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return 206, data[start:], more

    def head(self, status: int, length: int | None, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (more or {}).items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def put(self, data: bytes) -> None:
        for at in range(0, len(data), 1 << 16):
            self.wfile.write(data[at : at + (1 << 16)])
            self.web.sent += len(data[at : at + (1 << 16)])

    def hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


WebServer.handler = Handler


# --- what may go wrong ---------------------------------------------------------------------------


def cut_after(count: int) -> Fault:
    """Announce everything, send so many bytes, and hang up."""

    def fault(handler: Handler, data: bytes) -> None:
        status, part, more = handler.part_of(data)
        handler.head(status, len(part), more)
        handler.put(part[:count])
        handler.wfile.flush()
        handler.hang_up()

    return fault


def stall_after(count: int) -> Fault:
    """Send so many bytes, then nothing, and keep the line."""

    def fault(handler: Handler, data: bytes) -> None:
        status, part, more = handler.part_of(data)
        handler.head(status, len(part), more)
        handler.put(part[:count])
        handler.web.released.wait(30)
        handler.hang_up()

    return fault


def endless_head(handler: Handler, _data: bytes) -> None:
    """Begin an answer, and never end its head."""
    handler.send_response(200)
    handler.flush_headers()
    while not handler.web.released.wait(0.02):
        handler.put(b"x")


def endless_patience(handler: Handler, _data: bytes) -> None:
    """Say without an end that the answer is still to come."""
    while not handler.web.released.wait(0.001):
        handler.put(b"HTTP/1.1 100 Continue\r\n\r\n")


def endless_trailers(handler: Handler, _data: bytes) -> None:
    """End the body, and go on with what may follow it."""
    handler.head(200, None, {"Transfer-Encoding": "chunked"})
    handler.put(b"1\r\nx\r\n0\r\n")
    while not handler.web.released.wait(0.001):
        handler.put(b"x: y\r\n")


def drip(handler: Handler, data: bytes) -> None:
    """Send a byte now and then, so that no time-out for silence ever comes."""
    handler.head(200, len(data))
    for at in range(len(data)):
        if handler.web.released.wait(0.02):
            break
        handler.put(data[at : at + 1])
    handler.hang_up()


def endless(handler: Handler, _data: bytes) -> None:
    """Announce more than anybody has, and send it until the caller leaves."""
    handler.head(200, 1 << 50)
    with contextlib.suppress(OSError):
        while not handler.web.released.is_set():
            handler.put(bytes(1 << 16))
    handler.hang_up()


def endless_chunks(handler: Handler, _data: bytes) -> None:
    """The same without saying how much."""
    handler.head(200, None, {"Transfer-Encoding": "chunked"})
    piece = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    with contextlib.suppress(OSError):
        while not handler.web.released.is_set():
            handler.put(piece)
    handler.hang_up()


def chunked(handler: Handler, data: bytes) -> None:
    """Send it in chunks, without a length."""
    handler.head(200, None, {"Transfer-Encoding": "chunked"})
    handler.put(f"{len(data):x}\r\n".encode() + data + b"\r\n0\r\n\r\n")


def without_an_end(handler: Handler, data: bytes) -> None:
    """Send it until the line ends, as HTTP/1.0 did."""
    handler.head(200, None, {"Connection": "close"})
    handler.put(data)
    handler.hang_up()


def packed(handler: Handler, data: bytes) -> None:
    handler.head(200, len(data), {"Content-Encoding": "gzip"})
    handler.put(data)


def wrong_part(handler: Handler, data: bytes) -> None:
    """Answer a request for a range with another one."""
    handler.head(206, len(data), {"Content-Range": f"bytes 0-{len(data) - 1}/{len(data)}"})
    handler.put(data)


def answer(status: int, **headers: str) -> Fault:
    """Answer with a status; ``Retry_After="1"`` is a header."""

    def fault(handler: Handler, _data: bytes) -> None:
        handler.head(status, 0, {name.replace("_", "-"): v for name, v in headers.items()})

    return fault


# --- certificates --------------------------------------------------------------------------------


class Certificate:
    """An own authority, and its certificate for a server on this machine."""

    def __init__(self, folder: Path, *, begins: datetime.datetime, ends: datetime.datetime) -> None:
        self.ca_file = folder / "ca.pem"
        self._chain = folder / "server.pem"
        ca_key, key = (
            ec.generate_private_key(ec.SECP256R1()),
            ec.generate_private_key(ec.SECP256R1()),
        )
        span = (begins, ends)
        ca = _certificate("test authority", ca_key, None, span)
        leaf = _certificate("localhost", key, (ca, ca_key), span)
        pem = serialization.Encoding.PEM
        self.ca_file.write_bytes(ca.public_bytes(pem))
        private = key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._chain.write_bytes(private + leaf.public_bytes(pem))

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._chain)
        return context


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None,
    span: tuple[datetime.datetime, datetime.datetime],
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = key if issuer is None else issuer[1]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(span[0])
        .not_valid_after(span[1])
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if issuer is not None:
        names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(signer, hashes.SHA256())
