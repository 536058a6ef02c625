"""A stand-in for Hugging Face's model hub, which no test can reach: its ``resolve`` endpoint.

It answers as the real one does for small files: the commit and the ETag in headers, and 404 with
the code that says what is missing.
"""

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "5f91d94bd9cd7190a9f3216ff93cd1dd95f2c7be"
_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>[^?]+)")


class FakeHub:
    """Files by repository and path, all of one commit that ``main`` names."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], bytes] = {}
        self.commit = COMMIT
        self.requests: list[str] = []

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Serve on loopback; yield what ``HF_ENDPOINT`` would say."""
        hub = self

        class Handler(_Handler):
            fake = hub

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    fake: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""

    def do_GET(self) -> None:
        self.fake.requests.append(f"{self.command} {self.path}")
        found = _RESOLVE.fullmatch(self.path)
        if found is None:
            self._answer(404, b"", {})
            return
        if not any(repo == found["repo"] for repo, _ in self.fake.files):
            self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
            return
        if found["revision"] not in ("main", self.fake.commit):
            self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return
        data = self.fake.files.get((found["repo"], found["file"]))
        if data is None:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        etag = hashlib.sha1(data).hexdigest()  # noqa: S324 - what the real one does for small files
        self._answer(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": self.fake.commit})

    do_HEAD = do_GET  # noqa: N815 - the base finds it by this name

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
