"""A proxy in front of an API server: it counts what is changed, and strikes at a given change."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

import urllib3

from appliance.kube.client import KubeApi

_MUTATING = {"POST", "PUT", "PATCH", "DELETE"}
_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


class When(StrEnum):
    """Relative to a change: the server has not seen it yet, or has, and nobody heard of it."""

    BEFORE = "before"
    AFTER = "after"


@dataclass(frozen=True)
class Change:
    """A call that changes something, the ``number``-th of all; leases are not counted."""

    number: int
    method: str
    path: str


@dataclass
class KubeProxy:
    """Plain HTTP on loopback, to the server and with the rights of ``api``.

    ``strike`` is asked at each change; when it says yes, the call ends without an answer. While
    ``is_cut``, nobody is answered, and what was open is closed.
    """

    api: KubeApi
    strike: Callable[[Change, When], bool] = lambda *_: False
    is_cut: bool = False
    changes: list[Change] = field(default_factory=list)
    calls: int = 0
    """All calls but watches and leases."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[urllib3.BaseHTTPResponse] = set()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cut()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig that leads through the proxy."""
        url = f"http://127.0.0.1:{self._server.server_address[1]}"
        named = {"name": "p"}
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{**named, "cluster": {"server": url}}],
                    "users": [{**named, "user": {}}],
                    "contexts": [{**named, "context": {"cluster": "p", "user": "p"}}],
                    "current-context": "p",
                }
            )
        )
        return path

    def cut(self) -> None:
        """Close what is open, and answer nobody until ``mend``."""
        self.is_cut = True
        for response in list(self._open):
            with contextlib.suppress(Exception):
                response.shutdown()

    def mend(self) -> None:
        """Answer again."""
        self.is_cut = False

    def note(self, method: str, path: str) -> Change | None:
        """Count a call if it changes something."""
        if method not in _MUTATING or "/leases" in path:
            return None
        with self._lock:
            change = Change(len(self.changes) + 1, method, path.partition("?")[0])
            self.changes.append(change)
        return change

    @contextlib.contextmanager
    def opened(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """Ask the server."""
        response = self.api._pool.request(
            method, f"{self.api._configuration.host}{path}", body=body, headers=headers,
            preload_content=False, retries=False, timeout=urllib3.Timeout(connect=5, read=600),
        )  # fmt: skip
        self._open.add(response)
        try:
            yield response
        finally:
            self._open.discard(response)
            response.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: KubeProxy

    def _any(self) -> None:
        self.close_connection = True
        body = self.rfile.read(int(self.headers.get("content-length") or 0)) or None
        if self.proxy.is_cut:
            return
        if "watch=1" not in self.path and "/leases" not in self.path:
            self.proxy.calls += 1
        change = self.proxy.note(self.command, self.path)
        if change is not None and self.proxy.strike(change, When.BEFORE):
            return
        headers = {k: v for k, v in self.headers.items() if k.lower() not in {*_HOP, "host"}}
        with (
            contextlib.suppress(OSError, urllib3.exceptions.HTTPError),
            self.proxy.opened(self.command, self.path, body, headers) as response,
        ):
            if change is not None:
                answer = response.read()
                if self.proxy.strike(change, When.AFTER):
                    return
                self._head(response)
                self.wfile.write(answer)
                return
            self._head(response, chunked=True)
            for chunk in response.stream(64 << 10):  # each event of a watch as it comes
                self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

    def _head(self, response: urllib3.BaseHTTPResponse, *, chunked: bool = False) -> None:
        self.send_response(response.status)
        for name, value in response.headers.items():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Connection", "close")
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""
