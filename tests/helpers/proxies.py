"""An HTTP proxy that lets through who knows its password, and knows nothing but CONNECT."""

import base64
import socket
import threading
from types import TracebackType
from typing import Self


class Proxy:
    """Use it as a block; ``asked`` is where it was asked to connect to."""

    def __init__(self, user: str, password: str) -> None:
        self._secret = base64.b64encode(f"{user}:{password}".encode())
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self.asked: list[str] = []
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None
    ) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for found in self._open:
            _end(found)
        for thread in self._threads:
            thread.join(10)
        for found in self._open:
            found.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self._open.append(client)
            self._answer(client)

    def _answer(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(1000)
        method, target, _ = head.split(b" ", 2)
        if method != b"CONNECT" or b"Basic " + self._secret not in head:
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            _end(client)
            return
        self.asked.append(target.decode())
        host, _, port = target.decode().rpartition(":")
        server = socket.create_connection((host, int(port)), 10)
        self._open.append(server)
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        for pair in ((client, server), (server, client)):
            thread = threading.Thread(target=_pass_on, args=pair, daemon=True)
            self._threads.append(thread)
            thread.start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    _end(sink)


def _end(found: socket.socket) -> None:
    try:
        found.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
