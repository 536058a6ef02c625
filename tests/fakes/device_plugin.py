"""A kubelet device plugin without devices: what it advertises is what the test says.

It speaks the kubelet's gRPC (``v1beta1``) with messages written by hand: they are few, and the
generator of code for them would be one more thing to install.
"""

import contextlib
import queue
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

_PLUGIN, _KUBELET = "v1beta1.DevicePlugin", "v1beta1.Registration"


class FakeDevicePlugin:
    """Advertises devices of one resource, and hands them out as an environment variable."""

    def __init__(self, folder: Path, resource: str, *devices: str, variable: str) -> None:
        """``folder`` is the kubelet's, with ``kubelet.sock`` in it."""
        self.allocated: list[list[str]] = []
        """The devices of each Allocate, in the order in which they came."""
        self._folder = folder
        self._resource = resource
        self._variable = variable
        self._healthy = dict.fromkeys(devices, True)
        self._tell: list[queue.Queue[bool]] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        self._server.add_generic_rpc_handlers((self._handlers(),))
        self._socket = folder / f"{resource.replace('/', '-')}.sock"

    @contextlib.contextmanager
    def running(self) -> Iterator["FakeDevicePlugin"]:
        """Serve, and register with the kubelet."""
        self._socket.unlink(missing_ok=True)
        self._server.add_insecure_port(f"unix:{self._socket}")
        self._server.start()
        try:
            self._register()
            yield self
        finally:
            for waiting in self._tell:
                waiting.put(False)
            self._server.stop(grace=None).wait()
            self._socket.unlink(missing_ok=True)

    def set_health(self, device: str, *, healthy: bool) -> None:
        """Say that a device is, or is not, fit to be used."""
        self._healthy[device] = healthy
        for waiting in self._tell:
            waiting.put(True)

    def _register(self) -> None:
        message = _text(1, "v1beta1") + _text(2, self._socket.name) + _text(3, self._resource)
        with grpc.insecure_channel(f"unix:{self._folder / 'kubelet.sock'}") as channel:
            call: Any = channel.unary_unary(f"/{_KUBELET}/Register")
            call(message, timeout=10, wait_for_ready=True)

    def _handlers(self) -> Any:
        unary = grpc.unary_unary_rpc_method_handler
        return grpc.method_handlers_generic_handler(
            _PLUGIN,
            {
                "GetDevicePluginOptions": unary(lambda *_: b""),
                "ListAndWatch": grpc.unary_stream_rpc_method_handler(self._list_and_watch),
                "Allocate": unary(self._allocate),
                "PreStartContainer": unary(lambda *_: b""),
            },
        )

    def _list_and_watch(self, _: bytes, __: Any) -> Iterator[bytes]:
        changed: queue.Queue[bool] = queue.Queue()
        self._tell.append(changed)
        while True:
            yield b"".join(
                _bytes(1, _text(1, name) + _text(2, "Healthy" if healthy else "Unhealthy"))
                for name, healthy in self._healthy.items()
            )
            if not changed.get():
                return

    def _allocate(self, request: bytes, _: Any) -> bytes:
        answer = b""
        for _number, container in _fields(request):
            devices = [name.decode() for _number, name in _fields(container)]
            self.allocated.append(devices)
            variable = _text(1, self._variable) + _text(2, ",".join(devices))
            answer += _bytes(1, _bytes(1, variable))
        return answer


def _text(number: int, text: str) -> bytes:
    return _bytes(number, text.encode())


def _bytes(number: int, data: bytes) -> bytes:
    """Return one field of a message: its number with the wire type 2, its length, its bytes."""
    return bytes([number << 3 | 2]) + _length(len(data)) + data


def _length(count: int) -> bytes:
    found = b""
    while count > 0x7F:
        found += bytes([count & 0x7F | 0x80])
        count >>= 7
    return found + bytes([count])


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the fields of a message in which all have a length."""
    at = 0
    while at < len(message):
        number, at = message[at] >> 3, at + 1
        count = shift = 0
        while True:
            byte, at = message[at], at + 1
            count |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
        yield number, message[at : at + count]
        at += count
