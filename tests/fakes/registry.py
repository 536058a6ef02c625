"""A registry in memory: the part of the OCI distribution specification 1.1 that pull and push use.

It stands in for a real registry, which no test of this project can reach: manifests by tag and
digest, blobs with ranges, uploads in one piece or in several, referrers, and tokens when asked to.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_NAME = r"/v2/(?P<name>[a-z0-9][a-z0-9._/-]*)"
_MANIFEST = re.compile(_NAME + r"/manifests/(?P<reference>[A-Za-z0-9._:-]+)")
_BLOB = re.compile(_NAME + r"/blobs/(?P<digest>sha256:[0-9a-f]{64})")
_UPLOAD = re.compile(_NAME + r"/blobs/uploads/(?P<upload>[0-9]*)")
_REFERRERS = re.compile(_NAME + r"/referrers/(?P<digest>sha256:[0-9a-f]{64})")
_TAGS = re.compile(_NAME + r"/tags/list")


class FakeRegistry:
    """Use ``with registry.serving()``; what it holds can be read and changed at any time."""

    def __init__(self, token: str | None = None) -> None:
        """With ``token``, every request must carry it, and ``/token`` hands it out."""
        self.token = token
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        """By repository and tag or digest: media type and bytes."""
        self.cuts: dict[str, int] = {}
        """After how many bytes the next answer with this blob breaks off."""
        self.requests: list[str] = []
        """Method and path of each request, in order."""
        self.uploads: dict[str, bytearray] = {}
        self._server: ThreadingHTTPServer | None = None

    @property
    def host(self) -> str:
        """``127.0.0.1:PORT``, as a reference begins."""
        assert self._server is not None, "the registry does not serve"
        return f"127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def serving(self) -> Iterator["FakeRegistry"]:
        """Serve on loopback."""
        registry = self

        class Handler(_Handler):
            fake = registry

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()
            self._server = None

    def put_blob(self, data: bytes) -> str:
        """Hold a blob; return its digest."""
        found = digest_of(data)
        self.blobs[found] = data
        return found

    def put_manifest(self, name: str, manifest: bytes, tag: str | None = None) -> str:
        """Hold a manifest under its digest, and under a tag; return the digest."""
        found = digest_of(manifest)
        kind = json.loads(manifest).get("mediaType", MANIFEST_TYPE)
        for reference in (found, tag):
            if reference is not None:
                self.manifests[name, reference] = kind, manifest
        return found

    def put_layout(self, folder: Path, name: str, tag: str) -> str:
        """Hold all of an OCI layout; tag its first manifest, and return that one's digest."""
        index = json.loads((folder / "index.json").read_bytes())
        manifests = {entry["digest"] for entry in index["manifests"]}
        for path in (folder / "blobs" / "sha256").iterdir():
            data = path.read_bytes()
            self.put_blob(data)
            if data.startswith(b"{") and b'"schemaVersion"' in data:
                manifests.add(digest_of(data))
        for found in manifests:
            self.put_manifest(name, self.blobs[found])
        first: str = index["manifests"][0]["digest"]
        self.put_manifest(name, self.blobs[first], tag)
        return first


class _Handler(BaseHTTPRequestHandler):
    fake: FakeRegistry
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""

    def do_GET(self) -> None:
        if self.path.startswith("/token"):
            self._answer(200, json.dumps({"token": self.fake.token}).encode(), "application/json")
        elif self._admitted():
            self._get()

    do_HEAD = do_GET  # noqa: N815 - the base finds it by this name

    def do_POST(self) -> None:
        if not self._admitted():
            return
        found = _UPLOAD.fullmatch(urlsplit(self.path).path)
        if found is None:
            self._refuse(404, "NAME_UNKNOWN")
            return
        upload = str(len(self.fake.uploads) + 1)
        self.fake.uploads[upload] = bytearray(self._body())
        query = parse_qs(urlsplit(self.path).query)
        if "digest" in query:
            self._finish(found["name"], upload, query["digest"][0])
        else:
            self._uploading(found["name"], upload)

    def do_PATCH(self) -> None:
        found = _UPLOAD.fullmatch(urlsplit(self.path).path)
        if not self._admitted() or found is None:
            return
        self.fake.uploads[found["upload"]] += self._body()
        self._uploading(found["name"], found["upload"])

    def do_PUT(self) -> None:
        if not self._admitted():
            return
        parts = urlsplit(self.path)
        if found := _UPLOAD.fullmatch(parts.path):
            self.fake.uploads[found["upload"]] += self._body()
            self._finish(found["name"], found["upload"], parse_qs(parts.query)["digest"][0])
        elif found := _MANIFEST.fullmatch(parts.path):
            self._put_manifest(found["name"], found["reference"], self._body())

    def _get(self) -> None:
        path = urlsplit(self.path).path
        if path == "/v2/":
            self._answer(200, b"{}", "application/json")
        elif found := _MANIFEST.fullmatch(path):
            held = self.fake.manifests.get((found["name"], found["reference"]))
            if held is None:
                self._refuse(404, "MANIFEST_UNKNOWN")
            else:
                self._answer(200, held[1], held[0], digest_of(held[1]))
        elif found := _BLOB.fullmatch(path):
            self._blob(found["digest"])
        elif found := _REFERRERS.fullmatch(path):
            self._answer(200, self._referrers(found["name"], found["digest"]), INDEX_TYPE)
        elif found := _TAGS.fullmatch(path):
            name = found["name"]
            tags = sorted(t for n, t in self.fake.manifests if n == name and ":" not in t)
            self._answer(200, json.dumps({"name": name, "tags": tags}).encode(), "application/json")
        else:
            self._refuse(404, "NAME_UNKNOWN")

    def _admitted(self) -> bool:
        self.fake.requests.append(f"{self.command} {self.path}")
        token = self.fake.token
        if token is None or self.headers.get("Authorization") == f"Bearer {token}":
            return True
        self._body()
        challenge = f'Bearer realm="http://{self.fake.host}/token",service="fake",scope="pull"'
        self._refuse(401, "UNAUTHORIZED", {"WWW-Authenticate": challenge})
        return False

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _blob(self, digest: str) -> None:
        data = self.fake.blobs.get(digest)
        if data is None:
            self._refuse(404, "BLOB_UNKNOWN")
            return
        status, headers = 200, {}
        if found := re.fullmatch(r"bytes=([0-9]+)-([0-9]*)", self.headers.get("Range", "")):
            first, last = int(found[1]), int(found[2] or len(data) - 1)
            if first >= len(data):
                self._refuse(416, "RANGE_INVALID", {"Content-Range": f"bytes */{len(data)}"})
                return
            status = 206
            headers["Content-Range"] = f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}"
            data = data[first : last + 1]
        cut = self.fake.cuts.pop(digest, None) if self.command == "GET" else None
        self._answer(status, data, "application/octet-stream", digest, headers, cut)

    def _referrers(self, name: str, digest: str) -> bytes:
        entries = []
        for (repository, reference), (kind, data) in self.fake.manifests.items():
            manifest: dict[str, Any] = json.loads(data)
            subject = manifest.get("subject") or {}
            if repository == name and ":" in reference and subject.get("digest") == digest:
                entry = {"mediaType": kind, "digest": reference, "size": len(data)}
                entry["artifactType"] = manifest.get("artifactType")
                entries.append({**entry, "annotations": manifest.get("annotations", {})})
        return json.dumps(
            {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}
        ).encode()

    def _put_manifest(self, name: str, reference: str, data: bytes) -> None:
        manifest: dict[str, Any] = json.loads(data)
        wanted = [manifest.get("config"), *manifest.get("layers", ())]
        if any(entry and entry["digest"] not in self.fake.blobs for entry in wanted):
            self._refuse(400, "MANIFEST_BLOB_UNKNOWN")
            return
        if ":" in reference and reference != digest_of(data):
            self._refuse(400, "DIGEST_INVALID")
            return
        kind = self.headers.get("Content-Type", MANIFEST_TYPE)
        for one in (reference, digest_of(data)):
            self.fake.manifests[name, one] = kind, data
        self._made(f"/v2/{name}/manifests/{reference}", digest_of(data))

    def _uploading(self, name: str, upload: str) -> None:
        held = len(self.fake.uploads[upload])
        headers = {"Location": f"/v2/{name}/blobs/uploads/{upload}"}
        self._answer(202, b"", headers={**headers, "Range": f"0-{max(0, held - 1)}"})

    def _finish(self, name: str, upload: str, digest: str) -> None:
        data = bytes(self.fake.uploads.pop(upload))
        if digest_of(data) != digest:
            self._refuse(400, "DIGEST_INVALID")
            return
        self.fake.blobs[digest] = data
        self._made(f"/v2/{name}/blobs/{digest}", digest)

    def _made(self, location: str, digest: str) -> None:
        self._answer(201, b"", digest=digest, headers={"Location": location})

    def _refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        body = json.dumps({"errors": [{"code": code, "message": code.lower()}]}).encode()
        self._answer(status, body, "application/json", headers=headers)

    def _answer(
        self,
        status: int,
        body: bytes,
        kind: str = "text/plain",
        digest: str | None = None,
        headers: dict[str, str] | None = None,
        cut: int | None = None,
    ) -> None:
        own = {"Content-Type": kind, "Content-Length": str(len(body))}
        if digest is not None:
            own["Docker-Content-Digest"] = digest
        self.send_response(status)
        for name, value in {**own, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
