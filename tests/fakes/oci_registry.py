"""A registry as the OCI distribution specification has it, in memory.

It refuses what real ones refuse (wrong digests, manifests whose blobs it lacks, pieces out of
order), asks who one is, and collects what no tag leads to.
"""

import base64
import hashlib
import json
import re
import uuid
from typing import TYPE_CHECKING, Any

from tests.fakes.web import Handler, WebServer

if TYPE_CHECKING:
    from collections.abc import Callable

INDEX = "application/vnd.oci.image.index.v1+json"
_BLOB = re.compile(r"/v2/(.+)/blobs/(sha256:[0-9a-f]{64})")
_MANIFEST = re.compile(r"/v2/(.+)/manifests/([^/]+)")
_UPLOAD = re.compile(r"/v2/(.+)/blobs/uploads/([^/]*)")


class RegistryHandler(Handler):
    @property
    def registry(self) -> "Registry":
        assert isinstance(self.web, Registry)
        return self.web

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        self.plain = self.path.partition("?")[0]
        if self.registry.may(self):
            return True
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.head(401, 0, {"WWW-Authenticate": self.registry.challenge(self.command)})
        return False

    def do_GET(self) -> None:
        if self.plain == "/token":
            self.registry.token(self)
        elif found := _UPLOAD.fullmatch(self.plain):
            upload = self.registry.uploads.get(found[2])
            if upload is None:
                self.head(404, 0)
            else:
                self.head(204, 0, {"Range": f"0-{max(0, len(upload) - 1)}"})
        else:
            super().do_GET()

    def headers_of(self, path: str) -> dict[str, str]:
        kind = self.registry.types.get(path)
        return {"Content-Type": kind} if kind else {}

    def do_POST(self) -> None:
        found = _UPLOAD.fullmatch(self.plain)
        assert found is not None
        name = uuid.uuid4().hex
        self.registry.uploads[name] = bytearray()
        self.head(202, 0, {"Location": f"/v2/{found[1]}/blobs/uploads/{name}?state=x"})

    def do_PATCH(self) -> None:
        found = _UPLOAD.fullmatch(self.plain)
        assert found is not None
        upload = self.registry.uploads.get(found[2])
        begin, _, _ = self.headers["Content-Range"].partition("-")
        if upload is None or int(begin) != len(upload):
            self._body()
            self.head(404 if upload is None else 416, 0)
            return
        if self.registry.cuts:
            upload += self.rfile.read(self.registry.cuts.pop(0))
            self.hang_up()
            return
        upload += self._body()
        self.head(202, 0, {"Location": f"{self.plain}?state=y", "Range": f"0-{len(upload) - 1}"})

    def do_PUT(self) -> None:
        if found := _UPLOAD.fullmatch(self.plain):
            body, begun = self._body(), self.registry.uploads.pop(found[2], None)
            if begun is None:
                self.head(404, 0)
                return
            data = bytes(begun) + body
            (wanted,) = re.findall(r"digest=(sha256:[0-9a-f]{64})", self.path)
            good = wanted == _digest(data)
            if good:
                self.registry.files[f"/v2/{found[1]}/blobs/{wanted}"] = data
            self.head(201 if good else 400, 0)
        elif found := _MANIFEST.fullmatch(self.plain):
            data = self._body()
            self.head(201 if self.registry.take(found[1], found[2], data, self) else 400, 0)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))


class Registry(WebServer):
    """One registry; ``login`` makes it ask for a name, ``tokens`` for one's token."""

    handler = RegistryHandler

    def __init__(self, login: tuple[str, str] | None = None, *, tokens: bool = False) -> None:
        super().__init__()
        self.uploads: dict[str, bytearray] = {}
        self.types: dict[str, str] = {}
        self.cuts: list[int] = []
        """The next pieces are cut after so many bytes."""
        self.login = login
        self.tokens = tokens
        self.realm: Callable[[], str] = lambda: f"{self.url}/token"
        self._issued: dict[str, str] = {}

    def reference(self, repository: str = "fleet/small", tag: str = "1.0.0") -> str:
        return f"oci+http://{self.host}:{self.port}/{repository}:{tag}"

    def may(self, handler: RegistryHandler) -> bool:
        given = handler.headers.get("Authorization", "")
        if handler.plain == "/token" or (self.login is None and not self.tokens):
            return True
        if self.tokens:
            scope = self._issued.get(given.removeprefix("Bearer "), "")
            return ("push" if handler.command in ("POST", "PATCH", "PUT") else "pull") in scope
        return self._knows(given)

    def challenge(self, method: str) -> str:
        if not self.tokens:
            return 'Basic realm="registry"'
        scope = "pull" if method in ("GET", "HEAD") else "pull,push"
        return f'Bearer realm="{self.realm()}",service="r",scope="repository:fleet/small:{scope}"'

    def token(self, handler: RegistryHandler) -> None:
        if self.login is not None and not self._knows(handler.headers.get("Authorization", "")):
            handler.head(403, 0)
            return
        name = uuid.uuid4().hex
        self._issued[name] = handler.path
        body = json.dumps({"token": name}).encode()
        handler.head(200, len(body))
        handler.put(body)

    def forget_tokens(self) -> None:
        self._issued.clear()

    def _knows(self, given: str) -> bool:
        assert self.login is not None
        return given == "Basic " + base64.b64encode(":".join(self.login).encode()).decode()

    def take(self, repository: str, name: str, data: bytes, handler: RegistryHandler) -> bool:
        """Take a manifest if all that it names is here."""
        found = json.loads(data)
        below = f"/v2/{repository}"
        kind = handler.headers["Content-Type"]
        if kind == INDEX:
            named = [f"{below}/manifests/{entry['digest']}" for entry in found["manifests"]]
        else:
            named = [f"{below}/blobs/{p['digest']}" for p in [found["config"], *found["layers"]]]
        wrong = name.startswith("sha256:") and name != _digest(data)
        if wrong or found["mediaType"] != kind or not set(named) <= set(self.files):
            return False
        for which in (name, _digest(data)):
            self.files[f"{below}/manifests/{which}"] = data
            self.types[f"{below}/manifests/{which}"] = kind
        return True

    def collect(self) -> None:
        """Drop what no tag leads to, as a registry's collector does."""
        kept: set[str] = set()
        for path in list(self.files):
            found = _MANIFEST.fullmatch(path)
            if found is not None and not found[2].startswith("sha256:"):
                self._mark(path, found[1], kept)
        self.files = {path: data for path, data in self.files.items() if path in kept}

    def _mark(self, path: str, repository: str, kept: set[str]) -> None:
        found: dict[str, Any] = json.loads(self.files[path])
        below = f"/v2/{repository}"
        kept |= {path, f"{below}/manifests/{_digest(self.files[path])}"}
        for entry in found.get("manifests", []):
            self._mark(f"{below}/manifests/{entry['digest']}", repository, kept)
        parts = [found["config"], *found["layers"]] if "layers" in found else []
        kept |= {f"{below}/blobs/{part['digest']}" for part in parts}


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
