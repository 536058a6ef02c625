"""The only door to the ``kubernetes`` library: one API server, by blocking calls on plain JSON.

The library loads kubeconfigs and in-cluster credentials and renews tokens. Its typed models are
passed over: they cost more memory than a whole site's objects, and drop fields that they do not
know. Foreign exceptions end here.
"""

import builtins
import contextlib
import json
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import kubernetes.client
import kubernetes.config
import urllib3
import yaml
from urllib3.response import BaseHTTPResponse

from appliance.errors import (
    ApplianceError,
    BadDocumentError,
    NotFoundError,
    PeerUnreachableError,
    StateUnusableError,
)
from appliance.kube.errors import ConflictError, ExistsError, ForbiddenError, GoneError

log = logging.getLogger(__name__)

Json = dict[str, Any]

_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_MOST_LINE = 8 << 20
_RUBBISH = (yaml.YAMLError, OSError, ValueError, TypeError, KeyError, AttributeError)
"""What the library raises for a kubeconfig that makes no sense."""
_NO_SUCH_FIELDS = "failed to create typed patch object"
"""How servers before 1.21 refuse an apply that does not fit the schema: with a 500."""


_Stamp = tuple[int, int, int]


class KubeApi:
    """One API server. Every method blocks: call it from a thread.

    All raise PeerUnreachableError when nobody answers, or the server is too busy or broken to;
    ForbiddenError when it says no; BadDocumentError with the server's words for what it finds
    wrong in a body.
    """

    def __init__(
        self, configuration: "kubernetes.client.Configuration", manager: str, timeout_s: float
    ) -> None:
        self.manager = manager
        self.calls = 0
        """Requests sent so far; watches and leases are not counted."""
        self._configuration = configuration
        self._client = kubernetes.client.ApiClient(configuration)
        self._pool: urllib3.PoolManager = self._client.rest_client.pool_manager
        self._timeout_s = timeout_s
        self._counting = threading.Lock()
        self._file: Path | None = None
        self._stamp: _Stamp | None = None

    @classmethod
    def connect(
        cls, kubeconfig: Path | None, *, manager: str, timeout_s: float = 10, pool: int = 32
    ) -> Self:
        """Read how to reach a server; nothing is sent yet.

        Args:
            kubeconfig: A kubeconfig file; None takes what a pod finds in its file system.
            manager: The field manager of server-side apply, unless a call names another.
            timeout_s: How long a call may wait for its answer.
            pool: Connections that are kept open; more than this many calls at once wait.

        Raises:
            NotFoundError: the file is not there, or this is no pod.
            StateUnusableError: the file says nothing that can be used.
        """
        stamp = _stamp(kubeconfig)
        made = cls(_configuration(kubeconfig, pool), manager, timeout_s)
        made._file, made._stamp = kubeconfig, stamp
        return made

    def _renew(self) -> None:
        """Read the kubeconfig again when somebody has replaced it: tokens and certificates end."""
        with self._counting:
            stamp = _stamp(self._file)
            if stamp is None or stamp == self._stamp:
                return
            self._stamp = stamp
        pool = self._configuration.connection_pool_maxsize
        try:
            configuration = _configuration(self._file, pool)
            client = kubernetes.client.ApiClient(configuration)
        except (ApplianceError, OSError, ValueError) as error:
            log.warning("%s was replaced and cannot be used: %s", self._file, error)
            return
        log.info("%s was replaced: it is in use from now on", self._file)
        self._configuration, self._client = configuration, client
        self._pool = client.rest_client.pool_manager

    def get(self, path: str) -> Json:
        """Return one object, or whatever JSON is at a path.

        Raises:
            NotFoundError: it is not there.
        """
        return self._call("GET", path)

    def text(self, path: str, **query: str) -> str:
        """Return what is not JSON, such as a container's log."""
        return self._read("GET", path, query).decode("utf-8", "replace")

    def list(
        self, path: str, *, labels: str = "", fields: str = "", page: int = 500
    ) -> tuple[list[Json], str]:
        """Return all objects, page by page, and the version to watch from.

        Raises:
            NotFoundError: the server has no such kind.
        """
        while True:
            items, version = list[Json](), ""
            try:
                for found, version in self.pages(path, labels=labels, fields=fields, page=page):  # noqa: B007
                    items += found
            except GoneError:
                continue
            return items, version

    def pages(
        self, path: str, *, labels: str = "", fields: str = "", page: int = 500
    ) -> Iterator[tuple[builtins.list[Json], str]]:
        """Yield all objects page by page, each with the version to watch from.

        Raises:
            NotFoundError: the server has no such kind.
            GoneError: reading took so long that the rest is forgotten: begin again.
        """
        query = {**_selection(labels, fields), "limit": str(page)}
        while True:
            found = self._call("GET", path, query)
            meta = found["metadata"]
            yield found.pop("items", None) or [], meta["resourceVersion"]
            if not meta.get("continue"):
                return
            query["continue"] = meta["continue"]

    def watch(
        self, path: str, since: str, *, labels: str = "", fields: str = "", timeout_s: float = 300
    ) -> "Watch":
        """Begin a watch at a version that ``list`` or an event named.

        The events are ``{"type": ..., "object": ...}``, bookmarks among them. It ends by itself
        after ``timeout_s``.

        Raises:
            GoneError: the server has forgotten that version.
        """
        query = {
            **_selection(labels, fields),
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": since,
            "timeoutSeconds": str(int(timeout_s)),
        }
        return Watch(self._open("GET", path, query, timeout_s + 30), path)

    def apply(self, path: str, body: Json, *, manager: str = "", force: bool = False) -> Json:
        """Apply by server-side apply; ``force`` takes fields over from other managers.

        Raises:
            ConflictError: other managers own the ``fields`` that it names.
        """
        query = {"fieldManager": manager or self.manager, "force": "true" if force else "false"}
        return self._call("PATCH", path, query, body, _APPLY)

    def create(self, path: str, body: Json, *, manager: str = "") -> Json:
        """Create an object.

        Raises:
            ExistsError: there is one of this name.
        """
        return self._call("POST", path, {"fieldManager": manager or self.manager}, body)

    def replace(self, path: str, body: Json) -> Json:
        """Replace an object at the version that its body names.

        Raises:
            ConflictError: it has changed since.
            NotFoundError: it is gone.
        """
        return self._call("PUT", path, {"fieldManager": self.manager}, body)

    def merge(self, path: str, body: Json) -> Json:
        """Change an object by a JSON merge patch (RFC 7386).

        Raises:
            NotFoundError: it is not there.
        """
        return self._call("PATCH", path, {"fieldManager": self.manager}, body, _MERGE)

    def delete(self, path: str, *, uid: str = "") -> bool:
        """Delete an object, and in the background what it owns; return whether it was there.

        Args:
            path: Where it is.
            uid: Only this very object, not a later one of the same name.
        """
        body: Json = {"propagationPolicy": "Background"}
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            self._call("DELETE", path, None, body)
        except NotFoundError:
            return False
        except ConflictError:
            if uid:
                return False
            raise
        return True

    def close(self) -> None:
        """Close idle connections."""
        self._pool.clear()

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        content: str = "application/json",
    ) -> Json:
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        answer = self._read(method, path, query or {}, data, content)
        try:
            found: Json = json.loads(answer)
        except ValueError as error:
            raise PeerUnreachableError(f"{path}: the answer is not JSON") from error
        return found

    def _read(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        data: bytes | None = None,
        content: str = "",
    ) -> bytes:
        if "/leases" not in path:
            with self._counting:
                self.calls += 1
        with (
            _translated(path),
            self._open(method, path, query, self._timeout_s, data, content) as (response),
        ):
            return response.read()

    def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        read_s: float,
        data: bytes | None = None,
        content: str = "",
    ) -> BaseHTTPResponse:
        self._renew()
        headers = {"Accept": "application/json", "User-Agent": self.manager}
        if data is not None:
            headers["Content-Type"] = content
        auth: Mapping[str, Any] = self._configuration.auth_settings()
        headers |= {found["key"]: found["value"] for found in auth.values()}
        with _translated(path):
            response = self._pool.request(
                method,
                f"{self._configuration.host}{path}" + (f"?{urlencode(query)}" if query else ""),
                body=data,
                headers=headers,
                timeout=urllib3.Timeout(connect=self._timeout_s, read=read_s),
                retries=False,
                preload_content=False,
            )
            if response.status < 400:
                return response
            with response:
                said = response.read(1 << 20)
        raise _refusal(f"{method} {path}", response.status, said)


def _stamp(kubeconfig: Path | None) -> _Stamp | None:
    """Return what changes when a file is replaced; None while it is not there."""
    try:
        found = None if kubeconfig is None else kubeconfig.stat()
    except OSError:
        return None
    return None if found is None else (found.st_ino, found.st_mtime_ns, found.st_size)


def _configuration(kubeconfig: Path | None, pool: int) -> "kubernetes.client.Configuration":
    configuration = kubernetes.client.Configuration()
    configuration.connection_pool_maxsize = pool
    where = "this pod" if kubeconfig is None else str(kubeconfig)
    try:
        if kubeconfig is None:
            kubernetes.config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
        else:
            if not kubeconfig.is_file():
                raise NotFoundError(
                    f"there is no kubeconfig at {kubeconfig}",
                    hint="set kubernetes.kubeconfig in the settings, or KUBECONFIG",
                )
            kubernetes.config.load_kube_config(  # type: ignore[no-untyped-call]
                str(kubeconfig), client_configuration=configuration
            )
    except kubernetes.config.ConfigException as error:
        raise StateUnusableError(f"{where} does not say how to reach a cluster: {error}") from error
    except _RUBBISH as error:  # its text is not told: it may quote a secret
        kind = type(error).__name__
        raise StateUnusableError(
            f"{where} does not say how to reach a cluster: it cannot be read ({kind})"
        ) from None
    return configuration


class Watch:
    """The events of one watch, as they come. ``close`` ends it from another thread."""

    def __init__(self, response: BaseHTTPResponse, path: str) -> None:
        self._response = response
        self._path = path
        self._closed = False

    def __iter__(self) -> Iterator[Json]:
        """Yield events until the server, or ``close``, ends it.

        Raises:
            GoneError: the server has forgotten the version that was asked for.
            PeerUnreachableError: the connection broke.
        """
        try:
            with _translated(self._path), self._response:
                for line in self._lines():
                    event: Json = json.loads(line)
                    if event["type"] == "ERROR":
                        status = event["object"]
                        raise _refusal(f"WATCH {self._path}", status.get("code") or 500, line)
                    yield event
        except PeerUnreachableError:
            if not self._closed:
                raise

    def _lines(self) -> Iterator[bytes]:
        rest = b""
        while chunk := self._response.read1(64 << 10):  # what is there, and no wait for more
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line for line in lines if line.strip())
            if len(rest) > _MOST_LINE:
                raise PeerUnreachableError(f"{self._path}: an event is larger than 8 MiB")

    def close(self) -> None:
        """End it, also while another thread waits for its next event."""
        self._closed = True
        with contextlib.suppress(ValueError, RuntimeError, OSError):
            self._response.shutdown()  # wakes a blocked read, which close alone does not


@contextmanager
def _translated(path: str) -> Iterator[None]:
    """Let no exception of urllib3 out."""
    try:
        yield
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise PeerUnreachableError(
            f"the API server does not answer ({path}): {error}",
            hint="what serves goes on serving; this is tried again",
        ) from error


def _refusal(doing: str, status: int, body: bytes) -> Exception:
    """Return what an answer of 400 and above means."""
    try:
        said: Json = json.loads(body)
        said = said.get("object", said)
    except ValueError:
        said = {}
    text = str(said.get("message") or body[:300].decode("utf-8", "replace").strip() or status)
    details = said.get("details") or {}
    if status == 410:
        return GoneError(text)
    if status == 404:
        return NotFoundError(text)
    if status in (401, 403):
        return ForbiddenError(f"{doing}: {text}", hint="see the Roles in manifests/base/rbac")
    if status == 409:
        kind = ExistsError if said.get("reason") == "AlreadyExists" else ConflictError
        return kind(text, fields=[str(c.get("field")) for c in details.get("causes") or ()])
    if status in (400, 405, 413, 415, 422) or _NO_SUCH_FIELDS in text:
        return BadDocumentError(text)
    return PeerUnreachableError(f"{doing}: the API server answered {status}: {text}")


def _selection(labels: str, fields: str) -> dict[str, str]:
    chosen = {"labelSelector": labels, "fieldSelector": fields}
    return {name: value for name, value in chosen.items() if value}
