"""The witness agrees with what is true, and with nothing else."""

import asyncio
import hashlib
import http.client
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from appliance.demo.stack import NODE
from appliance.demo.story import WitnessProcess
from appliance.hub import store
from appliance.hub.migrations import migrations
from appliance.kit.commit import GroupCommit
from appliance.runtime.health import is_ready
from appliance.runtime.profile import Probe
from appliance.sync.batch import Batch
from tests.conftest import need_root
from tests.e2e.conftest import Running, running_stack

pytestmark = pytest.mark.integration


@contextmanager
def judging(found: Running, *, patience_s: int = 3) -> Iterator[WitnessProcess]:
    process = found.witness(patience_s=patience_s)
    try:
        process.command(f"bundle {found.stack.scratch / 'bundle'}")
        yield process
    finally:
        process.end()


@contextmanager
def instead_of_the_gateway(found: Running, handler: type[BaseHTTPRequestHandler]) -> Iterator[None]:
    """A server of our own where the witness looks for the gateway."""
    server = ThreadingHTTPServer((found.stack.at.host, 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    real = found.stack.at
    found.stack.at = replace(real, gateway=server.server_port)
    try:
        yield
    finally:
        found.stack.at = real
        server.shutdown()
        server.server_close()


@contextmanager
def engine_at(found: Running, folder: Path, weights: Path) -> Iterator[None]:
    """An engine that nobody asked the node for, in this folder."""
    folder.mkdir()
    code = (
        "import sys; from appliance.runtime.workers.llama_cpp import prepare; "
        "prepare(sys.argv[1:])()"
    )
    arguments = ["--model", str(weights), "--host", "e.sock", "--alias", "x", "--ctx-size", "256",
                 "--parallel", "1", "--threads", "1", "--no-warmup"]  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=folder) as engine:
        try:
            probe = Probe("/health", 200, 60)
            found.stack.wait("the stranger", lambda: _ready(folder / "e.sock", probe))
            yield
        finally:
            engine.kill()


@contextmanager
def routed_to(found: Running, socket_path: Path) -> Iterator[None]:
    """Lead the gateway to this socket, and to no other."""
    path = found.stack.node_state / "run" / "routes.json"
    before = path.read_bytes()
    snapshot = json.loads(before)
    for route in snapshot["routes"]:
        route["endpoints"] = [{"replica": "stranger-0", "socket": str(socket_path)}]
    _replace(path, json.dumps(snapshot).encode())
    try:
        yield
    finally:
        _replace(path, before)


def weights_by_hand(found: Running, weights: Path, *, indexed: bool) -> Path:
    """Put other weights into the store, under their own digest, as no import did."""
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    layout = found.stack.node_state / "store"
    digest, blob = _put(layout, bytes(data))
    index = json.loads((layout / "index.json").read_text())
    if indexed:
        entry = next(e for e in index["manifests"] if "artifactType" in e)
        manifest = json.loads((layout / "blobs" / "sha256" / entry["digest"][7:]).read_text())
        manifest["layers"][0]["digest"] = digest
        entry["digest"], _ = _put(layout, json.dumps(manifest).encode())
        _replace(layout / "index.json", json.dumps(index).encode())
    return blob


def _put(layout: Path, data: bytes) -> tuple[str, Path]:
    name = hashlib.sha256(data).hexdigest()
    path = layout / "blobs" / "sha256" / name
    path.write_bytes(data)
    return f"sha256:{name}", path


def _replace(path: Path, data: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.chmod(path.stat().st_mode)
    new.replace(path)


@pytest.fixture
def fresh() -> Iterator[Running]:
    need_root()  # to see which files another user's process has mapped
    with running_stack() as found:
        yield found


def findings(process: WitnessProcess) -> str:
    return " | ".join(process.command("verdict")["findings"])


def test_it_agrees_when_all_goes_through(fresh: Running) -> None:
    with judging(fresh) as process:
        process.command("ask 3 stream")
        process.command("ask 2")
        verdict = process.command("verdict")
    assert verdict["ok"], verdict["findings"]
    assert verdict["requests"] == 5
    assert verdict["network_looks"] > 0


def test_requests_past_the_gateway_are_noticed(fresh: Running) -> None:
    """A proxy of one's own that asks the engine and writes no usage record."""
    (engine,) = (fresh.stack.node_state / "run" / "e").glob("*/e.sock")

    class Bypass(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as upstream:
                upstream.connect(str(engine))
                head = f"POST {self.path} HTTP/1.1\r\nHost: e\r\nConnection: close\r\n"
                head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                upstream.sendall(head.encode() + body)
                while data := upstream.recv(65536):
                    self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with instead_of_the_gateway(fresh, Bypass), judging(fresh) as process:
        process.command("ask 1")
        assert "have no usage record" in findings(process)


def test_requests_that_end_badly_are_noticed(fresh: Running) -> None:
    """A proxy of one's own that has the gateway answer, and then says that nobody could."""
    gateway = fresh.stack.at.gateway

    class Refuser(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            upstream = http.client.HTTPConnection(fresh.stack.at.host, gateway)
            upstream.request("POST", self.path, body, dict(self.headers))
            upstream.getresponse().read()
            upstream.close()
            self.send_error(503)

        def log_message(self, *_: object) -> None:
            pass

    with instead_of_the_gateway(fresh, Refuser):
        with judging(fresh) as process:
            process.command("ask 2 stream")
            verdict = process.command("verdict")
        assert verdict["findings"] == ["requests ended badly: {'http 503': 2}"]
        fresh.stack.wait("the hub", fresh.stack.all_acknowledged)


def test_weights_that_no_bundle_brought_are_noticed(
    fresh: Running, demo_weights: Path, tmp_path: Path
) -> None:
    """An engine beside the appliance that opens a file of its own."""
    stranger = tmp_path / "model.gguf"
    stranger.write_bytes(demo_weights.read_bytes())
    folder = fresh.stack.node_state / "run" / "e" / "stranger"
    with engine_at(fresh, folder, stranger), judging(fresh) as process:
        process.command("ask 1")
        found = findings(process)
        assert "which is no blob of the store" in found
        assert "no route leads to the engine" in found


@pytest.mark.parametrize("put_back", [False, True], ids=["at the verdict", "before the verdict"])
def test_a_route_to_an_engine_elsewhere_is_noticed(
    fresh: Running, demo_weights: Path, tmp_path: Path, *, put_back: bool
) -> None:
    """Also when the routes are as they were by the time of the verdict."""
    stranger = tmp_path / "model.gguf"
    stranger.write_bytes(demo_weights.read_bytes())
    folder = tmp_path / "e"
    with engine_at(fresh, folder, stranger), judging(fresh) as process:
        with routed_to(fresh, folder / "e.sock"):
            process.command("ask 1")
            if not put_back:
                found = findings(process)
        if put_back:
            found = findings(process)
        assert "which is no engine's socket" in found
        assert "which is no blob of the store" in found
        assert ("no route leads to the engine" in found) is not put_back


@pytest.mark.parametrize("indexed", [False, True], ids=["a blob alone", "with manifest and index"])
def test_weights_put_into_the_store_by_hand_are_noticed(
    fresh: Running, demo_weights: Path, *, indexed: bool
) -> None:
    """Under their own digest, so that only signatures tell them from what a bundle brought."""
    blob = weights_by_hand(fresh, demo_weights, indexed=indexed)
    folder = fresh.stack.node_state / "run" / "e" / "stranger"
    with engine_at(fresh, folder, blob), judging(fresh) as process:
        process.command("ask 1")
        assert f"maps blob {blob.name}, which no signed list leads to" in findings(process)


def test_a_blob_mapped_for_show_is_noticed(fresh: Running) -> None:
    """A process that listens as an engine does, with one page of the right weights."""
    blobs = (fresh.stack.node_state / "store" / "blobs" / "sha256").iterdir()
    blob = max(blobs, key=lambda path: path.stat().st_size)
    folder = fresh.stack.node_state / "run" / "e" / "decoy"
    folder.mkdir()
    code = (
        "import mmap, socket, sys; blob = open(sys.argv[1], 'rb');"
        "maps = [mmap.mmap(blob.fileno(), 4096, prot=mmap.PROT_READ) for _ in range(100)];"
        "s = socket.socket(socket.AF_UNIX); s.bind('e.sock'); s.listen();"
        "print(flush=True); sys.stdin.read()"
    )
    with other_process(code, str(blob), cwd=folder), judging(fresh) as process:
        process.command("ask 1")
        assert "maps only 0.0% of blob" in findings(process)


@pytest.mark.parametrize("at", ["2020-01-01T00:00:00.000Z", "2037-01-01T00:00:00.000Z"])
def test_records_past_the_broker_are_noticed(fresh: Running, at: str) -> None:
    """A batch written straight into the hub's database, whenever it says that it came."""
    fresh.stack.wait("the hub", fresh.stack.all_acknowledged)
    with judging(fresh) as process:
        process.command("ask 1")
        fresh.stack.wait("the hub", fresh.stack.all_acknowledged)
        fresh.supervisor.stop("hub")
        db = GroupCommit(fresh.stack.hub_state / "hub.db", migrations)
        last = next(p for p in db.read(lambda d: store.positions(d, NODE)) if p.stream == "events")
        record = {"at": "2026-12-01T00:00:00.000Z", "kind": "invented", "body": {}}
        batch = Batch("events", last.epoch, last.upto + 1, last.hash, "f" * 64, (record,))
        db.submit(lambda d: store.ingest(d, NODE, batch, at)).result()
        db.close()
        fresh.supervisor.resume("hub")
        fresh.stack.wait("the hub", lambda: bool(fresh.stack.seen_by_hub()))
        assert "never met the broker" in findings(process)


def test_what_came_while_the_broker_was_down_is_no_offence(fresh: Running) -> None:
    """Records of that time, and those of a hub that was down too."""
    with judging(fresh) as process:
        for names in (["broker"], ["hub"], ["broker", "hub"]):
            for name in names:
                fresh.supervisor.stop(name)
            process.command("ask 1")
            for name in names:
                fresh.supervisor.resume(name)
            fresh.stack.wait("the hub", fresh.stack.all_acknowledged)
        verdict = process.command("verdict")
    assert verdict["ok"], verdict["findings"]


@pytest.mark.parametrize(
    "code",
    [
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('192.0.2.1', 53))",
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b'x', ('192.0.2.1', 9))",
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('0.0.0.0', 0))",
        "s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(('::', 0))",
        "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))",
        "s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)",
        "s = socket.socket(); s.bind(('0.0.0.0', 0)); s.listen()",
    ],
    ids=["connected", "sent to", "bound", "bound to any IPv6", "packet", "raw", "listens"],
)
def test_a_socket_to_elsewhere_is_noticed(running: Running, code: str) -> None:
    """A process of the tree that talks, or could, to an address that is not loopback."""
    code = f"import socket, sys; {code}; print(flush=True); sys.stdin.read()"
    with other_process(code), judging(running, patience_s=0) as process:
        assert "not loopback" in findings(process)


@contextmanager
def other_process(code: str, *arguments: str, cwd: Path | None = None) -> Iterator[None]:
    """A process of the tree that stays once it has done this; skip where it may not do it."""
    command = [sys.executable, "-c", code, *arguments]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True, **pipes) as other:
        try:
            assert other.stdout is not None
            assert other.stderr is not None
            if not other.stdout.readline():
                pytest.skip(f"not on this machine: {other.stderr.read().splitlines()[-1]}")
            yield
        finally:
            other.kill()


def _ready(socket_path: Path, probe: Probe) -> bool:
    return asyncio.run(is_ready(socket_path, probe))
