"""The little plumbing that the gateway, the hub and the local API share: sockets and shutdown."""

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from appliance.errors import AddressBusyError, StateUnusableError, UsageError

_BACKLOG = 512


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a Unix socket, by the kernel's word."""

    pid: int
    uid: int
    gid: int


def listen_tcp(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address; port 0 takes any that is free.

    Raises:
        AddressBusyError: somebody listens there.
        UsageError: the address is not one of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        sock = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{host!r} is not an address: {_why(error)}") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressBusyError(
                f"port {port} on {host} is in use by another program",
                hint=f"name another with --port, or find it: ss -ltnp 'sport = :{port}'",
            ) from error
        raise UsageError(f"cannot listen on {host} port {port}: {_why(error)}") from error
    except OverflowError as error:
        sock.close()
        raise UsageError(f"{port} is not a port", hint="ports go from 0 to 65535") from error
    return sock


def listen_unix(path: Path, mode: int) -> socket.socket:
    """Return a socket that listens at a path; what is left of an earlier one is replaced.

    Raises:
        StateUnusableError: the path cannot be made, or is too long for a socket.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        sock.bind(str(path))
        path.chmod(mode)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise StateUnusableError(
            f"cannot make the socket {path}: {_why(error)}", hint="use a shorter state folder"
        ) from error
    return sock


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def unix_peer(sock: socket.socket) -> Peer | None:
    """Return who connected to a Unix socket; None for other sockets."""
    if sock.family != socket.AF_UNIX:
        return None
    found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return Peer(*struct.unpack("3i", found))


class _PeerProtocol(H11Protocol):
    """Puts the peer of each connection into the scope's state as ``peer``."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "peer": unix_peer(transport.get_extra_info("socket"))}


class _Server(uvicorn.Server):
    """A server that leaves signals to the process that it is only a part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(app: Any, sock: socket.socket, *, grace_s: int = 5) -> None:
    """Serve until cancelled; running requests get ``grace_s`` seconds to end."""
    config = uvicorn.Config(
        app,
        http=_PeerProtocol,
        ws="none",
        proxy_headers=False,
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=grace_s,
    )
    server = _Server(config)
    try:
        serving = asyncio.ensure_future(server.serve(sockets=[sock]))
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            server.should_exit = True
            await serving
            raise
    finally:
        sock.close()


def remove_socket(path: Path) -> None:
    """Remove a Unix socket's file; not being there is not an error."""
    path.unlink(missing_ok=True)
