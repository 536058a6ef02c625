"""Sockets that are busy, too long or not ours are errors that say what to do."""

import asyncio
import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import AddressBusyError, StateUnusableError, UsageError
from appliance.kit import asgi
from appliance.kit.asgi import Peer
from appliance.kit.http import HttpClient


def test_a_busy_port_is_its_own_error_and_says_how_to_find_who_has_it() -> None:
    with asgi.listen_tcp("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(AddressBusyError, match=f"port {port} on 127.0.0.1") as caught:
            asgi.listen_tcp("127.0.0.1", port)
    assert caught.value.exit_code == 4
    assert str(port) in str(caught.value.hint)
    asgi.listen_tcp("127.0.0.1", port).close()


@pytest.mark.parametrize(
    ("host", "port"),
    [("192.0.2.1", 0), ("not a host", 0), ("..", 0), ("x" * 64, 0), ("127.0.0.1", 65536)],
)
def test_an_address_that_is_not_of_this_machine_is_a_usage_error(host: str, port: int) -> None:
    with pytest.raises(UsageError):
        asgi.listen_tcp(host, port)


def test_a_unix_socket_replaces_what_an_earlier_one_left(tmp_path: Path) -> None:
    path = tmp_path / "s"
    for _ in range(2):
        asgi.listen_unix(path, 0o660).close()
    assert path.stat().st_mode & 0o777 == 0o660
    asgi.remove_socket(path)
    asgi.remove_socket(path)
    assert not path.exists()


def test_a_path_that_is_too_long_for_a_socket_says_so(tmp_path: Path) -> None:
    with pytest.raises(StateUnusableError, match="path too long") as caught:
        asgi.listen_unix(tmp_path / ("x" * 108), 0o660)
    assert caught.value.hint == "use a shorter state folder"


def test_a_folder_that_is_not_there_takes_no_socket(tmp_path: Path) -> None:
    with pytest.raises(StateUnusableError, match="No such file"):
        asgi.listen_unix(tmp_path / "none" / "s", 0o660)


def test_the_kernel_says_who_is_at_the_other_end(tmp_path: Path) -> None:
    with (
        asgi.listen_unix(tmp_path / "s", 0o600) as listener,
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.connect(str(tmp_path / "s"))
        with listener.accept()[0] as server:
            assert asgi.unix_peer(server) == Peer(os.getpid(), os.getuid(), os.getgid())
    with socket.socket() as other:
        assert asgi.unix_peer(other) is None


async def who(scope: dict[str, Any], _receive: Any, send: Any) -> None:
    """Answer with the peer that the server put into the scope."""
    peer = scope["state"]["peer"]
    body = json.dumps({"pid": peer and peer.pid}).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def serving(sock: socket.socket, app: Any = who) -> Any:
    task = asyncio.create_task(asgi.serve(app, sock))
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def test_each_request_carries_the_peer_of_its_own_connection(tmp_path: Path) -> None:
    async def scenario() -> list[dict[str, Any]]:
        unix = asgi.listen_unix(tmp_path / "s", 0o600)
        tcp = asgi.listen_tcp("127.0.0.1", 0)
        url = f"http://127.0.0.1:{tcp.getsockname()[1]}"
        clients = [
            HttpClient.over_unix(tmp_path / "s", "it", "", 10),
            HttpClient.over_tcp(url, "it", ""),
        ]
        async with serving(unix), serving(tcp):
            return [await asyncio.to_thread(client.call, "GET", "/") for client in clients]

    assert asyncio.run(scenario()) == [{"pid": os.getpid()}, {"pid": None}]


def test_a_request_under_way_is_answered_before_the_server_ends(tmp_path: Path) -> None:
    async def scenario() -> dict[str, Any]:
        sock = asgi.listen_unix(tmp_path / "s", 0o600)
        client = HttpClient.over_unix(tmp_path / "s", "it", "", 10)
        began = asyncio.Event()

        async def slow(scope: dict[str, Any], receive: Any, send: Any) -> None:
            began.set()
            await asyncio.sleep(0.05)
            await who(scope, receive, send)

        async with serving(sock, slow):
            asked = asyncio.create_task(asyncio.to_thread(client.call, "GET", "/"))
            await asyncio.wait_for(began.wait(), 10)
        assert sock.fileno() == -1
        return await asked

    assert asyncio.run(scenario()) == {"pid": os.getpid()}
