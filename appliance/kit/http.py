"""HTTP as commands use it, with the standard library alone, so that they start quickly."""

import grp
import http.client
import json
import os
import pwd
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from appliance.errors import (
    ApplianceError,
    ForbiddenError,
    MalformedError,
    NotFoundError,
    PeerUnreachableError,
    SignatureError,
    UsageError,
    from_wire,
)

_PIECE_BYTES = 64 << 10
_NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME."""


class HttpClient:
    """One server; a connection for each request."""

    def __init__(
        self,
        connect: Callable[[], http.client.HTTPConnection],
        who: str,
        hint: str,
        token: str = "",
    ) -> None:
        """``who`` names the server in errors, ``hint`` says what to do when it does not answer.

        Raises:
            UsageError: no header could carry ``token``.
        """
        if not all("!" <= character <= "~" for character in token):
            raise UsageError("the key is not one: it holds something else than letters and signs")
        self._connect = connect
        self._who = who
        self._hint = hint
        self._token = token

    @classmethod
    def over_unix(cls, path: Path, who: str, hint: str, timeout_s: float) -> "HttpClient":
        """Return a client of a server on a Unix socket."""
        return cls(lambda: _UnixConnection(path, timeout_s), f"{who} at {path}", hint)

    @classmethod
    def over_tcp(
        cls, url: str, who: str, hint: str, token: str = "", ca: Sequence[str] = ()
    ) -> "HttpClient":
        """Return a client of the server at ``http://HOST:PORT`` or ``https://HOST:PORT``.

        A certificate is verified without its dates, for a clock may be wrong. ``ca`` are
        authorities in PEM to trust beside the system's.

        Raises:
            UsageError: it is not such a URL.
        """
        refused = UsageError(
            f"{url!r} is not the address of {who}", hint="http://HOST:PORT or https://HOST:PORT"
        )
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:  # a port or a bracket that makes no sense
            raise refused from error
        if parts.scheme not in ("http", "https") or not host:
            raise refused

        def connect() -> http.client.HTTPConnection:
            if parts.scheme == "http":
                return http.client.HTTPConnection(host, port, timeout=180)
            context = ssl.create_default_context()
            if ca:
                context.load_verify_locations(cadata="\n".join(ca))
            context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
            return http.client.HTTPSConnection(host, port, timeout=180, context=context)

        return cls(connect, f"{who} at {url}", hint, token)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the JSON object that answers one request.

        Raises:
            ApplianceError: what the server answered, as its own family.
            PeerUnreachableError: it did not answer.
        """
        answers = list(self.objects(method, path, body))
        return answers[-1] if answers else {}

    def objects(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the JSON objects of an answer, one for each line, as they arrive.

        Raises:
            ApplianceError: as ``call``; it may come after some objects.
        """
        for line in self.lines(method, path, body):
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise MalformedError(f"{self._who} answered something that is not JSON") from error
            if not isinstance(found, dict):
                raise MalformedError(f"{self._who} answered something that is not a JSON object")
            if "error" in found:
                raise _error(found["error"], 500)
            yield found

    def lines(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        more_headers: Mapping[str, str] | None = None,
    ) -> Iterator[str]:
        """Yield the lines of an answer as they arrive, without their ends.

        Raises:
            ApplianceError: the answer is an error.
            ForbiddenError: it is a socket that we may not open.
            PeerUnreachableError: there is none, or it broke off.
        """
        connection = self._connect()
        headers = {"Content-Type": "application/json", **(more_headers or {})}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            if response.status >= 400:
                raise _parsed_error(response.read(), response.status)
            for line in _lines(response):
                yield line.decode(errors="replace").rstrip("\r")
        except (OSError, http.client.HTTPException) as error:
            why = str(error) or type(error).__name__
            raise PeerUnreachableError(f"{self._who}: {why}", hint=self._hint) from error
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._path))
        except PermissionError as error:
            raise not_permitted(self._path) from error


def not_permitted(path: Path) -> ForbiddenError:
    """Return the error that we may not open a socket; it says who may, as far as that shows."""
    try:
        found = path.stat()
    except OSError:
        who = f"root, or somebody who may enter {path.parent}"
    else:
        user, group = _name_of(pwd.getpwuid, found.st_uid), _name_of(grp.getgrgid, found.st_gid)
        who = " or ".join(dict.fromkeys(["root", user])) + f", or a member of the group {group}"
    return ForbiddenError(
        f"uid {os.geteuid()} may not open the socket {path}", hint=f"run it as {who}"
    )


def _name_of(look: Callable[[int], Sequence[Any]], number: int) -> str:
    """Return the name of a user or group; its number where it has none."""
    try:
        return str(look(number)[0])
    except KeyError:
        return str(number)


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield lines; where the response's own iterator just ends, a break is an error here."""
    rest = b""
    while piece := response.read1(_PIECE_BYTES):
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
    if response.length:  # so much was announced and did not come
        raise http.client.IncompleteRead(rest, response.length)
    if rest:
        yield rest


def _parsed_error(data: bytes, status: int) -> ApplianceError:
    try:
        found = json.loads(data)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        found = {"message": f"HTTP status {status}"}
    return _error(found, status)


def _error(found: object, status: int) -> ApplianceError:
    """Return an error of ours, one in the shape of OpenAI's, or a bare text, as an exception."""
    if not isinstance(found, dict):
        found = {"message": found}
    if "what" in found:
        return from_wire(found)
    families = {401: SignatureError, 403: SignatureError, 404: NotFoundError}
    family = families.get(status, PeerUnreachableError if status >= 500 else UsageError)
    return family(str(found.get("message")))
